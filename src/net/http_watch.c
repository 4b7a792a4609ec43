/* http_watch.c - the watcher: one thread in poll() over the connections whose requests wait.
 *
 * libmicrohttpd does not look at a suspended connection, so it does not notice that its client has
 * left; and its timeout counts inactivity, so a client that dribbles one header line per second
 * never times out. The watcher does both, and the lingering close (see http_internal.h):
 *
 *     poll set: [0] wake pipe | sockets of waiting requests: hang-up | lingering: readable
 *     timeout:  the earliest deadline of all connections
 *
 * The set is rebuilt under server.lock before each poll and matched by position after it, so a
 * connection that was removed meanwhile is simply not found. A deadline that passes shuts the
 * socket down, upon which libmicrohttpd closes it.
 */
#define _GNU_SOURCE /* POLLRDHUP */
#include "net/http_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#ifdef POLLRDHUP
#define POLL_HANGUP POLLRDHUP
#else
#define POLL_HANGUP POLLIN
#endif

/* Has the peer closed, or closed its sending half? Without POLLRDHUP a readable socket is asked;
 * pipelined bytes then hide the hang-up until they are read. */
static bool has_hung_up(int fd, short revents) {
#ifdef POLLRDHUP
    (void)fd;
    return (revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
#else
    char byte;
    if (revents & (POLLHUP | POLLERR | POLLNVAL))
        return true;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
#endif
}

void mlxd_http_watch_wake(mlxd_http *h, uint64_t at_ns) {
    if (at_ns >= h->wake_at_ns)
        return;
    h->wake_at_ns = 0;
    char byte = 0;
    ssize_t n = write(h->wake_fd[1], &byte, 1);
    MLXD_ASSERT(n == 1 || errno == EAGAIN || errno == EINTR); /* full: it will wake */
}

void mlxd_http_watch_linger(mlxd_http *h, int fd) {
    if (h->lingers_len == MLXD_HTTP_LINGER_MAX || h->stopping)
        return;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return; /* it is a courtesy */
    (void)shutdown(copy, SHUT_WR);
    mlxd_http_linger *l = &h->lingers[h->lingers_len++];
    *l = (mlxd_http_linger){
        .fd = copy,
        .deadline_ns = mlxd_clock_now_ns() + MLXD_HTTP_LINGER_MS * MLXD_NS_PER_MS,
    };
    mlxd_http_watch_wake(h, 0);
}

/* ---- one round: build, poll, look ---- */

static size_t build(mlxd_http *h, uint64_t *deadline_ns) {
    size_t n = 1;
    uint64_t first = UINT64_MAX;
    h->polls[0] = (struct pollfd){.fd = h->wake_fd[0], .events = POLLIN};
    for (mlxd_http_slot *s = h->slots; s; s = s->next) {
        s->poll_index = 0;
        if (s->deadline_ns)
            first = MLXD_MIN(first, s->deadline_ns);
        if (!s->req || s->hung_up)
            continue;
        h->polls[n] = (struct pollfd){.fd = s->fd, .events = POLL_HANGUP};
        s->poll_index = n++;
    }
    for (size_t i = 0; i < h->lingers_len; i++) {
        const mlxd_http_linger *l = &h->lingers[i];
        first = MLXD_MIN(first, l->deadline_ns);
        h->polls[n] = (struct pollfd){.fd = l->fd, .events = POLLIN};
        n++;
    }
    MLXD_ASSERT(n <= (size_t)h->config.connections_max + MLXD_HTTP_LINGER_MAX + 1);
    *deadline_ns = first;
    return n;
}

static int timeout_ms(uint64_t deadline_ns) {
    if (deadline_ns == UINT64_MAX)
        return -1;
    uint64_t now = mlxd_clock_now_ns();
    if (deadline_ns <= now)
        return 0;
    uint64_t ms = (deadline_ns - now) / MLXD_NS_PER_MS + 1;
    return ms > 3600000 ? 3600000 : (int)ms;
}

/* Notes hang-ups in h->hung_up (each with a reference) and acts on deadlines. */
static size_t look_at_slots(mlxd_http *h, uint64_t now_ns) {
    size_t n = 0;
    for (mlxd_http_slot *s = h->slots; s; s = s->next) {
        if (s->poll_index && s->req && h->polls[s->poll_index].revents) {
            s->hung_up = true; /* watched no more, whatever it was */
            if (has_hung_up(s->fd, h->polls[s->poll_index].revents)) {
                mlxd_http_req_ref(s->req);
                h->hung_up[n++] = s->req;
            }
        }
        if (s->deadline_ns && s->deadline_ns <= now_ns) {
            s->deadline_ns = 0;
            atomic_fetch_add(&h->deadlines, 1);
            (void)shutdown(s->fd, SHUT_RDWR);
        }
    }
    return n;
}

/* Reads and drops; true when the connection may be closed for good. */
static bool linger_is_over(mlxd_http_linger *l, uint64_t now_ns) {
    char scratch[16384];
    for (int i = 0; i < 16; i++) { /* then others get a turn */
        ssize_t n = recv(l->fd, scratch, sizeof scratch, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            break;
        if (n <= 0)
            return true;
        l->bytes += (uint64_t)n;
    }
    return now_ns >= l->deadline_ns || l->bytes > MLXD_HTTP_LINGER_BYTES;
}

static void look_at_lingers(mlxd_http *h, uint64_t now_ns) {
    for (size_t i = 0; i < h->lingers_len;) {
        if (!linger_is_over(&h->lingers[i], now_ns)) {
            i++;
            continue;
        }
        (void)close(h->lingers[i].fd);
        h->lingers[i] = h->lingers[--h->lingers_len];
    }
}

static void drain_pipe(int fd) {
    char scratch[256];
    while (read(fd, scratch, sizeof scratch) > 0) {
    }
}

static void watch(void *arg) {
    mlxd_http *h = arg;
    mlxd_mutex_lock(&h->lock);
    while (!h->watch_end) {
        uint64_t deadline_ns;
        size_t n = build(h, &deadline_ns);
        h->wake_at_ns = deadline_ns;
        mlxd_mutex_unlock(&h->lock);
        int rc = poll(h->polls, (nfds_t)n, timeout_ms(deadline_ns));
        mlxd_mutex_lock(&h->lock);
        h->wake_at_ns = 0;
        if (rc < 0) /* EINTR; ENOMEM: nothing is known about the sockets, look again */
            memset(h->polls, 0, n * sizeof h->polls[0]);
        if (h->polls[0].revents)
            drain_pipe(h->wake_fd[0]);
        uint64_t now_ns = mlxd_clock_now_ns();
        size_t gone = look_at_slots(h, now_ns);
        look_at_lingers(h, now_ns);
        mlxd_mutex_unlock(&h->lock);
        for (size_t i = 0; i < gone; i++) {
            mlxd_http_req_tell_gone(h->hung_up[i]);
            mlxd_http_req_unref(h->hung_up[i]);
        }
        mlxd_mutex_lock(&h->lock);
    }
    mlxd_mutex_unlock(&h->lock);
}

/* ---- start, stop ---- */

static bool open_pipe(int fd[2]) {
    if (pipe(fd) != 0)
        return false;
    for (int i = 0; i < 2; i++) {
        (void)fcntl(fd[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(fd[i], F_SETFL, O_NONBLOCK);
    }
    return true;
}

mlxd_err mlxd_http_watch_start(mlxd_http *h, mlxd_why *why) {
    size_t connections = h->config.connections_max;
    h->polls = mlxd_mem_new(connections + MLXD_HTTP_LINGER_MAX + 1, sizeof *h->polls);
    h->hung_up = mlxd_mem_new(connections, sizeof *h->hung_up);
    if (!h->polls || !h->hung_up)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu connections", connections);
    if (!open_pipe(h->wake_fd)) {
        h->wake_fd[0] = h->wake_fd[1] = -1;
        return mlxd_fail(why, MLXD_ERR_IO, "no pipe for the connection watcher: %s",
                         strerror(errno));
    }
    mlxd_err err = mlxd_thread_start(&h->watcher, "http-watch", MLXD_PRIORITY_NORMAL, watch, h);
    h->watching = err == MLXD_OK;
    return err ? mlxd_fail(why, err, "the connection watcher did not start") : MLXD_OK;
}

void mlxd_http_watch_stop(mlxd_http *h) {
    if (h->watching) {
        mlxd_mutex_lock(&h->lock);
        h->watch_end = true;
        h->wake_at_ns = UINT64_MAX; /* whatever it is doing */
        mlxd_http_watch_wake(h, 0);
        mlxd_mutex_unlock(&h->lock);
        mlxd_thread_join(&h->watcher);
        h->watching = false;
    }
    while (h->lingers_len > 0)
        (void)close(h->lingers[--h->lingers_len].fd);
    for (int i = 0; i < 2; i++)
        if (h->wake_fd[i] >= 0)
            (void)close(h->wake_fd[i]);
    h->wake_fd[0] = h->wake_fd[1] = -1;
    mlxd_mem_free(h->polls);
    mlxd_mem_free(h->hung_up);
    h->polls = NULL;
    h->hung_up = NULL;
}
