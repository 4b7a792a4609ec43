/* choose.c - see choose.h. */
#include "hub/choose.h"

#include "format/json.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define INDEX "model.safetensors.index.json"
#define SINGLE "model.safetensors"

/* ---- names of GGUF files ---- */

static const char *base_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool has_prefix(const char *text, const char *prefix) {
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

static bool contains(const char *text, const char *word) {
    for (; *text; text++)
        if (has_prefix(text, word))
            return true;
    return false;
}

/* A .gguf that is a language model's. */
static bool is_model(const char *path) {
    const char *base = base_of(path);
    size_t len = strlen(base);
    return len > 5 && strcasecmp(base + len - 5, ".gguf") == 0 && !contains(base, "mmproj") &&
           !has_prefix(base, "mtp-") && !contains(base, "imatrix");
}

/* "-00002-of-00003" at the end of a name of `len` bytes: 2 and 3. */
static bool split_of(const char *path, size_t len, uint32_t *part, uint32_t *parts) {
    const char *p = path + len - 15;
    if (len <= 15 || p[0] != '-' || memcmp(p + 6, "-of-", 4) != 0)
        return false;
    *part = *parts = 0;
    for (size_t i = 0; i < 5; i++) {
        if (!isdigit((unsigned char)p[1 + i]) || !isdigit((unsigned char)p[10 + i]))
            return false;
        *part = *part * 10 + (uint32_t)(p[1 + i] - '0');
        *parts = *parts * 10 + (uint32_t)(p[10 + i] - '0');
    }
    return *part >= 1 && *part <= *parts;
}

/* Length of a quantization's name at the start of `s`, or 0: Q4_K_M, IQ2_XXS, UD-Q4_K_XL, BF16,
 * MXFP4_MOE, ... It ends where the name's part ends. */
static size_t label_len(const char *s, const char *end) {
    static const char *const words[] = {"BF16", "F16", "F32", "FP16", "FP32", "MXFP4", "NVFP4"};
    const char *p = s;
    if (end - p > 3 && has_prefix(p, "UD-"))
        p += 3;
    bool found = false;
    for (size_t i = 0; i < MLXD_COUNT_OF(words) && !found; i++)
        if ((size_t)(end - p) >= strlen(words[i]) && has_prefix(p, words[i])) {
            p += strlen(words[i]);
            found = true;
        }
    if (!found) {
        p += end - p > 1 && (has_prefix(p, "IQ") || has_prefix(p, "TQ"));
        if (end - p < 2 || toupper((unsigned char)p[0]) != 'Q' || p[1] < '1' || p[1] > '8')
            return 0;
        p += 2;
    }
    while (end - p > 1 && p[0] == '_' && isalnum((unsigned char)p[1]))
        for (p++; p < end && isalnum((unsigned char)*p);)
            p++;
    return p == end || strchr("-./", *p) ? (size_t)(p - s) : 0;
}

/* The last quantization in a stem, upper case. */
static void find_label(mlxd_slice stem, char out[MLXD_LIMIT_HUB_TAG + 1]) {
    const char *s = (const char *)stem.data, *end = s + stem.len;
    size_t len = 0;
    out[0] = 0;
    for (const char *p = s; p < end; p += len ? len : 1) {
        len = p == s || strchr("-._/", p[-1]) ? label_len(p, end) : 0;
        if (len == 0 || len > MLXD_LIMIT_HUB_TAG)
            continue;
        for (size_t i = 0; i < len; i++)
            out[i] = (char)toupper((unsigned char)p[i]);
        out[len] = 0;
    }
}

/* The stem of a GGUF model's file, and which part it is of how many. */
static mlxd_slice stem_of(const char *path, uint32_t *part, uint32_t *parts) {
    mlxd_slice stem = {(const uint8_t *)path, strlen(path) - 5};
    *part = *parts = 1;
    if (split_of(path, stem.len, part, parts))
        stem.len -= 15;
    return stem;
}

static bool belongs(const mlxd_hub_gguf *g, const char *path) {
    uint32_t part, parts;
    if (!is_model(path))
        return false;
    mlxd_slice stem = stem_of(path, &part, &parts);
    return parts == g->parts_want && mlxd_slice_eq(stem, g->stem);
}

mlxd_err mlxd_hub_ggufs(const mlxd_hub_files *files, mlxd_hub_gguf **out, size_t *count,
                        mlxd_why *why) {
    mlxd_hub_gguf *all = mlxd_mem_new(files->count + 1, sizeof *all);
    *out = NULL;
    *count = 0;
    if (!all)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < files->count; i++) {
        const mlxd_hub_file *f = &files->items[i];
        uint32_t part, parts;
        if (!is_model(f->path))
            continue;
        mlxd_slice stem = stem_of(f->path, &part, &parts);
        /* Parts follow each other, as the files are sorted. */
        mlxd_hub_gguf *g = *count ? &all[*count - 1] : NULL;
        if (!g || parts == 1 || g->parts_want != parts || !mlxd_slice_eq(g->stem, stem)) {
            g = &all[(*count)++];
            *g = (mlxd_hub_gguf){.stem = stem, .parts_want = parts, .first = f->path};
            find_label(stem, g->label);
        }
        g->parts++;
        g->bytes += f->size;
        g->broken = g->broken || f->broken;
    }
    *out = all;
    return MLXD_OK;
}

/* ---- which of them ---- */

/* Without a tag: a good answer for its size first, then what is nearest to the original. */
static const char *const preferred[] = {"Q4_K_M", "Q8_0",   "Q5_K_M", "Q6_K", "Q4_K_S", "Q4_0",
                                        "Q5_K_S", "Q5_0",   "Q4_1",   "Q5_1", "MXFP4",  "IQ4_XS",
                                        "IQ4_NL", "Q3_K_M", "BF16",   "F16",  "F32"};

/* "Q4_K_M (4.1 GiB), ..." of all models, as far as the text goes. */
static void list_models(const mlxd_hub_gguf *all, size_t count, char *out, size_t size) {
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        char name[96];
        const char *label = all[i].label[0] ? all[i].label : base_of(all[i].first);
        snprintf(name, sizeof name, "%s%.60s (%.1f GiB)", i ? ", " : "", label,
                 (double)all[i].bytes / (double)(1u << 30));
        size_t n = strlen(name);
        if (len + n + 5 > size) {
            snprintf(out + len, size - len, " ...");
            return;
        }
        memcpy(out + len, name, n + 1);
        len += n;
    }
}

static bool label_is(const mlxd_hub_gguf *g, const char *tag) {
    return g->label[0] && strcasecmp(g->label, tag) == 0;
}

/* Unsloth's files say UD-Q4_K_XL where people say Q4_K_XL. */
static bool label_is_ud(const mlxd_hub_gguf *g, const char *tag) {
    return has_prefix(g->label, "UD-") && strcasecmp(g->label + 3, tag) == 0;
}

static bool name_has(const mlxd_hub_gguf *g, const char *tag) {
    const char *s = (const char *)g->stem.data;
    size_t len = strlen(tag);
    for (size_t i = 0; i + len <= g->stem.len; i++)
        if (strncasecmp(s + i, tag, len) == 0 && (i == 0 || strchr("-._/", s[i - 1])) &&
            (i + len == g->stem.len || strchr("-._/", s[i + len])))
            return true;
    return false;
}

/* The models that a tag means: those with exactly this label, else with "UD-" before it, else with
 * these words in their name. Returns how many, and one of them. */
static size_t match_tag(const mlxd_hub_gguf *all, size_t count, const char *tag, size_t *which) {
    static bool (*const tests[])(const mlxd_hub_gguf *, const char *) = {label_is, label_is_ud,
                                                                         name_has};
    size_t found = 0;
    for (size_t t = 0; t < MLXD_COUNT_OF(tests) && found == 0; t++)
        for (size_t i = count; i-- > 0;)
            if (tests[t](&all[i], tag)) {
                *which = i;
                found++;
            }
    return found;
}

static mlxd_err pick_gguf(const mlxd_hub_gguf *all, size_t count, const mlxd_hub_name *n,
                          size_t *which, mlxd_why *why) {
    char list[320], name[200];
    size_t found = 0;
    list_models(all, count, list, sizeof list);
    snprintf(name, sizeof name, "%.190s", n->repo);
    if (n->tag[0]) {
        found = match_tag(all, count, n->tag, which);
        if (found == 0)
            return mlxd_fail(why, MLXD_ERR_NOTFOUND, "%.100s has no %s; there is: %s", name, n->tag,
                             list);
    } else if (count == 1) {
        *which = 0;
        found = 1;
    } else {
        for (size_t i = 0; i < MLXD_COUNT_OF(preferred) && found == 0; i++)
            found = match_tag(all, count, preferred[i], which);
    }
    if (found == 1)
        return MLXD_OK;
    return mlxd_fail(why, MLXD_ERR_INVALID,
                     "%.100s has %zu models that fit; name one as %.60s:QUANTIZATION or "
                     "org/name/file.gguf: %s",
                     name, found ? found : count, name, list);
}

static mlxd_err want_gguf(mlxd_hub_choice *c, const mlxd_hub_files *files, const mlxd_hub_gguf *g,
                          mlxd_why *why) {
    c->format = MLXD_HUB_GGUF;
    c->open = g->first;
    if (g->parts != g->parts_want)
        return mlxd_fail(why, MLXD_ERR_NOTFOUND, "\"%.200s\": %u of its %u parts are there",
                         g->first, g->parts, g->parts_want);
    for (size_t i = 0; i < files->count; i++)
        c->wanted[i] = belongs(g, files->items[i].path);
    return MLXD_OK;
}

/* A file by its path: a GGUF with the other parts of it, or anything else alone. */
static mlxd_err want_file(mlxd_hub_choice *c, const mlxd_hub_files *files, const mlxd_hub_gguf *all,
                          size_t count, const mlxd_hub_name *n, mlxd_why *why) {
    const mlxd_hub_file *f = mlxd_hub_files_find(files, n->file);
    if (!f)
        return mlxd_fail(why, MLXD_ERR_NOTFOUND, "%.100s has no file \"%.200s\"", n->repo, n->file);
    for (size_t i = 0; i < count; i++)
        if (belongs(&all[i], f->path))
            return want_gguf(c, files, &all[i], why);
    c->wanted[f - files->items] = true;
    c->open = f->path;
    return MLXD_OK;
}

/* ---- safetensors ---- */

static void want(mlxd_hub_choice *c, const mlxd_hub_files *files, const char *path) {
    const mlxd_hub_file *f = mlxd_hub_files_find(files, path);
    if (f)
        c->wanted[f - files->items] = true;
}

/* Weights at the top of the repository: not a second copy in another layout, not an adapter. */
static bool is_weights(const char *path) {
    size_t len = strlen(path);
    return len > 12 && strcmp(path + len - 12, ".safetensors") == 0 && !strchr(path, '/') &&
           !has_prefix(path, "consolidated") && !has_prefix(path, "adapter");
}

static size_t want_weights(mlxd_hub_choice *c, const mlxd_hub_files *files) {
    size_t found = 0;
    if (mlxd_hub_files_find(files, SINGLE)) {
        want(c, files, SINGLE);
        return 1;
    }
    for (size_t i = 0; i < files->count; i++)
        if (is_weights(files->items[i].path)) {
            c->wanted[i] = true;
            found++;
        }
    return found;
}

static mlxd_err want_safetensors(mlxd_hub_choice *c, const mlxd_hub_files *files,
                                 const mlxd_hub_name *n, mlxd_why *why) {
    static const char *const always[] = {
        "config.json",           "generation_config.json",  "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
        "chat_template.json"};
    /* What a tokenizer.json holds in one file. */
    static const char *const older[] = {"vocab.json", "merges.txt", "added_tokens.json",
                                        "tokenizer.model", "tiktoken.model"};
    c->format = MLXD_HUB_SAFETENSORS;
    for (size_t i = 0; i < MLXD_COUNT_OF(always); i++)
        want(c, files, always[i]);
    for (size_t i = 0; i < MLXD_COUNT_OF(older) && !mlxd_hub_files_find(files, "tokenizer.json");
         i++)
        want(c, files, older[i]);
    c->index = mlxd_hub_files_find(files, INDEX);
    if (c->index)
        want(c, files, INDEX);
    else if (want_weights(c, files) == 0)
        return mlxd_fail(why, MLXD_ERR_NOTFOUND,
                         "%.100s has no weights as safetensors or GGUF at its top", n->repo);
    return MLXD_OK;
}

mlxd_err mlxd_hub_choose_shards(mlxd_hub_choice *c, const mlxd_hub_files *files, mlxd_slice json,
                                mlxd_why *why) {
    mlxd_json_doc *doc;
    mlxd_slice name;
    mlxd_err err = mlxd_json_parse(&doc, json, MLXD_LIMIT_JSON_DEPTH, why);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_NOMEM ? err : MLXD_ERR_DATA, "%s", INDEX);
    const mlxd_json *root = mlxd_json_root(doc);
    const mlxd_json *map =
        mlxd_json_get_kind(root) == MLXD_JSON_OBJECT ? mlxd_json_find(root, "weight_map") : NULL;
    if (!map || mlxd_json_get_kind(map) != MLXD_JSON_OBJECT || mlxd_json_count(map) == 0)
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s: expected an object \"weight_map\"", INDEX);
    for (const mlxd_json *v = err ? NULL : mlxd_json_first(map, NULL); v && !err;
         v = mlxd_json_next(map, v, NULL)) {
        if (mlxd_json_get_str(v, &name) || !mlxd_hub_path_ok(name)) {
            err = mlxd_fail(why, MLXD_ERR_DATA, "%s: a tensor's file has no plain name", INDEX);
            break;
        }
        const mlxd_hub_file *f = mlxd_hub_files_find(files, (const char *)name.data);
        if (f)
            c->wanted[f - files->items] = true;
        else
            err = mlxd_fail(why, MLXD_ERR_NOTFOUND, "%s names \"%.200s\", which is not there",
                            INDEX, (const char *)name.data);
    }
    mlxd_json_close(doc);
    return err;
}

/* ---- all together ---- */

static mlxd_err want_patterns(mlxd_hub_choice *c, const mlxd_hub_files *files,
                              const char *const *patterns, size_t n_patterns,
                              const mlxd_hub_gguf *all, size_t count, mlxd_why *why) {
    for (size_t p = 0; p < n_patterns; p++) {
        bool any = false;
        for (size_t i = 0; i < files->count; i++)
            if (fnmatch(patterns[p], files->items[i].path, 0) == 0)
                any = c->wanted[i] = true;
        if (!any)
            return mlxd_fail(why, MLXD_ERR_NOTFOUND, "no file fits the pattern \"%.100s\"",
                             patterns[p]);
    }
    c->format = MLXD_HUB_SAFETENSORS;
    for (size_t i = count; i-- > 0;)
        if (c->wanted[mlxd_hub_files_find(files, all[i].first) - files->items]) {
            c->format = MLXD_HUB_GGUF;
            c->open = all[i].first;
        }
    return MLXD_OK;
}

bool mlxd_hub_has_safetensors(const mlxd_hub_files *files) {
    if (!mlxd_hub_files_find(files, "config.json"))
        return false;
    for (size_t i = 0; i < files->count; i++)
        if (is_weights(files->items[i].path))
            return true;
    return mlxd_hub_files_find(files, INDEX) != NULL;
}

mlxd_err mlxd_hub_choose(mlxd_hub_choice *out, const mlxd_hub_files *files, const mlxd_hub_name *n,
                         const char *const *patterns, size_t n_patterns, mlxd_why *why) {
    *out = (mlxd_hub_choice){.wanted = mlxd_mem_new(files->count + 1, sizeof *out->wanted)};
    mlxd_hub_gguf *all = NULL;
    size_t count = 0, which = 0;
    mlxd_err err = out->wanted ? mlxd_hub_ggufs(files, &all, &count, why)
                               : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (err)
        goto done;
    if (n_patterns > 0) {
        err = want_patterns(out, files, patterns, n_patterns, all, count, why);
    } else if (n->file[0]) {
        err = want_file(out, files, all, count, n, why);
    } else if (count > 0 && (n->tag[0] || !mlxd_hub_has_safetensors(files))) {
        err = pick_gguf(all, count, n, &which, why);
        if (!err)
            err = want_gguf(out, files, &all[which], why);
    } else if (n->tag[0]) {
        err = mlxd_fail(why, MLXD_ERR_NOTFOUND,
                        "%.100s has no GGUF files, so there is no quantization \"%s\" to choose",
                        n->repo, n->tag);
    } else {
        err = want_safetensors(out, files, n, why);
    }
done:
    mlxd_mem_free(all);
    if (err)
        mlxd_hub_choice_deinit(out);
    return err;
}

void mlxd_hub_choice_deinit(mlxd_hub_choice *c) {
    mlxd_mem_free(c->wanted);
    *c = (mlxd_hub_choice){.wanted = NULL};
}
