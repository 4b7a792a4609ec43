/* http_check.c - what is decided about a request when its headers are there and its body is not.
 *
 * One pass over the headers (`scan`), then one function per question, in the order that http.h
 * states. The first that objects fills req->refusal. What libmicrohttpd accepts although it must
 * not (two lengths, a length beside chunks, names with spaces) is refused here.
 */
#include "net/http_internal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- headers ---- */

/* Headers that decide something, in the order of NAMES. */
enum { HOST, LENGTH, TRANSFER, TYPE, ENCODING, REQUEST_ID, AUTHORIZATION, API_KEY, KNOWN };

static const char *const NAMES[KNOWN] = {
    "Host",         "Content-Length", "Transfer-Encoding", "Content-Type", "Content-Encoding",
    "X-Request-Id", "Authorization",  "X-API-Key",
};

typedef struct scan {
    const char *first[KNOWN]; /* first value; NULL = absent */
    unsigned count[KNOWN];
    unsigned headers;
    bool bad_name;
    const char *key; /* what is presented as a key; NULL = nothing */
    bool keys_differ;
} scan;

static bool is_token(const char *s, size_t len) {
    static const char marks[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              (c != '\0' && strchr(marks, c))))
            return false;
    }
    return len > 0;
}

static void note_key(scan *s, int which, const char *value) {
    const char *key = value;
    if (which == AUTHORIZATION) {
        if (strncasecmp(value, "Bearer ", 7) != 0)
            return; /* another scheme is no key */
        key = value + 7;
        while (*key == ' ')
            key++;
    }
    if (*key == '\0')
        return;
    if (!s->key)
        s->key = key;
    else if (strcmp(s->key, key) != 0)
        s->keys_differ = true;
}

static enum MHD_Result scan_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_len, const char *value, size_t value_len) {
    scan *s = cls;
    (void)kind;
    (void)value_len;
    s->headers++;
    if (!is_token(name, name_len)) {
        s->bad_name = true;
        return MHD_YES;
    }
    for (int i = 0; i < KNOWN; i++) {
        if (strcasecmp(name, NAMES[i]) != 0)
            continue;
        const char *v = value ? value : "";
        if (s->count[i]++ == 0)
            s->first[i] = v;
        if (i == AUTHORIZATION || i == API_KEY)
            note_key(s, i, v);
        break;
    }
    return MHD_YES;
}

/* ---- the questions; each returns false when it objects ---- */

MLXD_PRINTF(4, 5)
static bool refuse(mlxd_http_req *req, unsigned status, const char *code, const char *fmt, ...) {
    mlxd_http_refusal *r = &req->refusal;
    r->status = status;
    r->code = code;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(r->message, sizeof r->message, fmt, args);
    va_end(args);
    return false;
}

static void refusal_header(mlxd_http_req *req, const char *name, const char *value) {
    req->refusal.header = name;
    (void)snprintf(req->refusal.value, sizeof req->refusal.value, "%s", value);
}

static bool is_digits(const char *s) {
    return *s != '\0' && s[strspn(s, "0123456789")] == '\0';
}

static bool check_framing(mlxd_http_req *req, const scan *s) {
    if (s->headers > MLXD_LIMIT_HEADERS)
        return refuse(req, 431, "too_many_headers", "%u headers, at most %d are accepted",
                      s->headers, MLXD_LIMIT_HEADERS);
    if (s->bad_name)
        return refuse(req, 400, "bad_header", "a header name holds a character it may not hold");
    if (s->count[LENGTH] > 1)
        return refuse(req, 400, "bad_framing", "more than one Content-Length");
    if (s->count[TRANSFER] > 0 && s->count[LENGTH] > 0)
        return refuse(req, 400, "bad_framing", "both Content-Length and Transfer-Encoding");
    if (s->count[TRANSFER] > 1 || (s->count[TRANSFER] == 1 &&
                                   (req->http10 || strcasecmp(s->first[TRANSFER], "chunked") != 0)))
        return refuse(req, 400, "bad_framing", "Transfer-Encoding other than one \"chunked\"");
    if (s->count[LENGTH] == 1 && !is_digits(s->first[LENGTH]))
        return refuse(req, 400, "bad_framing", "Content-Length is not a number");
    if (s->count[TYPE] > 1 || s->count[ENCODING] > 1)
        return refuse(req, 400, "bad_header", "more than one Content-Type or Content-Encoding");
    return true;
}

/* Splits "name", "name:port", "[v6]" or "[v6]:port"; false when it is none of these. */
static bool split_host(const char *host, char *name, size_t size) {
    const char *start = host;
    const char *end;
    const char *rest;
    if (*host == '[') {
        start++;
        end = strchr(start, ']');
        if (!end)
            return false;
        rest = end + 1;
    } else {
        end = host + strcspn(host, ":");
        rest = end;
    }
    size_t len = (size_t)(end - start);
    if (len == 0 || len >= size)
        return false;
    if (*rest != '\0' && !(rest[0] == ':' && is_digits(rest + 1) && strlen(rest) <= 6))
        return false;
    memcpy(name, start, len);
    name[len] = '\0';
    return true;
}

/* The address this connection came in on, as text, IPv4-mapped ones as IPv4. */
static bool is_local_address(const mlxd_http_slot *slot, const char *name) {
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    memset(&sa, 0, sizeof sa);
    if (getsockname(slot->fd, (struct sockaddr *)&sa, &len) != 0)
        return false;
    struct in6_addr got6;
    struct in_addr got4;
    if (sa.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &sa, sizeof in);
        return inet_pton(AF_INET, name, &got4) == 1 && got4.s_addr == in.sin_addr.s_addr;
    }
    struct sockaddr_in6 in6;
    memcpy(&in6, &sa, sizeof in6);
    if (inet_pton(AF_INET6, name, &got6) == 1)
        return memcmp(&got6, &in6.sin6_addr, sizeof got6) == 0;
    return inet_pton(AF_INET, name, &got4) == 1 && IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr) &&
           memcmp(&got4, &in6.sin6_addr.s6_addr[12], sizeof got4) == 0;
}

bool mlxd_http_is_loopback(const char *name) {
    struct in6_addr a6;
    struct in_addr a4;
    if (strcasecmp(name, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, name, &a4) == 1)
        return (ntohl(a4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, name, &a6) == 1 && IN6_IS_ADDR_LOOPBACK(&a6);
}

/* A page of an attacker can make a browser send requests here under the attacker's name, once that
 * name resolves to our address; the Host header then gives it away. */
static bool check_host(mlxd_http_req *req, const scan *s) {
    const mlxd_http_config *c = &req->h->config;
    if (s->count[HOST] == 0 && req->http10)
        return true; /* HTTP/1.0 knows no Host, and no browser speaks it */
    char name[256];
    if (s->count[HOST] != 1 || !split_host(s->first[HOST], name, sizeof name))
        return refuse(req, 400, "bad_host", "exactly one valid Host header is needed");
    for (size_t i = 0; i < c->hosts_len; i++)
        if (strcmp(c->hosts[i], "*") == 0 || strcasecmp(c->hosts[i], name) == 0)
            return true;
    if (mlxd_http_is_loopback(name) || is_local_address(req->slot, name))
        return true;
    return refuse(req, 421, "unknown_host", "this server is not known as \"%.100s\"", name);
}

static bool check_key(mlxd_http_req *req, const scan *s) {
    const mlxd_http_config *c = &req->h->config;
    if (s->keys_differ)
        return refuse(req, 400, "ambiguous_api_key", "several API keys that differ");
    if (!c->auth) {
        req->authorized = true;
        return true;
    }
    bool is_public = req->route && (req->route->flags & MLXD_HTTP_PUBLIC);
    if (is_public && !s->key)
        return true;
    uint32_t key_id = 0;
    mlxd_http_verdict verdict = c->auth(c->ctx, s->key, req->peer, &key_id);
    if (verdict == MLXD_HTTP_AUTH_OK) {
        req->authorized = true;
        req->key_id = key_id;
        return true;
    }
    if (is_public)
        return true;
    switch (verdict) {
    case MLXD_HTTP_AUTH_OK:
    case MLXD_HTTP_AUTH_MISSING:
        refuse(req, 401, "invalid_api_key",
               "API key needed: send \"Authorization: Bearer <key>\" or \"X-API-Key: <key>\"");
        refusal_header(req, "WWW-Authenticate", "Bearer");
        break;
    case MLXD_HTTP_AUTH_LIMITED:
        refuse(req, 429, "too_many_wrong_keys", "too many wrong API keys from your address");
        refusal_header(req, "Retry-After", "60");
        break;
    case MLXD_HTTP_AUTH_WRONG:
        refuse(req, 403, "invalid_api_key", "Invalid API Key");
        break;
    }
    return false;
}

/* "; charset=utf-8" and the like: the one parameter that would change how the body reads. */
static bool charset_is_utf8(const char *params) {
    for (const char *p = strchr(params, ';'); p; p = strchr(p, ';')) {
        p++;
        p += strspn(p, " \t");
        if (strncasecmp(p, "charset=", 8) != 0)
            continue;
        p += 8;
        p += *p == '"';
        if (strncasecmp(p, "utf-8", 5) != 0 || !(p[5] == '\0' || strchr("\"; \t", p[5])))
            return false;
    }
    return true;
}

static bool check_type(mlxd_http_req *req, const scan *s) {
    if (s->count[ENCODING] > 0 && strcasecmp(s->first[ENCODING], "identity") != 0)
        return refuse(req, 415, "unsupported_encoding", "Content-Encoding is not supported");
    if (!(req->route->flags & MLXD_HTTP_JSON))
        return true;
    static const char want[] = "application/json";
    size_t len = sizeof want - 1;
    const char *type = s->first[TYPE];
    if (type && strncasecmp(type, want, len) == 0) {
        const char *params = type + len + strspn(type + len, " \t");
        if ((*params == '\0' || *params == ';') && charset_is_utf8(params))
            return true;
    }
    return refuse(req, 415, "unsupported_media_type",
                  "the body must be JSON in UTF-8: send \"Content-Type: application/json\"");
}

static bool check_length(mlxd_http_req *req, const scan *s) {
    size_t max = req->h->config.body_bytes_max;
    if (s->count[LENGTH] == 0 && s->count[TRANSFER] == 0) {
        if (req->route->flags & MLXD_HTTP_JSON)
            return refuse(req, 411, "length_required", "a body with Content-Length is needed");
        return true;
    }
    if (s->count[LENGTH] == 0)
        return true; /* chunks are counted as they come */
    uint64_t len = 0;
    for (const char *p = s->first[LENGTH]; *p; p++) {
        len = len * 10 + (uint64_t)(*p - '0');
        if (len > max)
            return refuse(req, 413, "body_too_large", "the body is larger than %zu bytes", max);
    }
    return true;
}

/* ---- routes ---- */

static int hex_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decodes a {id}; false when it is not one. Decoded once: "%252F" is refused, not "%2F". */
static bool decode_param(const char *s, char out[MLXD_LIMIT_HTTP_PARAM + 1]) {
    size_t n = 0;
    for (; *s; s++) {
        char c = *s;
        if (c == '%') {
            int hi = hex_value(s[1]);
            int lo = hi < 0 ? -1 : hex_value(s[2]);
            if (lo < 0)
                return false;
            c = (char)(hi * 16 + lo);
            s += 2;
        }
        bool good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                    (c != '\0' && strchr("._:@+/-", c));
        if (!good || n == MLXD_LIMIT_HTTP_PARAM)
            return false;
        out[n++] = c;
    }
    out[n] = '\0';
    for (const char *p = out;; p++) { /* each segment */
        size_t len = strcspn(p, "/");
        if (len == 0 || (len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        p += len;
        if (*p == '\0')
            return true;
    }
}

static bool path_matches(const mlxd_http_route *r, const char *path, char *param) {
    size_t len = strlen(r->path);
    static const char tail[] = "{id}";
    size_t tail_len = sizeof tail - 1;
    if (len < tail_len || strcmp(r->path + len - tail_len, tail) != 0)
        return strcmp(r->path, path) == 0;
    size_t stem = len - tail_len;
    return strncmp(r->path, path, stem) == 0 && decode_param(path + stem, param);
}

static const char *const METHOD_NAMES[] = {
    [MLXD_HTTP_GET] = "GET",
    [MLXD_HTTP_POST] = "POST",
    [MLXD_HTTP_PUT] = "PUT",
    [MLXD_HTTP_DELETE] = "DELETE",
};

static bool method_matches(const mlxd_http_route *r, const char *method) {
    return strcmp(METHOD_NAMES[r->method], method) == 0 ||
           (r->method == MLXD_HTTP_GET && strcmp(method, "HEAD") == 0);
}

/* The row for path and method; else a row of that path, so that its flags can be asked; else NULL.
 * An exact path wins over a parameter. */
static const mlxd_http_route *find_route(mlxd_http_req *req, const char *method) {
    const mlxd_http_config *c = &req->h->config;
    const mlxd_http_route *best = NULL;
    int best_score = -1;
    for (size_t i = 0; i < c->routes_len; i++) {
        const mlxd_http_route *r = &c->routes[i];
        char param[MLXD_LIMIT_HTTP_PARAM + 1] = "";
        if (!path_matches(r, req->uri, param))
            continue;
        int score = (param[0] ? 0 : 2) + (method_matches(r, method) ? 1 : 0);
        if (score <= best_score)
            continue;
        best = r;
        best_score = score;
        memcpy(req->param, param, sizeof param);
    }
    return best;
}

static void list_methods(const mlxd_http_req *req, char *out, size_t size) {
    const mlxd_http_config *c = &req->h->config;
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < c->routes_len && n < size; i++) {
        const mlxd_http_route *r = &c->routes[i];
        if (strcmp(r->path, req->route->path) != 0)
            continue;
        const char *name = r->method == MLXD_HTTP_GET ? "GET, HEAD" : METHOD_NAMES[r->method];
        int got = snprintf(out + n, size - n, "%s%s", n ? ", " : "", name);
        n += got > 0 ? (size_t)got : 0;
    }
}

static bool check_route(mlxd_http_req *req, const char *method) {
    if (!req->route)
        return refuse(req, 404, "not_found", "there is no endpoint %.15s %.150s", method, req->uri);
    if (method_matches(req->route, method))
        return true;
    char allow[sizeof req->refusal.value];
    list_methods(req, allow, sizeof allow);
    refuse(req, 405, "method_not_allowed", "%.15s is not possible here, but %s", method, allow);
    refusal_header(req, "Allow", allow);
    return false;
}

/* ---- all of it ---- */

static void take_id(mlxd_http_req *req, const char *id) {
    static const char sane[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = id ? strlen(id) : 0;
    if (len > 0 && len <= MLXD_HTTP_ID_MAX && strspn(id, sane) == len)
        memcpy(req->id, id, len + 1);
    else
        (void)snprintf(req->id, sizeof req->id, "req-%s-%llx", req->h->id_prefix,
                       (unsigned long long)atomic_fetch_add(&req->h->ids, 1));
}

void mlxd_http_check(mlxd_http_req *req, const char *method, const char *version, bool *has_body) {
    MLXD_ASSERT(req->phase == MLXD_HTTP_PHASE_HEADERS);
    scan s;
    memset(&s, 0, sizeof s);
    (void)MHD_get_connection_values_n(req->conn, MHD_HEADER_KIND, scan_header, &s);
    req->http10 = strcmp(version, "HTTP/1.0") == 0;
    (void)snprintf(req->method, sizeof req->method, "%s", method);
    take_id(req, s.count[REQUEST_ID] == 1 ? s.first[REQUEST_ID] : NULL);
    *has_body = s.count[TRANSFER] > 0 || (s.count[LENGTH] > 0 && strcmp(s.first[LENGTH], "0") != 0);
    req->route = find_route(req, method);

    bool framed = check_framing(req, &s);
    bool good = framed && check_host(req, &s) && check_key(req, &s);
    bool draining = atomic_load(&req->h->draining);
    if (good && draining) {
        good = refuse(req, 503, "draining", "the server is shutting down");
        refusal_header(req, "Retry-After", "5");
    }
    good = good && check_route(req, method) && check_type(req, &s) && check_length(req, &s);
    req->refusal.close = *has_body || !framed || draining;
    if (!good)
        req->route = NULL;
    MLXD_ASSERT(good == (req->refusal.status == 0));
}

bool mlxd_http_check_body(mlxd_http_req *req, const char *data, size_t len) {
    size_t max = req->h->config.body_bytes_max;
    req->body_seen += len;
    if (req->body_seen / 2 > max)
        return false;
    if (req->refusal.status != 0)
        return true;
    if (req->body_seen > max) {
        refuse(req, 413, "body_too_large", "the body is larger than %zu bytes", max);
        return true;
    }
    if (!(req->route->flags & MLXD_HTTP_JSON))
        return true;
    uint64_t all = atomic_fetch_add(&req->h->bodies_bytes, len) + len;
    req->body_budgeted += len;
    if (all <= MLXD_LIMIT_HTTP_BODIES_BYTES)
        mlxd_buf_add(&req->body, data, len);
    if (all > MLXD_LIMIT_HTTP_BODIES_BYTES || req->body.failed) {
        refuse(req, 503, "overloaded", "no memory for the body of this request now");
        refusal_header(req, "Retry-After", "1");
    }
    return true;
}
