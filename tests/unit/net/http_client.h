/* http_client.h - a small, blunt HTTP client on raw sockets for the tests of net/http.h. It sends
 * exactly the bytes it is given and reads one reply at a time, so that tests can say what a client
 * on the wire sees. Every wait ends after 10 s, as a failure.
 */
#ifndef MLXD_TESTS_HTTP_CLIENT_H
#define MLXD_TESTS_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct client {
    int fd;
    char *buf; /* received, not yet consumed; a NUL follows */
    size_t len, cap;
    bool closed; /* the server closed or reset */
} client;

typedef struct answer {
    int status;      /* 0: the connection ended before a status line */
    char head[8192]; /* status line and headers */
    char *body;      /* decoded, NUL behind; free() */
    size_t body_len;
    bool chunked;
    bool complete; /* the body's end was seen */
} answer;

static inline void pause_us(long us) {
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    (void)nanosleep(&t, NULL);
}

static inline client client_open(uint16_t port) {
    client c = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    assert_true(c.fd >= 0);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval limit = {.tv_sec = 10};
    assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), 0);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&in, sizeof in), 0);
    return c;
}

static inline void client_close(client *c) {
    close(c->fd);
    free(c->buf);
    memset(c, 0, sizeof *c);
    c->fd = -1;
}

/* Sends all; false when the server has closed meanwhile. */
static inline bool client_send(client *c, const void *data, size_t len) {
    const char *p = data;
    while (len > 0) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static inline bool client_say(client *c, const char *text) {
    return client_send(c, text, strlen(text));
}

/* Receives some more; false at the end of the connection. Fails the test after 10 s of silence. */
static inline bool client_more(client *c) {
    if (c->closed)
        return false;
    if (c->cap - c->len < 65536) {
        c->cap = c->cap * 2 + 131072;
        c->buf = realloc(c->buf, c->cap);
        assert_non_null(c->buf);
    }
    ssize_t n = recv(c->fd, c->buf + c->len, c->cap - c->len - 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        fail_msg("no reply within 10 s");
    if (n <= 0) {
        c->closed = true;
        return false;
    }
    c->len += (size_t)n;
    c->buf[c->len] = '\0';
    return true;
}

static inline void client_consume(client *c, size_t n) {
    assert_true(n <= c->len);
    memmove(c->buf, c->buf + n, c->len - n);
    c->len -= n;
    c->buf[c->len] = '\0';
}

/* The value of a header in `a->head`, copied into a buffer of the thread; NULL = absent. */
static inline const char *answer_header(const answer *a, const char *name) {
    static _Thread_local char value[2048];
    size_t len = strlen(name);
    for (const char *p = strstr(a->head, "\r\n"); p; p = strstr(p + 2, "\r\n")) {
        if (strncasecmp(p + 2, name, len) == 0 && p[2 + len] == ':') {
            const char *v = p + 3 + len;
            v += strspn(v, " ");
            snprintf(value, sizeof value, "%.*s", (int)strcspn(v, "\r"), v);
            return value;
        }
    }
    return NULL;
}

static inline void body_add(answer *a, const char *data, size_t len) {
    a->body = realloc(a->body, a->body_len + len + 1);
    assert_non_null(a->body);
    memcpy(a->body + a->body_len, data, len);
    a->body_len += len;
    a->body[a->body_len] = '\0';
}

static inline bool client_until(client *c, const char *mark, size_t *at) {
    for (;;) {
        char *found = c->buf && c->len ? strstr(c->buf, mark) : NULL;
        if (found) {
            *at = (size_t)(found - c->buf);
            return true;
        }
        if (!client_more(c))
            return false;
    }
}

static inline void read_chunks(client *c, answer *a) {
    for (;;) {
        size_t at = 0;
        if (!client_until(c, "\r\n", &at))
            return;
        char *end;
        size_t size = strtoul(c->buf, &end, 16);
        assert_true(end == c->buf + at);
        while (c->len < at + 2 + size + 2)
            if (!client_more(c))
                return;
        assert_memory_equal(c->buf + at + 2 + size, "\r\n", 2);
        body_add(a, c->buf + at + 2, size);
        client_consume(c, at + 2 + size + 2);
        if (size == 0) {
            a->complete = true;
            return;
        }
    }
}

/* Reads one reply. `no_body`: the reply to a HEAD. */
static inline answer client_read_opt(client *c, bool no_body) {
    answer a = {0};
    size_t at = 0;
    body_add(&a, "", 0);
    if (!client_until(c, "\r\n\r\n", &at))
        return a;
    assert_true(at + 4 < sizeof a.head);
    memcpy(a.head, c->buf, at + 2);
    client_consume(c, at + 4);
    assert_int_equal(strncmp(a.head, "HTTP/1.", 7), 0);
    a.status = atoi(a.head + 9);
    const char *length = answer_header(&a, "Content-Length");
    size_t want = length ? strtoul(length, NULL, 10) : 0;
    const char *coding = answer_header(&a, "Transfer-Encoding");
    a.chunked = coding && strcmp(coding, "chunked") == 0;
    if (no_body) {
        a.complete = true;
    } else if (a.chunked) {
        read_chunks(c, &a);
    } else {
        while (c->len < want || !length)
            if (!client_more(c))
                break;
        size_t got = length && want < c->len ? want : c->len;
        if (got)
            body_add(&a, c->buf, got);
        if (got)
            client_consume(c, got);
        a.complete = !length || got == want;
    }
    return a;
}

static inline answer client_read(client *c) {
    return client_read_opt(c, false);
}

static inline void answer_free(answer *a) {
    free(a->body);
    memset(a, 0, sizeof *a);
}

/* One request on a connection of its own. */
static inline answer ask(uint16_t port, const char *request) {
    client c = client_open(port);
    (void)client_say(&c, request);
    answer a = client_read(&c);
    client_close(&c);
    return a;
}

#endif
