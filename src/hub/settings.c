/* settings.c - see settings.h. */
#include "hub/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define STALL_S 30
#define STALL_MAX_S 86400

/* The first of the variables that is set and not empty; or NULL. */
static const char *first_of(const char *const *names, size_t count, const char **which) {
    for (size_t i = 0; i < count; i++) {
        const char *v = getenv(names[i]);
        if (v && *v) {
            *which = names[i];
            return v;
        }
    }
    return NULL;
}

static bool is_on(const char *name) {
    static const char *const yes[] = {"1", "ON", "YES", "TRUE"};
    const char *v = getenv(name);
    for (size_t i = 0; v && i < MLXD_COUNT_OF(yes); i++)
        if (strcasecmp(v, yes[i]) == 0)
            return true;
    return false;
}

static mlxd_err too_long(mlxd_why *why, const char *name) {
    return mlxd_fail(why, MLXD_ERR_CONFIG, "environment %s: too long", name);
}

/* "path" or "~/path" followed by `tail`. */
static mlxd_err set_path(char *out, size_t size, const char *path, const char *tail,
                         const char *name, mlxd_why *why) {
    const char *home = "";
    if (path[0] == '~' && (path[1] == '/' || path[1] == 0)) {
        home = getenv("HOME");
        if (!home || !*home)
            return mlxd_fail(why, MLXD_ERR_CONFIG,
                             "environment %s begins with ~, but HOME is not "
                             "set",
                             name);
        path++;
    }
    int n = snprintf(out, size, "%s%s%s", home, path, tail);
    return n > 0 && (size_t)n < size ? MLXD_OK : too_long(why, name);
}

static mlxd_err read_home(char *out, size_t size, mlxd_why *why) {
    const char *v = getenv("HF_HOME");
    if (v && *v)
        return set_path(out, size, v, "", "HF_HOME", why);
    v = getenv("XDG_CACHE_HOME");
    if (v && *v)
        return set_path(out, size, v, "/huggingface", "XDG_CACHE_HOME", why);
    v = getenv("HOME");
    if (!v || !*v)
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "no place for the model cache: set HF_HUB_CACHE (HOME is not set)");
    return set_path(out, size, v, "/.cache/huggingface", "HOME", why);
}

static mlxd_err read_cache(mlxd_hub_settings *s, const char *home, mlxd_why *why) {
    static const char *const names[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"};
    const char *which;
    const char *v = first_of(names, MLXD_COUNT_OF(names), &which);
    mlxd_err err = v ? set_path(s->cache, sizeof s->cache, v, "", which, why)
                     : set_path(s->cache, sizeof s->cache, home, "/hub", "HF_HOME", why);
    for (size_t n = strlen(s->cache); !err && n > 1 && s->cache[n - 1] == '/'; n--)
        s->cache[n - 1] = 0;
    return err;
}

static mlxd_err read_endpoint(mlxd_hub_settings *s, mlxd_why *why) {
    const char *v = getenv("HF_ENDPOINT");
    if (!v || !*v)
        v = "https://huggingface.co";
    size_t n = strlen(v);
    while (n > 0 && v[n - 1] == '/')
        n--;
    bool http = strncasecmp(v, "https://", 8) == 0 || strncasecmp(v, "http://", 7) == 0;
    bool plain = true;
    for (size_t i = 0; i < n; i++)
        plain = plain && v[i] > 0x20 && v[i] < 0x7f && !strchr("@?#\"<>\\", v[i]);
    if (!http || !plain || n < 8 || n >= sizeof s->endpoint)
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "environment HF_ENDPOINT: expected an address like "
                         "https://huggingface.co, without user or query");
    memcpy(s->endpoint, v, n);
    s->endpoint[n] = 0;
    return MLXD_OK;
}

/* ---- token ---- */

/* Takes a token without the white space around it; whatever could end a header line is refused. */
static mlxd_err set_token(mlxd_hub_settings *s, const char *text, size_t len, const char *from,
                          mlxd_why *why) {
    while (len > 0 && strchr(" \t\r\n", text[len - 1]))
        len--;
    while (len > 0 && strchr(" \t\r\n", *text)) {
        text++;
        len--;
    }
    for (size_t i = 0; i < len; i++)
        if (text[i] <= 0x20 || text[i] >= 0x7f)
            return mlxd_fail(why, MLXD_ERR_CONFIG,
                             "%.300s: the token has a character that no "
                             "token has",
                             from);
    if (len >= sizeof s->token)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%.300s: too long for a token", from);
    memcpy(s->token, text, len);
    s->token[len] = 0;
    return MLXD_OK;
}

static mlxd_err read_token_file(mlxd_hub_settings *s, const char *path, mlxd_why *why) {
    char text[1024];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return MLXD_OK;
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%.300s: cannot read the token file", path);
    mlxd_err err = set_token(s, text, (size_t)n, path, why);
    OPENSSL_cleanse(text, sizeof text);
    return err;
}

static mlxd_err read_token(mlxd_hub_settings *s, const char *home, mlxd_why *why) {
    static const char *const names[] = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"};
    char path[MLXD_HUB_DIR_MAX];
    const char *which, *v = first_of(names, MLXD_COUNT_OF(names), &which);
    if (is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
        return MLXD_OK;
    if (v) {
        char from[64];
        snprintf(from, sizeof from, "environment %s", which);
        return set_token(s, v, strlen(v), from, why);
    }
    v = getenv("HF_TOKEN_PATH");
    bool named = v && *v;
    mlxd_err err =
        set_path(path, sizeof path, named ? v : home, named ? "" : "/token", "HF_TOKEN_PATH", why);
    return err ? err : read_token_file(s, path, why);
}

mlxd_err mlxd_hub_settings_read(mlxd_hub_settings *out, mlxd_why *why) {
    static const char *const authorities[] = {"SSL_CERT_FILE", "CURL_CA_BUNDLE",
                                              "REQUESTS_CA_BUNDLE"};
    const char *which;
    char home[MLXD_HUB_DIR_MAX];
    *out = (mlxd_hub_settings){.stall_s = STALL_S};
    out->offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
    mlxd_err err = read_home(home, sizeof home, why);
    if (!err)
        err = read_cache(out, home, why);
    if (!err)
        err = read_endpoint(out, why);
    if (!err)
        err = read_token(out, home, why);
    const char *v = first_of(authorities, MLXD_COUNT_OF(authorities), &which);
    if (!err && v)
        err = set_path(out->ca_file, sizeof out->ca_file, v, "", which, why);
    v = getenv("HF_HUB_DOWNLOAD_TIMEOUT");
    if (!err && v && *v) {
        char *end;
        unsigned long n = strtoul(v, &end, 10);
        if (*end || *v < '0' || *v > '9' || n < 1 || n > STALL_MAX_S)
            err = mlxd_fail(why, MLXD_ERR_CONFIG,
                            "environment HF_HUB_DOWNLOAD_TIMEOUT: expected 1 to %d seconds, got "
                            "\"%.40s\"",
                            STALL_MAX_S, v);
        else
            out->stall_s = (unsigned)n;
    }
    if (err)
        mlxd_hub_settings_deinit(out);
    return err;
}

void mlxd_hub_settings_deinit(mlxd_hub_settings *s) {
    OPENSSL_cleanse(s->token, sizeof s->token);
}
