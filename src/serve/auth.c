/* auth.c - see auth.h. */
#include "serve/auth.h"

#include "base/limits.h"
#include "base/thread.h"
#include "format/digest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX MLXD_LIMIT_CONFIG_BYTES
#define KEY_BYTES_MIN 16
#define KEY_BYTES_MAX 512
#define NAME_BYTES_MAX 63
#define PEERS_MAX 512 /* addresses watched at once; the oldest makes room */
#define WINDOW_NS (60 * MLXD_NS_PER_S)

struct entry {
    uint8_t digest[MLXD_SHA256_BYTES];
    char name[NAME_BYTES_MAX + 1];
};

/* Wrong keys of one address since `began_ns`; count 0: free. */
struct peer {
    uint8_t address[16];
    uint64_t began_ns;
    uint32_t count;
};

struct mlxd_auth {
    struct entry *entries;
    size_t count;
    const mlxd_clock *clock;
    mlxd_mutex lock; /* of what follows */
    struct peer peers[PEERS_MAX];
    uint64_t wrong;
};

/* ---- the file ---- */

/* Overwrites in a way that the compiler may not leave out. */
static void wipe(void *p, size_t len) {
    volatile uint8_t *bytes = p;
    while (len > 0)
        bytes[--len] = 0;
}

static mlxd_err check_file(int fd, const char *path, size_t *size, mlxd_why *why) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return mlxd_fail(why, MLXD_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%s: not a regular file", path);
    if (st.st_mode & 077)
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "%s: mode %04o lets others at the API keys, expected 0600 (chmod 600)",
                         path, (unsigned)(st.st_mode & 07777));
    if (st.st_size < 0 || (uint64_t)st.st_size > FILE_BYTES_MAX)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%s: larger than %u bytes", path, FILE_BYTES_MAX);
    *size = (size_t)st.st_size;
    return MLXD_OK;
}

static mlxd_err read_file(const char *path, char **text, size_t *size, mlxd_why *why) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        mlxd_err err = errno == ENOENT   ? MLXD_ERR_NOTFOUND
                       : errno == EACCES ? MLXD_ERR_PERM
                                         : MLXD_ERR_IO;
        return mlxd_fail(why, err, "%s: %s", path, strerror(errno));
    }
    mlxd_err err = check_file(fd, path, size, why);
    *text = err ? NULL : mlxd_mem_new(*size + 1, 1);
    if (!err && !*text)
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t at = 0; !err && at < *size;) {
        ssize_t n = read(fd, *text + at, *size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            err = mlxd_fail(why, MLXD_ERR_IO, "%s: cannot be read to its end", path);
        else
            at += (size_t)n;
    }
    close(fd);
    if (err && *text) {
        wipe(*text, *size);
        mlxd_mem_free(*text);
        *text = NULL;
    }
    return err;
}

static bool is_name(mlxd_slice s) {
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (s.len == 0 || s.len > NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!memchr(set, s.data[i], sizeof set - 1))
            return false;
    return true;
}

static bool is_key(mlxd_slice s) {
    if (s.len < KEY_BYTES_MIN || s.len > KEY_BYTES_MAX)
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] <= 0x20 || s.data[i] >= 0x7f || s.data[i] == ':')
            return false;
    return true;
}

static mlxd_err add_entry(mlxd_auth *a, const char *path, size_t line, mlxd_slice text,
                          mlxd_why *why) {
    const uint8_t *colon = memchr(text.data, ':', text.len);
    mlxd_slice name = {text.data, colon ? (size_t)(colon - text.data) : 0};
    mlxd_slice key = colon ? (mlxd_slice){colon + 1, text.len - name.len - 1} : text;
    if (a->count == MLXD_LIMIT_API_KEYS)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%zu: more than %d keys", path, line,
                         MLXD_LIMIT_API_KEYS);
    if (colon && !is_name(name))
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "%s:%zu: expected a name of 1 to %d of [A-Za-z0-9._-] before the ':'",
                         path, line, NAME_BYTES_MAX);
    if (!is_key(key))
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "%s:%zu: expected a key of %d to %d visible ASCII characters without ':'",
                         path, line, KEY_BYTES_MIN, KEY_BYTES_MAX);
    struct entry *e = &a->entries[a->count];
    mlxd_sha256_once(key.data, key.len, e->digest);
    if (colon)
        snprintf(e->name, sizeof e->name, "%.*s", (int)name.len, (const char *)name.data);
    else
        snprintf(e->name, sizeof e->name, "key-%zu", line);
    for (size_t i = 0; i < a->count; i++) {
        if (memcmp(a->entries[i].digest, e->digest, sizeof e->digest) == 0)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%zu: the same key as \"%s\"", path, line,
                             a->entries[i].name);
        if (strcmp(a->entries[i].name, e->name) == 0)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%zu: the name \"%s\" is there twice", path,
                             line, e->name);
    }
    a->count++;
    return MLXD_OK;
}

static bool is_blank(uint8_t c) {
    return c == ' ' || c == '\t' || c == '\r';
}

static mlxd_err parse(mlxd_auth *a, const char *path, const char *text, size_t size,
                      mlxd_why *why) {
    size_t line = 0;
    for (size_t at = 0; at < size; line++) {
        const char *end = memchr(text + at, '\n', size - at);
        mlxd_slice s = {(const uint8_t *)text + at, end ? (size_t)(end - text) - at : size - at};
        at += s.len + 1;
        while (s.len > 0 && is_blank(s.data[0])) {
            s.data++;
            s.len--;
        }
        while (s.len > 0 && is_blank(s.data[s.len - 1]))
            s.len--;
        if (s.len == 0 || s.data[0] == '#')
            continue;
        mlxd_err err = add_entry(a, path, line + 1, s, why);
        if (err)
            return err;
    }
    if (a->count == 0)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%s: there is no API key in it", path);
    return MLXD_OK;
}

mlxd_err mlxd_auth_open(mlxd_auth **out, const char *path, const mlxd_clock *clock, mlxd_why *why) {
    char *text = NULL;
    size_t size = 0;
    mlxd_auth *a = mlxd_mem_new(1, sizeof *a);
    if (!a)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mutex_init(&a->lock);
    a->clock = clock ? clock : mlxd_clock_real();
    a->entries = mlxd_mem_new(MLXD_LIMIT_API_KEYS, sizeof *a->entries);
    mlxd_err err = a->entries ? read_file(path, &text, &size, why)
                              : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!err)
        err = parse(a, path, text, size, why);
    if (text)
        wipe(text, size);
    mlxd_mem_free(text);
    if (err) {
        mlxd_auth_close(a);
        return err;
    }
    *out = a;
    return MLXD_OK;
}

void mlxd_auth_close(mlxd_auth *a) {
    if (!a)
        return;
    mlxd_mutex_deinit(&a->lock);
    mlxd_mem_free(a->entries);
    mlxd_mem_free(a);
}

size_t mlxd_auth_count(const mlxd_auth *a) {
    return a->count;
}

const char *mlxd_auth_name(const mlxd_auth *a, uint32_t key_id) {
    return key_id > 0 && key_id <= a->count ? a->entries[key_id - 1].name : "";
}

/* ---- judging ---- */

/* What one peer is for the limiter: an IPv4 address, or the /64 that an IPv6 host may roam in. */
static void peer_address(const char *peer, uint8_t out[16]) {
    memset(out, 0, 16);
    if (inet_pton(AF_INET6, peer, out) == 1)
        memset(out + 8, 0, 8);
    else if (inet_pton(AF_INET, peer, out + 12) == 1)
        out[10] = out[11] = 0xff;
}

/* Counts a wrong key; true when this address has had its share. With the lock held. */
static bool is_limited(mlxd_auth *a, const char *peer) {
    uint64_t now = a->clock->now_ns(a->clock->ctx);
    uint8_t address[16];
    struct peer *slot = &a->peers[0];
    peer_address(peer, address);
    for (size_t i = 0; i < PEERS_MAX; i++) {
        struct peer *p = &a->peers[i];
        if (p->count > 0 && now - p->began_ns >= WINDOW_NS)
            p->count = 0;
        if (p->count > 0 && memcmp(p->address, address, sizeof address) == 0) {
            slot = p;
            break;
        }
        if (slot->count > 0 && (p->count == 0 || p->began_ns < slot->began_ns))
            slot = p;
    }
    if (slot->count == 0 || memcmp(slot->address, address, sizeof address) != 0) {
        *slot = (struct peer){.began_ns = now};
        memcpy(slot->address, address, sizeof address);
    }
    if (slot->count < UINT32_MAX)
        slot->count++;
    return slot->count > MLXD_AUTH_WRONG_PER_MINUTE;
}

mlxd_http_verdict mlxd_auth_check(mlxd_auth *a, const char *key, const char *peer,
                                  uint32_t *key_id) {
    uint8_t digest[MLXD_SHA256_BYTES];
    uint32_t found = 0;
    if (!key)
        return MLXD_HTTP_AUTH_MISSING;
    mlxd_sha256_once(key, strlen(key), digest);
    for (uint32_t i = 0; i < a->count; i++) {
        uint32_t same = mlxd_digest_eq(a->entries[i].digest, digest, sizeof digest);
        found |= (i + 1) * same; /* at most one entry is the same */
    }
    if (found > 0) {
        *key_id = found;
        return MLXD_HTTP_AUTH_OK;
    }
    mlxd_mutex_lock(&a->lock);
    a->wrong++;
    bool limited = is_limited(a, peer);
    mlxd_mutex_unlock(&a->lock);
    return limited ? MLXD_HTTP_AUTH_LIMITED : MLXD_HTTP_AUTH_WRONG;
}

uint64_t mlxd_auth_wrong(mlxd_auth *a) {
    mlxd_mutex_lock(&a->lock);
    uint64_t n = a->wrong;
    mlxd_mutex_unlock(&a->lock);
    return n;
}
