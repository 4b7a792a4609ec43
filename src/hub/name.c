/* name.c - see name.h. */
#include "hub/name.h"

#include "format/utf8.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

bool mlxd_hub_path_ok(mlxd_slice path) {
    size_t part = 0;
    if (path.len == 0 || path.len > MLXD_LIMIT_HUB_PATH || mlxd_utf8_check(path) != path.len)
        return false;
    for (size_t i = 0; i <= path.len; i++) {
        if (i < path.len && path.data[i] != '/') {
            if (path.data[i] < 0x20 || path.data[i] == 0x7f || path.data[i] == '\\')
                return false;
            continue;
        }
        const uint8_t *p = path.data + part;
        size_t len = i - part;
        if (len == 0 || len > 255 || (len == 1 && p[0] == '.') ||
            (len == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        part = i + 1;
    }
    return true;
}

static bool word_ok(const uint8_t *p, size_t len) {
    if (len == 0 || len > 96 || p[0] == '.' || p[0] == '-' || p[len - 1] == '.' ||
        p[len - 1] == '-')
        return false;
    for (size_t i = 0; i < len; i++) {
        bool good = (p[i] < 0x80 && isalnum(p[i])) || (p[i] != 0 && strchr("._-", p[i]));
        /* "--" stands for the slash in the cache's folder names. */
        if (!good || (i > 0 && p[i] == p[i - 1] && (p[i] == '-' || p[i] == '.')))
            return false;
    }
    return true;
}

bool mlxd_hub_repo_ok(mlxd_slice repo) {
    if (repo.len == 0 || repo.len > MLXD_LIMIT_HUB_REPO)
        return false;
    const uint8_t *slash = memchr(repo.data, '/', repo.len);
    if (!slash)
        return word_ok(repo.data, repo.len);
    size_t org = (size_t)(slash - repo.data);
    return word_ok(repo.data, org) && word_ok(slash + 1, repo.len - org - 1);
}

bool mlxd_hub_revision_ok(mlxd_slice revision) {
    if (revision.len > MLXD_LIMIT_HUB_REVISION || !mlxd_hub_path_ok(revision) ||
        revision.data[0] == '-')
        return false;
    for (size_t i = 0; i < revision.len; i++)
        if (revision.data[i] >= 0x80 || strchr(" ~^:?*[", revision.data[i]))
            return false;
    return true;
}

bool mlxd_hub_commit_ok(mlxd_slice commit) {
    if (commit.len != MLXD_HUB_COMMIT)
        return false;
    for (size_t i = 0; i < commit.len; i++)
        if (commit.data[i] >= 0x80 || !strchr("0123456789abcdef", commit.data[i]))
            return false;
    return true;
}

/* ---- parsing ---- */

static mlxd_err bad(mlxd_why *why, const char *text, const char *reason) {
    return mlxd_fail(why, MLXD_ERR_INVALID,
                     "\"%.120s\" is no model name: %s (expected org/name, org/name:QUANTIZATION or "
                     "org/name/file.gguf, each with @REVISION if wanted)",
                     text, reason);
}

static bool copy(char *out, size_t size, const char *from, size_t len) {
    if (len >= size)
        return false;
    memcpy(out, from, len);
    out[len] = 0;
    return true;
}

/* Decodes %XX in place of `text`; false for a malformed escape or a NUL. */
static bool unescape(char *text) {
    char *out = text;
    for (const char *p = text; *p; p++, out++) {
        unsigned v;
        if (*p != '%') {
            *out = *p;
            continue;
        }
        if (!isxdigit((unsigned char)p[1]) || !isxdigit((unsigned char)p[2]) ||
            sscanf(p + 1, "%2x", &v) != 1 || v == 0)
            return false;
        *out = (char)v;
        p += 2;
    }
    *out = 0;
    return true;
}

/* Length of the revision at the start of "rev/path": one part, or three for refs/pr/1. */
static size_t revision_len(const char *s) {
    size_t n = strcspn(s, "/");
    if (n == 4 && strncmp(s, "refs", 4) == 0)
        for (int i = 0; i < 2 && s[n] == '/'; i++)
            n += 1 + strcspn(s + n + 1, "/");
    return n;
}

/* "org/name", or if `bare` also "name", and what stands behind it, which begins with '/', ':' or
 * '@' or is empty. */
static bool split_repo(mlxd_hub_name *n, const char *text, bool bare, const char **rest) {
    size_t len = strcspn(text, "/:@");
    if (text[len] == '/')
        len += 1 + strcspn(text + len + 1, "/:@");
    else if (!bare)
        return false;
    *rest = text + len;
    return copy(n->repo, sizeof n->repo, text, len) && mlxd_hub_repo_ok(mlxd_slice_str(n->repo));
}

/* The page of a browser: org/name[/{tree,blob,resolve,raw}/rev[/path]][?query]. */
static mlxd_err parse_address(mlxd_hub_name *n, const char *text, const char *page, mlxd_why *why) {
    static const char *const kinds[] = {"/tree/", "/blob/", "/resolve/", "/raw/"};
    char path[MLXD_LIMIT_HUB_PATH + MLXD_LIMIT_HUB_REPO + MLXD_LIMIT_HUB_REVISION + 16];
    const char *rest;
    if (!copy(path, sizeof path, page, strcspn(page, "?#")))
        return bad(why, text, "too long");
    for (size_t end = strlen(path); end > 0 && path[end - 1] == '/'; end--)
        path[end - 1] = 0;
    if (!split_repo(n, path, false, &rest))
        return bad(why, text, "the address is not that of a model");
    if (!*rest)
        return MLXD_OK;
    for (size_t i = 0; i < MLXD_COUNT_OF(kinds); i++) {
        size_t len = strlen(kinds[i]);
        if (strncmp(rest, kinds[i], len) != 0)
            continue;
        rest += len;
        size_t rev = revision_len(rest);
        const char *file = rest[rev] ? rest + rev + 1 : "";
        if (i == 0 && *file)
            return bad(why, text, "a folder of a repository is no model");
        if (!copy(n->revision, sizeof n->revision, rest, rev) ||
            !copy(n->file, sizeof n->file, file, strlen(file)) || !unescape(n->revision) ||
            !unescape(n->file))
            return bad(why, text, "malformed address");
        return MLXD_OK;
    }
    return bad(why, text, "the address is not that of a model or of a file of it");
}

/* Text behind "scheme://host/", when the host is the hub's. */
static const char *behind_host(const char *text, const char *endpoint) {
    static const char *const hubs[] = {"https://huggingface.co/", "https://www.huggingface.co/",
                                       "https://hf.co/", "http://huggingface.co/"};
    size_t len = strlen(endpoint);
    if (strncasecmp(text, endpoint, len) == 0 && text[len] == '/')
        return text + len + 1;
    for (size_t i = 0; i < MLXD_COUNT_OF(hubs); i++)
        if (strncasecmp(text, hubs[i], strlen(hubs[i])) == 0)
            return text + strlen(hubs[i]);
    return NULL;
}

/* What stands behind the repository: [/file] [:tag] [@revision], the last two in either order; with
 * hf:// also @revision/file. */
static mlxd_err parse_rest(mlxd_hub_name *n, const char *text, const char *rest, bool scheme,
                           mlxd_why *why) {
    while (*rest) {
        char what = *rest++;
        size_t len = what == '/' ? strcspn(rest, "@") : strcspn(rest, ":@");
        if (what == '@' && scheme)
            len = MLXD_MIN(revision_len(rest), strcspn(rest, ":"));
        char *out = what == '/' ? n->file : what == ':' ? n->tag : n->revision;
        size_t size = what == '/'   ? sizeof n->file
                      : what == ':' ? sizeof n->tag
                                    : sizeof n->revision;
        if (*out)
            return bad(why, text, "a part of it is there twice");
        if (len == 0)
            return bad(why, text, "it ends too early");
        if (!copy(out, size, rest, len))
            return bad(why, text, "too long");
        rest += len;
    }
    return MLXD_OK;
}

mlxd_err mlxd_hub_name_parse(mlxd_hub_name *out, const char *text, const char *endpoint,
                             mlxd_why *why) {
    MLXD_ASSERT(out && text && endpoint);
    mlxd_hub_name n = {.repo = ""};
    mlxd_err err = MLXD_OK;
    if (strstr(text, "://") && strncmp(text, "hf://", 5) != 0) {
        const char *page = behind_host(text, endpoint);
        if (!page)
            return bad(why, text, "the address is not that of the hub");
        err = parse_address(&n, text, page, why);
    } else {
        bool scheme = strncmp(text, "hf://", 5) == 0;
        const char *rest;
        if (!split_repo(&n, text + (scheme ? 5 : 0), scheme, &rest))
            return bad(why, text, "it does not begin with org/name");
        err = parse_rest(&n, text, rest, scheme, why);
    }
    if (err)
        return err;
    if (n.tag[0] && n.file[0])
        return bad(why, text, "both a file and a quantization");
    for (const char *p = n.tag; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return bad(why, text, "the quantization has a character that is none of a-z 0-9 . _ -");
    if (n.file[0] && !mlxd_hub_path_ok(mlxd_slice_str(n.file)))
        return bad(why, text, "the file's path is not relative and plain");
    n.has_revision = n.revision[0] != 0;
    if (!n.has_revision)
        snprintf(n.revision, sizeof n.revision, "main");
    if (!mlxd_hub_revision_ok(mlxd_slice_str(n.revision)))
        return bad(why, text, "the revision is not one");
    /* A repository "x/model.gguf" is far less likely than a file that is not there. */
    size_t len = strlen(n.repo);
    if (len > 5 && strcasecmp(n.repo + len - 5, ".gguf") == 0)
        return bad(why, text, "it reads like a file's path");
    *out = n;
    return MLXD_OK;
}

void mlxd_hub_name_format(const mlxd_hub_name *n, char *out, size_t size) {
    bool named = strcmp(n->revision, "main") != 0;
    snprintf(out, size, "%s%s%s%s%s%s%s", n->repo, n->file[0] ? "/" : "", n->file,
             n->tag[0] ? ":" : "", n->tag, named ? "@" : "", named ? n->revision : "");
}
