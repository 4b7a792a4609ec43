/* http.c - see http.h. */
#include "hub/http.h"

#include "base/clock.h"
#include "base/limits.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define CONNECT_S 20
#define SLOW_BYTES 64         /* per second: less counts as nothing */
#define ERROR_BODY_MAX 65536u /* read of an answer that is an error, so that its connection lives */
#define WAIT_FIRST_MS 200u
#define WAIT_MAX_MS 10000u

struct mlxd_hub_conn {
    CURL *easy;
    const mlxd_hub_settings *settings;
    struct curl_slist *plain, *with_token; /* request headers */
    CURLU *home;                           /* the endpoint, parsed */
    char error[CURL_ERROR_SIZE];
    /* of the try that runs */
    const mlxd_hub_request *request;
    mlxd_hub_reply *reply;
    bool begun, stopped;
    size_t discarded;
    mlxd_err err;
    mlxd_why *why;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode initialised;

static void initialise(void) {
    initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- headers of the answer ---- */

/* The value when `line` is the header `name` (lower case), without white space around it. */
static bool header(mlxd_slice line, const char *name, mlxd_slice *value) {
    size_t n = strlen(name);
    const char *s = (const char *)line.data;
    if (line.len <= n || s[n] != ':' || strncasecmp(s, name, n) != 0)
        return false;
    const char *p = s + n + 1, *end = s + line.len;
    while (p < end && strchr(" \t", *p))
        p++;
    while (end > p && strchr(" \t\r\n", end[-1]))
        end--;
    *value = (mlxd_slice){(const uint8_t *)p, (size_t)(end - p)};
    return true;
}

static void copy_text(char *out, size_t size, mlxd_slice v) {
    snprintf(out, size, "%.*s", (int)MLXD_MIN(v.len, size), (const char *)v.data);
}

/* Decimal digits up to the end or to one of `stop`. */
static bool number(const char **p, const char *stop, uint64_t *out) {
    uint64_t v = 0;
    const char *s = *p;
    for (; *s >= '0' && *s <= '9'; s++)
        if (!mlxd_mul_u64(v, 10, &v) || !mlxd_add_u64(v, (uint64_t)(*s - '0'), &v))
            return false;
    if (s == *p || (*s && !strchr(stop, *s)))
        return false;
    *p = s;
    *out = v;
    return true;
}

static void read_number(mlxd_slice v, bool *has, uint64_t *out) {
    char text[32];
    const char *p = text;
    copy_text(text, sizeof text, v);
    *has = number(&p, "", out);
}

/* "bytes 5-9/10", where the total may be "*". */
static void read_range(mlxd_hub_reply *r, mlxd_slice v) {
    char text[80];
    uint64_t last;
    copy_text(text, sizeof text, v);
    const char *p = text + 6;
    if (strncasecmp(text, "bytes ", 6) != 0 || !number(&p, "-", &r->range_first) || *p++ != '-' ||
        !number(&p, "/", &last) || *p++ != '/')
        return;
    r->range_total = UINT64_MAX;
    r->has_range = strcmp(p, "*") == 0 || number(&p, "", &r->range_total);
}

static size_t on_header(char *data, size_t size, size_t count, void *ctx) {
    mlxd_hub_conn *c = ctx;
    mlxd_hub_reply *r = c->reply;
    mlxd_slice line = {(const uint8_t *)data, size * count}, v;
    if (line.len > 5 && strncasecmp(data, "HTTP/", 5) == 0) {
        *r = (mlxd_hub_reply){.status = 0}; /* of a proxy, or an interim one: forget it */
    } else if (header(line, "content-length", &v)) {
        read_number(v, &r->has_length, &r->length);
    } else if (header(line, "content-range", &v)) {
        read_range(r, v);
    } else if (header(line, "retry-after", &v)) {
        bool has;
        uint64_t s = 0;
        read_number(v, &has, &s); /* the form with a date is not used by the hub */
        r->retry_after_s = has ? (unsigned)MLXD_MIN(s, (uint64_t)UINT32_MAX) : 0;
    } else if (header(line, "link", &v)) {
        size_t n = strlen(r->link);
        snprintf(r->link + n, sizeof r->link - n, "%s%.*s", n ? ", " : "",
                 (int)MLXD_MIN(v.len, sizeof r->link), (const char *)v.data);
    } else if (header(line, "x-error-code", &v)) {
        copy_text(r->error_code, sizeof r->error_code, v);
    } else if (header(line, "x-error-message", &v)) {
        copy_text(r->error_message, sizeof r->error_message, v);
    }
    return line.len;
}

/* ---- body ---- */

static bool is_good(long status) {
    return status == 200 || status == 206;
}

/* Tells the sink about the answer once; false ends the try. */
static bool begin(mlxd_hub_conn *c) {
    if (c->begun)
        return true;
    c->begun = true;
    if (c->request->begin)
        c->err = c->request->begin(c->request->ctx, c->reply, c->why);
    return c->err == MLXD_OK;
}

static size_t on_body(char *data, size_t size, size_t count, void *ctx) {
    mlxd_hub_conn *c = ctx;
    size_t len = size * count;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &c->reply->status);
    if (!is_good(c->reply->status)) {
        c->discarded += len;
        return c->discarded > ERROR_BODY_MAX ? 0 : len;
    }
    if (begin(c))
        c->err = c->request->body(c->request->ctx, data, len, c->why);
    return c->err ? 0 : len;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t d, curl_off_t e) {
    mlxd_hub_conn *c = ctx;
    (void)a, (void)b, (void)d, (void)e;
    c->stopped = c->request->more && !c->request->more(c->request->ctx);
    return c->stopped;
}

/* ---- connections ---- */

static bool set_options(mlxd_hub_conn *c) {
    CURL *e = c->easy;
    const char *ca = c->settings->ca_file;
    long stall = (long)c->settings->stall_s;
    CURLcode bad = curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->error);
    bad |= curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    bad |= curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, (long)MLXD_MIN(stall, (long)CONNECT_S));
    bad |= curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
    bad |= curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, stall);
    bad |= curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 512L << 10);
    bad |= curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    bad |= curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
    bad |= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    bad |= curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    bad |= curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
    bad |= curl_easy_setopt(e, CURLOPT_XFERINFODATA, c);
    if (*ca)
        bad |= curl_easy_setopt(e, CURLOPT_CAINFO, ca);
    return bad == CURLE_OK;
}

static bool add_header(struct curl_slist **list, const char *line) {
    struct curl_slist *longer = curl_slist_append(*list, line);
    if (longer)
        *list = longer;
    return longer != NULL;
}

static bool set_headers(mlxd_hub_conn *c) {
    char token[sizeof c->settings->token + 32];
    struct curl_slist **lists[] = {&c->plain, &c->with_token};
    for (size_t i = 0; i < MLXD_COUNT_OF(lists); i++)
        /* Digests and ranges are of the file itself. */
        if (!add_header(lists[i], "Accept-Encoding: identity") ||
            !add_header(lists[i], "User-Agent: mlxd"))
            return false;
    if (!c->settings->token[0])
        return true;
    snprintf(token, sizeof token, "Authorization: Bearer %s", c->settings->token);
    bool ok = add_header(&c->with_token, token);
    memset(token, 0, sizeof token);
    return ok;
}

mlxd_err mlxd_hub_conn_open(mlxd_hub_conn **out, const mlxd_hub_settings *s, mlxd_why *why) {
    *out = NULL;
    pthread_once(&once, initialise);
    if (initialised != CURLE_OK)
        return mlxd_fail(why, MLXD_ERR_IO, "libcurl: %s", curl_easy_strerror(initialised));
    mlxd_hub_conn *c = mlxd_mem_new(1, sizeof *c);
    if (!c)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    c->settings = s;
    c->easy = curl_easy_init();
    c->home = curl_url();
    if (!c->easy || !c->home || !set_options(c) || !set_headers(c)) {
        mlxd_hub_conn_close(c);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory for a connection");
    }
    if (curl_url_set(c->home, CURLUPART_URL, s->endpoint, 0) != CURLUE_OK) {
        mlxd_hub_conn_close(c);
        return mlxd_fail(why, MLXD_ERR_CONFIG, "environment HF_ENDPOINT is no address");
    }
    *out = c;
    return MLXD_OK;
}

void mlxd_hub_conn_close(mlxd_hub_conn *c) {
    if (!c)
        return;
    curl_easy_cleanup(c->easy);
    curl_url_cleanup(c->home);
    curl_slist_free_all(c->plain);
    curl_slist_free_all(c->with_token);
    mlxd_mem_free(c);
}

/* ---- what went wrong, for a person ---- */

/* Of the storage that the hub redirects to. Its addresses are signed and expire: the next try
 * begins at the hub again. */
static mlxd_err storage_error(const mlxd_hub_conn *c, const char *host, mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_AGAIN, "%s: the hub's storage answers with status %ld", host,
                     c->reply->status);
}

static mlxd_err status_error(const mlxd_hub_conn *c, bool had_token, mlxd_why *why) {
    const mlxd_hub_reply *r = c->reply;
    const char *code = r->error_code;
    long s = r->status;
    bool gated = strcmp(code, "GatedRepo") == 0;
    if (s == 401 && had_token && !gated && strcmp(code, "RepoNotFound") != 0)
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "the hub does not accept the token (401): it may have expired; make one "
                         "at %s/settings/tokens and set HF_TOKEN",
                         c->settings->endpoint);
    if (gated && !had_token)
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "gated (%ld): accept its terms on its page at %s, then set HF_TOKEN to a "
                         "token of that account",
                         s, c->settings->endpoint);
    if (gated || s == 403)
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "no access (%ld): accept its terms on its page at %s with the account of "
                         "the token in use; a fine-grained token must allow gated repositories",
                         s, c->settings->endpoint);
    if (s == 401)
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "not found, or private (401): check the name; for a private or gated "
                         "model set HF_TOKEN");
    if (s == 404)
        return mlxd_fail(why, MLXD_ERR_NOTFOUND, "the hub has no such %s (404)",
                         strcmp(code, "RevisionNotFound") == 0 ? "revision"
                         : strcmp(code, "EntryNotFound") == 0  ? "file"
                                                               : "model");
    if (s == 416)
        return mlxd_fail(why, MLXD_ERR_RANGE, "the hub has nothing behind that place (416)");
    if (s == 429)
        return mlxd_fail(
            why, MLXD_ERR_AGAIN, "the hub limits the rate of requests (429)%s; try again in %u s%s",
            had_token ? "" : " of those without a token", r->retry_after_s ? r->retry_after_s : 60,
            had_token ? "" : ", or set HF_TOKEN");
    if (s == 408 || s == 425 || s >= 500)
        return mlxd_fail(why, MLXD_ERR_AGAIN, "the hub has a problem (status %ld)%s%s", s,
                         r->error_message[0] ? ": " : "", r->error_message);
    return mlxd_fail(why, MLXD_ERR_PROTO, "unexpected answer (status %ld)%s%s", s,
                     r->error_message[0] ? ": " : "", r->error_message);
}

static mlxd_err curl_error(const mlxd_hub_conn *c, CURLcode code, const char *host, mlxd_why *why) {
    static const CURLcode again[] = {CURLE_COULDNT_RESOLVE_PROXY,
                                     CURLE_COULDNT_RESOLVE_HOST,
                                     CURLE_COULDNT_CONNECT,
                                     CURLE_OPERATION_TIMEDOUT,
                                     CURLE_SSL_CONNECT_ERROR,
                                     CURLE_GOT_NOTHING,
                                     CURLE_SEND_ERROR,
                                     CURLE_RECV_ERROR,
                                     CURLE_PARTIAL_FILE,
                                     CURLE_HTTP2,
                                     CURLE_HTTP2_STREAM,
                                     CURLE_WEIRD_SERVER_REPLY};
    const char *text = c->error[0] ? c->error : curl_easy_strerror(code);
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
        code == CURLE_SSL_ISSUER_ERROR)
        return mlxd_fail(why, MLXD_ERR_PEER,
                         "%s: the certificate cannot be trusted: %s (is the clock right? behind a "
                         "proxy with its own authority set SSL_CERT_FILE to that)",
                         host, text);
    if (code == CURLE_OUT_OF_MEMORY)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory for a connection");
    if (code == CURLE_OPERATION_TIMEDOUT)
        return mlxd_fail(why, MLXD_ERR_AGAIN, "%s: nothing came for a long time: %s", host, text);
    for (size_t i = 0; i < MLXD_COUNT_OF(again); i++)
        if (code == again[i])
            return mlxd_fail(why, MLXD_ERR_AGAIN, "%s: %s", host, text);
    return mlxd_fail(why, MLXD_ERR_PEER, "%s: %s", host, text);
}

/* ---- one try ---- */

static bool same_part(CURLU *a, CURLU *b, CURLUPart part) {
    char *x = NULL, *y = NULL;
    bool same = curl_url_get(a, part, &x, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                curl_url_get(b, part, &y, CURLU_DEFAULT_PORT) == CURLUE_OK && strcasecmp(x, y) == 0;
    curl_free(x);
    curl_free(y);
    return same;
}

static bool same_origin(CURLU *a, CURLU *b) {
    return same_part(a, b, CURLUPART_SCHEME) && same_part(a, b, CURLUPART_HOST) &&
           same_part(a, b, CURLUPART_PORT);
}

static void host_name(CURLU *url, char out[128]) {
    char *host = NULL;
    bool ok = curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK;
    snprintf(out, 128, "%.120s", ok ? host : "the hub");
    curl_free(host);
}

/* Asks one host. AGAIN with *next set (curl_free) is a redirect. */
static mlxd_err ask(mlxd_hub_conn *c, CURLU *url, char **next, mlxd_why *why) {
    char range[32], host[128], *location = NULL;
    bool home = same_origin(url, c->home);
    c->begun = c->stopped = false;
    c->discarded = 0;
    c->err = MLXD_OK;
    c->error[0] = 0;
    *c->reply = (mlxd_hub_reply){.status = 0};
    host_name(url, host);
    snprintf(range, sizeof range, "%llu-", (unsigned long long)c->request->from);
    CURLcode bad = curl_easy_setopt(c->easy, CURLOPT_CURLU, url);
    bad |= curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, home ? c->with_token : c->plain);
    bad |= curl_easy_setopt(c->easy, CURLOPT_RANGE, c->request->from ? range : NULL);
    if (bad != CURLE_OK)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory for a connection");
    CURLcode code = curl_easy_perform(c->easy);
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &c->reply->status);
    curl_easy_getinfo(c->easy, CURLINFO_REDIRECT_URL, &location);
    long s = c->reply->status;
    if (c->stopped)
        return mlxd_fail(why, MLXD_ERR_CANCELLED, "interrupted");
    if (c->err)
        return c->err;
    if (s >= 300 && s < 400 && location) {
        *next = location; /* lent by the handle until its next request */
        return MLXD_ERR_AGAIN;
    }
    if (s >= 300 && !home && s != 416)
        return storage_error(c, host, why);
    if (s >= 300)
        return status_error(c, c->settings->token[0] != 0, why);
    if (code != CURLE_OK)
        return curl_error(c, code, host, why);
    if (!is_good(s))
        return mlxd_fail(why, MLXD_ERR_PROTO, "%s: unexpected answer (status %ld)", host, s);
    return begin(c) ? MLXD_OK : c->err;
}

/* Moves `url` to where the hub points; from https only to https. */
static mlxd_err redirect(CURLU *url, const char *location, mlxd_why *why) {
    char *from = NULL, *to = NULL;
    mlxd_err err = MLXD_OK;
    CURLUcode bad = curl_url_get(url, CURLUPART_SCHEME, &from, 0);
    bad |= curl_url_set(url, CURLUPART_URL, location, 0);
    bad |= curl_url_get(url, CURLUPART_SCHEME, &to, 0);
    if (bad != CURLUE_OK || (strcasecmp(to, "http") != 0 && strcasecmp(to, "https") != 0))
        err = mlxd_fail(why, MLXD_ERR_PROTO, "the hub redirects to something that is no address");
    else if (strcasecmp(from, "https") == 0 && strcasecmp(to, "https") != 0)
        err = mlxd_fail(why, MLXD_ERR_PROTO,
                        "the hub redirects from https to http, which is not followed");
    curl_free(from);
    curl_free(to);
    return err;
}

mlxd_err mlxd_hub_get(mlxd_hub_conn *c, const mlxd_hub_request *r, mlxd_hub_reply *reply,
                      mlxd_why *why) {
    MLXD_ASSERT(c && r && r->url && r->body && reply);
    CURLU *url = curl_url();
    mlxd_why unused = {0};
    if (!url)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory for a connection");
    c->request = r;
    c->reply = reply;
    c->why = why ? why : &unused;
    mlxd_err err = MLXD_OK;
    if (curl_url_set(url, CURLUPART_URL, r->url, 0) != CURLUE_OK)
        err = mlxd_fail(why, MLXD_ERR_PROTO, "what the hub names is no address");
    for (unsigned hop = 0; !err; hop++) {
        char *next = NULL;
        err = ask(c, url, &next, c->why);
        if (!next)
            break;
        err = hop == MLXD_LIMIT_HUB_REDIRECTS
                  ? mlxd_fail(why, MLXD_ERR_PROTO, "the hub redirects more than %u times",
                              MLXD_LIMIT_HUB_REDIRECTS)
                  : redirect(url, next, why);
    }
    curl_easy_setopt(c->easy, CURLOPT_CURLU, NULL);
    curl_url_cleanup(url);
    return err;
}

/* ---- tries ---- */

bool mlxd_hub_try_again(mlxd_hub_tries *t, const mlxd_hub_reply *reply, bool (*more)(void *ctx),
                        void *ctx) {
    if (++t->failed >= MLXD_LIMIT_HUB_TRIES || reply->retry_after_s > MLXD_LIMIT_HUB_WAIT_S)
        return false;
    uint64_t ms = MLXD_MIN((uint64_t)WAIT_FIRST_MS << (t->failed - 1), (uint64_t)WAIT_MAX_MS);
    ms = MLXD_MAX(ms, (uint64_t)reply->retry_after_s * 1000);
    uint64_t end = mlxd_clock_now_ns() + ms * MLXD_NS_PER_MS;
    const struct timespec nap = {.tv_nsec = (long)(50 * MLXD_NS_PER_MS)};
    while (mlxd_clock_now_ns() < end) {
        if (more && !more(ctx))
            return false;
        (void)nanosleep(&nap, NULL);
    }
    return true;
}

mlxd_err mlxd_hub_give_up(mlxd_err err, const mlxd_hub_reply *reply, mlxd_why *why) {
    if (err != MLXD_ERR_AGAIN || reply->status == 429)
        return err;
    return mlxd_fail_in(why, MLXD_ERR_PEER, "gave up after %u tries", MLXD_LIMIT_HUB_TRIES);
}

struct small {
    mlxd_buf *out;
    bool (*more)(void *ctx);
    void *ctx;
};

static mlxd_err begin_small(void *ctx, const mlxd_hub_reply *reply, mlxd_why *why) {
    struct small *s = ctx;
    if (reply->status != 200)
        return mlxd_fail(why, MLXD_ERR_PROTO, "unexpected answer (status %ld)", reply->status);
    mlxd_buf_clear(s->out);
    return MLXD_OK;
}

static mlxd_err add_small(void *ctx, const void *data, size_t len, mlxd_why *why) {
    struct small *s = ctx;
    mlxd_buf_add(s->out, data, len);
    return s->out->failed
               ? mlxd_fail(why, MLXD_ERR_PROTO, "the hub's answer is larger than %zu bytes",
                           s->out->bytes_max)
               : MLXD_OK;
}

static bool more_small(void *ctx) {
    struct small *s = ctx;
    return !s->more || s->more(s->ctx);
}

mlxd_err mlxd_hub_get_small(mlxd_hub_conn *c, const char *url, bool (*more)(void *ctx), void *ctx,
                            mlxd_buf *out, mlxd_hub_reply *reply, mlxd_why *why) {
    struct small s = {out, more, ctx};
    mlxd_hub_request r = {
        .url = url, .begin = begin_small, .body = add_small, .more = more_small, .ctx = &s};
    mlxd_hub_tries tries = {0};
    for (;;) {
        mlxd_err err = mlxd_hub_get(c, &r, reply, why);
        if (!err && out->len == 0) /* a connection that ended among the headers looks like this */
            err = mlxd_fail(why, MLXD_ERR_AGAIN, "the hub's answer is empty");
        if (err != MLXD_ERR_AGAIN)
            return err;
        if (!mlxd_hub_try_again(&tries, reply, more_small, &s))
            return more_small(&s) ? mlxd_hub_give_up(err, reply, why)
                                  : mlxd_fail(why, MLXD_ERR_CANCELLED, "interrupted");
    }
}

void mlxd_hub_url_add(mlxd_buf *url, const char *text, bool slash) {
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                "-._~";
    for (; *text; text++)
        if (strchr(plain, *text) || (slash && *text == '/'))
            mlxd_buf_add_byte(url, (uint8_t)*text);
        else
            mlxd_buf_addf(url, "%%%02X", (unsigned)(unsigned char)*text);
}
