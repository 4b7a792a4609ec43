/* test_checkpoint_dirs.c - checkpoints that are directories or several files: what other people's
 * tools wrote is read tensor by tensor and value by value; what is malformed, or leads out of the
 * directory, is refused by name. */
#include "../../support/model_file.h"

#include "model/checkpoint.h"
#include "model/weights.h"

#include <sys/wait.h>

static mlxd_pool *pool;

static int set_up(void **state) {
    mlxd_os_fpu_init();
    pool = mlxd_pool_open(2);
    return pool ? model_file_set_up(state) : -1;
}

static int tear_down(void **state) {
    mlxd_pool_close(pool);
    return model_file_tear_down(state);
}

/* ---- what other tools write ---- */

static int64_t number(const mlxd_json *v) {
    int64_t n = -1;
    assert_non_null(v);
    assert_int_equal(mlxd_json_get_int64(v, &n), MLXD_OK);
    return n;
}

static const char *text(const mlxd_json *o, const char *key) {
    mlxd_slice s;
    assert_int_equal(mlxd_json_get_str(mlxd_json_find(o, key), &s), MLXD_OK);
    return (const char *)s.data;
}

/* Digest of all streams, read in pieces that respect neither rows nor extents. */
static void digest_tensor(const mlxd_checkpoint *c, const mlxd_checkpoint_tensor *t, char *hex) {
    uint8_t buf[999], digest[MLXD_SHA256_BYTES];
    mlxd_sha256 *sha = mlxd_sha256_open();
    mlxd_why why = {0};
    for (size_t s = 0; s < t->n_streams; s++)
        for (uint64_t at = 0, n; at < t->streams[s].bytes; at += n) {
            n = MLXD_MIN((uint64_t)sizeof buf, t->streams[s].bytes - at);
            model_file_check(mlxd_checkpoint_read(c, t, s, at, buf, (size_t)n, &why), &why);
            mlxd_sha256_add(sha, buf, (size_t)n);
        }
    mlxd_sha256_get(sha, digest);
    mlxd_sha256_close(sha);
    mlxd_hex(digest, sizeof digest, hex);
}

static void check_tensor(const mlxd_checkpoint *c, const mlxd_json *want) {
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(c, text(want, "name"));
    char hex[MLXD_SHA256_HEX];
    if (!t)
        fail_msg("%s: no tensor %s", mlxd_checkpoint_path(c), text(want, "name"));
    assert_string_equal(t->encoding.label, text(want, "label"));
    for (size_t d = 0; d < MLXD_LIMIT_GGUF_DIMS; d++)
        assert_int_equal(t->dims[d], number(mlxd_json_at(mlxd_json_find(want, "dims"), d)));
    for (size_t s = 0; s < t->n_streams; s++)
        assert_int_equal(t->streams[s].row_bytes * t->dims[1] * t->dims[2], t->streams[s].bytes);
    digest_tensor(c, t, hex);
    assert_string_equal(hex, text(want, "sha256"));
}

/* The values of a matrix stored at `values`, one after the other, within a rounding. */
static void check_values(const mlxd_checkpoint *c, const mlxd_json *want, const float *values) {
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(c, text(want, "name"));
    mlxd_matrix m[4];
    mlxd_weights *w;
    mlxd_why why = {0};
    float row[256];
    mlxd_weight_spec spec = {
        .rows = t->dims[1], .cols = t->dims[0], .count = t->dims[2], .matrix = m};
    snprintf(spec.name, sizeof spec.name, "%s", t->name);
    assert_true(spec.count <= 4 && spec.cols <= 256);
    model_file_check(mlxd_weights_load(&w, c, &spec, 1, pool, NULL, &why), &why);
    for (size_t i = 0; i < spec.count; i++)
        for (size_t r = 0; r < spec.rows; r++) {
            mlxd_matrix_get_row(&m[i], r, row);
            for (size_t k = 0; k < spec.cols; k++, values++) {
                float error = row[k] - *values, limit = *values / (1 << 22);
                error = error < 0 ? -error : error;
                limit = limit < 0 ? -limit : limit;
                if (!(error <= limit + 1e-7f))
                    fail_msg("%s, matrix %zu, row %zu, column %zu: %.9g, expected %.9g", t->name, i,
                             r, k, (double)row[k], (double)*values);
            }
        }
    mlxd_weights_close(w);
}

static mlxd_checkpoint *check_golden(const char *name, const char *file) {
    char path[300];
    mlxd_json_doc *doc = golden_json("checkpoints/index.json");
    const mlxd_json *list = mlxd_json_find(mlxd_json_find(mlxd_json_root(doc), name), "tensors");
    snprintf(path, sizeof path, "%s/checkpoints/%s%s", MLXD_GOLDEN, name, file);
    mlxd_checkpoint *c = model_file_open(path);
    assert_string_equal(mlxd_checkpoint_path(c), path);
    assert_int_equal(mlxd_checkpoint_count(c), mlxd_json_count(list));
    snprintf(path, sizeof path, "checkpoints/%s/values.bin", name);
    for (size_t i = 0; i < mlxd_json_count(list); i++) {
        check_tensor(c, mlxd_json_at(list, i));
        const mlxd_json *at = mlxd_json_find(mlxd_json_at(list, i), "values");
        if (!at)
            continue;
        mlxd_buf values = golden_read(path);
        float *copy = mlxd_mem_new(values.len, 1);
        memcpy(copy, values.data, values.len);
        check_values(c, mlxd_json_at(list, i), copy + number(at));
        mlxd_mem_free(copy);
        mlxd_buf_deinit(&values);
    }
    mlxd_json_close(doc);
    return c;
}

static void hugging_face_shards_with_single_experts(void **state) {
    mlxd_buf want = golden_read("checkpoints/moe-sharded/config.json");
    (void)state;
    mlxd_checkpoint *c = check_golden("moe-sharded", "");
    mlxd_slice got = mlxd_checkpoint_document(c, "config.json");
    assert_true(mlxd_slice_eq(got, (mlxd_slice){want.data, want.len}));
    assert_int_equal(mlxd_checkpoint_document(c, "tokenizer.json").len, 0);
    assert_int_equal(mlxd_checkpoint_document(c, "model.safetensors.index.json").len, 0);
    assert_null(mlxd_checkpoint_gguf(c));
    assert_int_equal(mlxd_checkpoint_find(c, "blk.1.ffn_up_exps.weight")->streams[0].n_extents, 4);
    assert_null(mlxd_checkpoint_find(c, "blk.2.ffn_up_exps.weight"));
    mlxd_checkpoint_close(c);
    mlxd_buf_deinit(&want);
}

static void other_makers(void **state) {
    (void)state;
    mlxd_checkpoint_close(check_golden("gpt-oss", ""));
    mlxd_checkpoint_close(check_golden("mlx-affine", "/"));
    mlxd_checkpoint_close(check_golden("mlx-small", ""));
    mlxd_checkpoint_close(check_golden("split", "/model-00001-of-00003.gguf"));
    mlxd_checkpoint_close(check_golden("split", "/model-00003-of-00003.gguf"));
    mlxd_checkpoint *c = check_golden("split", "");
    assert_true(mlxd_gguf_has(mlxd_checkpoint_gguf(c), "llama.block_count"));
    mlxd_checkpoint_close(c);
}

/* ---- directories made here ---- */

/* A safetensors file with this header and `data` bytes of zeros. */
static const char *put_safetensors(const char *name, const char *json, size_t data) {
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    mini_u64(&b, strlen(json));
    mlxd_buf_add_str(&b, json);
    for (size_t i = 0; i < data; i++)
        mlxd_buf_add_byte(&b, 0);
    const char *path = model_file_put(name, b.data, b.len);
    mlxd_buf_deinit(&b);
    return path;
}

static const char *put_text(const char *name, const char *s) {
    return model_file_put(name, s, strlen(s));
}

/* A tensor of a file; data follow each other, in zeros. */
struct member {
    const char *name, *dtype, *shape;
    size_t bytes;
};

static const char *put_tensors(const char *file, const struct member *m, size_t n) {
    mlxd_buf b;
    size_t at = 0;
    mlxd_buf_init(&b, 0);
    for (size_t i = 0; i < n; at += m[i++].bytes)
        mlxd_buf_addf(&b, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                      i ? "," : "{", m[i].name, m[i].dtype, m[i].shape, at, at + m[i].bytes);
    mlxd_buf_add_str(&b, "}");
    const char *path = put_safetensors(file, mlxd_buf_str(&b), at);
    mlxd_buf_deinit(&b);
    return path;
}

/* A fresh directory with a config.json. */
static const char *new_model(const char *config) {
    static unsigned n;
    static char name[40], file[80];
    snprintf(name, sizeof name, "dir-%u", n++);
    const char *path = model_file_path(name);
    assert_int_equal(mkdir(path, 0755), 0);
    snprintf(file, sizeof file, "%s/config.json", name);
    if (config)
        put_text(file, config);
    return name;
}

static const char *in(const char *dir, const char *name) {
    static char paths[8][200];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static void refused(const char *dir, mlxd_err want, const char *what) {
    mlxd_checkpoint *c;
    mlxd_why why = {0};
    const char *path = model_file_path(dir);
    mlxd_err err = mlxd_checkpoint_open(&c, path, &why);
    if (err != want || !strstr(why.text, what) || strncmp(why.text, path, strlen(path)) != 0)
        fail_msg("%s: expected %s \"...%s...\", got %s \"%s\"", path, mlxd_err_name(want), what,
                 mlxd_err_name(err), why.text);
    assert_int_equal(mlxd_checkpoint_open(&c, path, NULL), want);
}

/* One model.safetensors with these tensors; what it is refused for, or NULL. */
static void opened(const char *config, const struct member *m, size_t n, const char *what) {
    const char *dir = new_model(config);
    put_tensors(in(dir, "model.safetensors"), m, n);
    if (what)
        refused(dir, MLXD_ERR_DATA, what);
    else
        mlxd_checkpoint_close(model_file_open(model_file_path(dir)));
}

#define L "model.layers.0."
#define QUANTIZED "{\"quantization\":{\"bits\":4,\"group_size\":32}}"

static void tensors_that_do_not_belong_together(void **state) {
    const struct member up = {L "mlp.up_proj.weight", "U8", "[1]", 1};
    const struct member expert = {L "mlp.experts.0.up_proj.weight", "U8", "[1]", 1};
    struct member m[2] = {up, {"language_model." L "mlp.up_proj.weight", "U8", "[1]", 1}};
    (void)state;
    opened("{}", m, 2, "blk.0.ffn_up.weight is there twice");
    m[0] = expert;
    m[1].name = L "mlp.experts.2.up_proj.weight";
    opened("{}", m, 2, "blk.0.ffn_up_exps.weight: expert 1 is missing");
    m[1].name = L "mlp.switch_mlp.up_proj.weight";
    opened("{}", m, 2, "is there twice");
    m[1] = (struct member){L "mlp.experts.1.up_proj.weight", "U8", "[2]", 2};
    opened("{}", m, 2, "differ in type or shape");
    m[1] = (struct member){L "mlp.experts.1.up_proj.weight", "I8", "[1]", 1};
    opened("{}", m, 2, "differ in type or shape");
    m[1].dtype = "U8";
    opened("{}", m, 2, NULL);
    m[0] = (struct member){L "mlp.up_proj.scales", "F16", "[1]", 2};
    opened(QUANTIZED, m, 1, "scales without what they belong to");
    m[0].name = L "mlp.up_proj.biases";
    opened(QUANTIZED, m, 1, "scales without what they belong to");
}

#define MX "{\"quantization\":{\"mode\":\"mxfp4\"}}"
#define RULE(bits, group) "{\"quantization\":{\"bits\":" #bits ",\"group_size\":" #group "}}"

/* A matrix of 2 x 64 in 4 bits with groups of 32, one thing or other changed. */
static void shapes_of_quantized_tensors(void **state) {
    static const struct {
        const char *config, *type, *weight, *scales_type, *scales, *biases_type, *biases, *what;
    } cases[] = {
        {QUANTIZED, "U32", "[2,8]", "F16", "[2,2]", "F16", "[2,2]", NULL},
        {QUANTIZED, "U32", "[2,8]", "BF16", "[2,2]", "BF16", "[2,2]", NULL},
        {"{}", "U32", "[2,8]", "F16", "[2,2]", "F16", "[2,2]", "does not say that it is quantized"},
        {"{\"quantization\":{\"bits\":4,\"group_size\":32,\"model.layers.0.mlp.up_proj\":false}}",
         "U32", "[2,8]", "F16", "[2,2]", "F16", "[2,2]", "does not say that it is quantized"},
        {RULE(8, 32), "U32", "[2,8]", "F16", "[2,2]", "F16", "[2,2]", "not 8 bits"},
        {RULE(4, 64), "U32", "[2,8]", "F16", "[2,2]", "F16", "[2,2]", "groups of 64"},
        {QUANTIZED, "U32", "[2,8]", "F16", "[2,2]", NULL, NULL, "do not belong together"},
        {MX, "U32", "[2,8]", "F16", "[2,2]", "F16", "[2,2]", "do not belong together"},
        {MX, "U32", "[2,8]", "F16", "[2,2]", NULL, NULL, "scales are not U8"},
        {MX, "U32", "[2,8]", "U8", "[2,2]", NULL, NULL, NULL},
        {QUANTIZED, "I32", "[2,8]", "F16", "[2,2]", "F16", "[2,2]", "do not belong together"},
        {QUANTIZED, "U32", "[1,16]", "F16", "[2,2]", "F16", "[2,2]", "do not belong together"},
        {QUANTIZED, "U32", "[16]", "F16", "[2,2]", "F16", "[2,2]", "do not belong together"},
        {QUANTIZED, "U32", "[2,8]", "F16", "[2,2]", "F32", "[2,2]", "not of one shape and type"},
        {QUANTIZED, "U32", "[2,8]", "F16", "[2,2]", "F16", "[1,4]", "not of one shape and type"},
        {QUANTIZED, "U32", "[2,8]", "F16", "[2,2]", "F16", "[2,1]", "not of one shape and type"},
        {QUANTIZED, "U32", "[2,8]", "I16", "[2,2]", "I16", "[2,2]", "not of one shape and type"},
        {QUANTIZED, "U32", "[2,8]", "F16", "[2,1]", "F16", "[2,1]", "1 scales are not 4 bits"},
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        unsigned rows, cols;
        struct member m[3] = {
            {L "mlp.up_proj.weight", cases[i].type, cases[i].weight, 64},
            {L "mlp.up_proj.scales", cases[i].scales_type, cases[i].scales, 0},
            {L "mlp.up_proj.biases", cases[i].biases_type, cases[i].biases, 0},
        };
        for (int j = 1; j < 3 && m[j].shape; j++) {
            assert_int_equal(sscanf(m[j].shape, "[%u,%u]", &rows, &cols), 2);
            const char *bits = strpbrk(m[j].dtype, "0123456789");
            m[j].bytes = (size_t)rows * cols * (size_t)atoi(bits) / 8;
        }
        opened(cases[i].config, m, m[2].shape ? 3 : 2, cases[i].what);
    }
}

/* What cannot be loaded is there, and says what it is. */
static void tensors_of_other_kinds(void **state) {
    static const struct {
        const char *name, *label;
        uint64_t dims[4];
    } want[] = {
        {"blk.0.ffn_up.weight", "U32", {3, 1, 1, 1}},
        {"blk.0.strange.thing", "F8_E4M3", {5, 4, 3, 4}},
        {"blk.0.ffn_down_exps.weight", "F16, transposed", {1, 2, 2, 1}},
        {"blk.0.attn_q.weight", "F32", {0, 2, 1, 1}},
        {"other", "I64", {1, 1, 1, 1}},
    };
    (void)state;
    static const struct member m[] = {
        {L "mlp.up_proj.weight", "U32", "[3]", 12},
        {L "strange.thing", "F8_E4M3", "[2,2,3,4,5]", 240},
        {L "mlp.experts.down_proj", "F16", "[2,2,1]", 8},
        {L "self_attn.q_proj.weight", "F32", "[2,0]", 0},
        {"lm_head.weight", "U8", "[2]", 2},
        {"other", "I64", "[]", 8},
    };
    const char *dir = new_model("{\"tie_word_embeddings\":true}");
    put_tensors(in(dir, "model.safetensors"), m, MLXD_COUNT_OF(m));
    mlxd_checkpoint *c = model_file_open(model_file_path(dir));
    assert_int_equal(mlxd_checkpoint_count(c), MLXD_COUNT_OF(want)); /* tied: no output.weight */
    for (size_t i = 0; i < MLXD_COUNT_OF(want); i++) {
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(c, want[i].name);
        assert_non_null(t);
        assert_int_equal(t->encoding.kind, MLXD_ENCODING_OTHER);
        assert_string_equal(t->encoding.label, want[i].label);
        assert_memory_equal(t->dims, want[i].dims, sizeof t->dims);
    }
    mlxd_checkpoint_close(c);
}

static const char one[] = "{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[1],"
                          "\"data_offsets\":[0,4]}}";
static const char two[] = "{\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[1],"
                          "\"data_offsets\":[0,4]}}";

static void which_files_are_read(void **state) {
    (void)state;
    const char *dir = new_model("{}"); /* no index: all of that name */
    put_safetensors(in(dir, "model-a.safetensors"), one, 4);
    put_safetensors(in(dir, "model_b.safetensors"), two, 4);
    put_safetensors(in(dir, "adapter.safetensors"), "{}", 0);
    mlxd_checkpoint *c = model_file_open(model_file_path(dir));
    assert_int_equal(mlxd_checkpoint_count(c), 2);
    assert_int_equal(mlxd_checkpoint_bytes(c), 2 * (8 + 4) + strlen(one) + strlen(two));
    mlxd_checkpoint_close(c);
    put_text(in(dir, "model.safetensors.index.json"), /* an index: its files */
             "{\"weight_map\":{\"model.norm.weight\":\"model-a.safetensors\"}}");
    c = model_file_open(model_file_path(dir));
    assert_int_equal(mlxd_checkpoint_count(c), 1);
    assert_non_null(mlxd_checkpoint_find(c, "output_norm.weight"));
    mlxd_checkpoint_close(c);
    put_safetensors(in(dir, "model.safetensors"), two, 4); /* one file: that */
    c = model_file_open(model_file_path(dir));
    assert_int_equal(mlxd_checkpoint_count(c), 1);
    assert_non_null(mlxd_checkpoint_find(c, "output.weight"));
    mlxd_checkpoint_close(c);
    dir = new_model(NULL);
    put_safetensors(in(dir, "model.safetensors"), one, 4);
    refused(dir, MLXD_ERR_NOTFOUND, "no config.json");
    put_text(in(dir, "config.json"), "");
    refused(dir, MLXD_ERR_NOTFOUND, "no config.json, or an empty one");
    put_text(in(dir, "config.json"), "{\"a\":}");
    refused(dir, MLXD_ERR_DATA, "config.json: offset 5");
    refused(new_model("{}"), MLXD_ERR_NOTFOUND, "no model in this directory");
}

static void hostile_indices(void **state) {
    static const char *const names[] = {"../dir-0/model-a.safetensors",
                                        "/etc/model.safetensors",
                                        "a/b.safetensors",
                                        "..safetensors",
                                        "",
                                        "config.json",
                                        "model.safetensors/",
                                        "model..safetensors"};
    char json[200];
    (void)state;
    const char *dir = new_model("{}");
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        snprintf(json, sizeof json, "{\"weight_map\":{\"t\":\"%s\"}}", names[i]);
        put_text(in(dir, "model.safetensors.index.json"), json);
        refused(dir, MLXD_ERR_DATA, "is not the name of a .safetensors file");
    }
    put_text(in(dir, "model.safetensors.index.json"), "{\"weight_map\":{\"t\":7}}");
    refused(dir, MLXD_ERR_DATA, "tensor t: its file is no string");
    put_text(in(dir, "model.safetensors.index.json"), "{\"weight_map\":{}}");
    refused(dir, MLXD_ERR_DATA, "no object \"weight_map\" with tensors");
    put_text(in(dir, "model.safetensors.index.json"), "[1]");
    refused(dir, MLXD_ERR_DATA, "no object \"weight_map\"");
    put_text(in(dir, "model.safetensors.index.json"), "{");
    refused(dir, MLXD_ERR_DATA, "index.json: offset 1");
    put_text(in(dir, "model.safetensors.index.json"),
             "{\"weight_map\":{\"t\":\"gone.safetensors\"}}");
    refused(dir, MLXD_ERR_NOTFOUND, "gone.safetensors is missing, of the ");
    mlxd_buf many;
    mlxd_buf_init(&many, 0);
    mlxd_buf_add_str(&many, "{\"weight_map\":{\"t\":\"x.safetensors\"");
    for (int i = 0; i < MLXD_LIMIT_MODEL_FILES; i++)
        mlxd_buf_addf(&many, ",\"%d\":\"%d.safetensors\"", i, i);
    mlxd_buf_add_str(&many, "}}");
    model_file_put(in(dir, "model.safetensors.index.json"), many.data, many.len);
    refused(dir, MLXD_ERR_DATA, "1025 files of tensors, expected 1..1024");
    mlxd_buf_deinit(&many);
}

/* ---- links ---- */

static void link_to(const char *target, const char *name) {
    const char *path = model_file_path(name);
    (void)unlink(path);
    assert_int_equal(symlink(target, path), 0);
}

static void links_stay_inside(void **state) {
    char outside[300];
    (void)state;
    put_safetensors("outside.safetensors", one, 4);
    snprintf(outside, sizeof outside, "%s", model_file_path("outside.safetensors"));
    const char *dir = new_model("{}");
    static const char *const relative[] = {"../outside.safetensors", "../../../../etc/passwd",
                                           "/etc/passwd"};
    for (size_t i = 0; i < MLXD_COUNT_OF(relative); i++) {
        link_to(relative[i], in(dir, "model.safetensors"));
        refused(dir, MLXD_ERR_PERM, "outside of the model's directory");
    }
    link_to(outside, in(dir, "model.safetensors"));
    refused(dir, MLXD_ERR_PERM, "model.safetensors: the link leads to");
    put_safetensors(in(dir, "real"), one, 4);
    link_to("real", in(dir, "model.safetensors"));
    mlxd_checkpoint_close(model_file_open(model_file_path(dir)));
    link_to("/etc/passwd", in(dir, "tokenizer.json")); /* documents, too */
    refused(dir, MLXD_ERR_PERM, "tokenizer.json: the link leads to /etc/passwd");
    link_to("model.safetensors", in(dir, "tokenizer.json"));
    link_to("tokenizer.json", in(dir, "model.safetensors"));
    refused(dir, MLXD_ERR_IO, "cannot open");
    link_to("nowhere", in(dir, "tokenizer.json"));
    refused(dir, MLXD_ERR_NOTFOUND, "tokenizer.json: cannot open");
    assert_int_equal(unlink(model_file_path(in(dir, "tokenizer.json"))), 0);
    assert_int_equal(mkdir(model_file_path(in(dir, "tokenizer.json")), 0755), 0);
    refused(dir, MLXD_ERR_DATA, "tokenizer.json: not a regular file");
    assert_int_equal(rmdir(model_file_path(in(dir, "tokenizer.json"))), 0);
    assert_int_equal(mkfifo(model_file_path(in(dir, "tokenizer.json")), 0600), 0);
    refused(dir, MLXD_ERR_DATA, "tokenizer.json: not a regular file");
}

/* The cache that Hugging Face's tools share: contents in blobs, named by links. Its neighbours are
 * somebody else's. */
static void the_shared_cache(void **state) {
    static const char *const dirs[] = {"hub",
                                       "hub/models--a--b",
                                       "hub/models--a--b/blobs",
                                       "hub/models--a--b/snapshots",
                                       "hub/models--a--b/snapshots/c0ffee",
                                       "hub/blobs",
                                       "hub/blobs/ab",
                                       "hub/models--a--other",
                                       "hub/models--a--other/blobs"};
    const char *dir = "hub/models--a--b/snapshots/c0ffee";
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(dirs); i++)
        assert_int_equal(mkdir(model_file_path(dirs[i]), 0755), 0);
    put_safetensors("hub/models--a--b/blobs/1234", one, 4);
    put_text("hub/models--a--b/blobs/5678", "{}");
    put_safetensors("hub/models--a--other/blobs/1234", one, 4);
    link_to("../../blobs/1234", in(dir, "model.safetensors"));
    link_to("../../blobs/5678", in(dir, "config.json"));
    mlxd_checkpoint_close(model_file_open(model_file_path(dir)));
    link_to(model_file_path(dir), "alias"); /* the user may name it as he likes */
    mlxd_checkpoint_close(model_file_open(model_file_path("alias")));
    put_safetensors("hub/blobs/ab/abcd", one, 4); /* contents that several models share */
    link_to("../../blobs/ab/abcd", "hub/models--a--b/blobs/9012");
    link_to("../../blobs/9012", in(dir, "model.safetensors"));
    mlxd_checkpoint_close(model_file_open(model_file_path(dir)));
    link_to("../../../models--a--other/blobs/1234", in(dir, "model.safetensors"));
    refused(dir, MLXD_ERR_PERM, "outside of the model's directory");
    link_to("../../../../outside.safetensors", in(dir, "model.safetensors"));
    refused(dir, MLXD_ERR_PERM, "outside of the model's directory");
}

/* ---- GGUF ---- */

static void put_part(const char *name, int no, int count, int tensors) {
    model_file m = {0};
    random_state r = {1};
    if (count >= 0) {
        mini_put_u32(&m.kv, "split.no", (uint32_t)no);
        mini_put_u32(&m.kv, "split.count", (uint32_t)count);
        mini_put_u32(&m.kv, "split.tensors.count", (uint32_t)tensors);
    } else {
        mini_put_str(&m.kv, "general.name", "x");
    }
    model_file_add(&m, no == 1 ? "b" : "a", MLXD_GGUF_TYPE_F32, (uint64_t[]){32}, 1, &r);
    model_file_write(&m, name);
    model_file_free(&m);
}

static void split_models(void **state) {
    (void)state;
    const char *dir = new_model(NULL), *first = "m-00001-of-00002.gguf";
    const char *second = "m-00002-of-00002.gguf";
    put_part(in(dir, first), 0, 2, 2);
    refused(dir, MLXD_ERR_NOTFOUND, "m-00002-of-00002.gguf: cannot open");
    put_part(in(dir, second), 1, 2, 2);
    mlxd_checkpoint *c = model_file_open(model_file_path(in(dir, second)));
    assert_int_equal(mlxd_checkpoint_count(c), 2);
    mlxd_checkpoint_close(c);
    put_part(in(dir, second), 0, 2, 2); /* the first once more, under the second's name */
    refused(dir, MLXD_ERR_DATA, "split.no is 0, expected 1");
    put_part(in(dir, second), 1, 3, 2);
    refused(dir, MLXD_ERR_DATA, "split.count is 3, expected 2");
    put_part(in(dir, second), 1, -1, 0);
    refused(dir, MLXD_ERR_DATA, "split.count");
    put_part(in(dir, second), 1, 2, 2);
    put_part(in(dir, first), 0, 2, 3);
    refused(dir, MLXD_ERR_DATA, "split.tensors.count is 3, expected 2");
    put_part("alone.gguf", 0, 2, 2);
    refused("alone.gguf", MLXD_ERR_DATA, "one of 2 parts");
    put_part("one-00001-of-00001.gguf", 0, -1, 0); /* says that it is all, and is */
    mlxd_checkpoint_close(model_file_open(model_file_path("one-00001-of-00001.gguf")));
    put_part("x-00001-of-99999.gguf", 0, 99999, 2);
    refused("x-00001-of-99999.gguf", MLXD_ERR_DATA, "99999 parts, expected at most 1024");
    link_to("/etc/passwd", in(dir, second));
    refused(dir, MLXD_ERR_PERM, "outside of the model's directory");
}

static void the_only_gguf_of_a_directory(void **state) {
    (void)state;
    const char *dir = new_model("{}");
    put_part(in(dir, "mmproj-m.gguf"), 0, -1, 0);
    put_part(in(dir, "mtp-m.gguf"), 0, -1, 0);
    refused(dir, MLXD_ERR_NOTFOUND, "no model in this directory");
    put_part(in(dir, "m.gguf"), 0, -1, 0);
    mlxd_checkpoint *c = model_file_open(model_file_path(dir));
    assert_non_null(mlxd_checkpoint_gguf(c));
    mlxd_checkpoint_close(c);
    put_part(in(dir, "n.gguf"), 0, -1, 0);
    refused(dir, MLXD_ERR_DATA, "several models (m.gguf, n.gguf ...)");
}

/* ---- what describes a model ---- */

static void metadata_and_identity(void **state) {
    uint8_t before[MLXD_SHA256_BYTES], after[MLXD_SHA256_BYTES];
    static const char *const documents[] = {
        "config.json",           "generation_config.json",  "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
        "chat_template.json"};
    (void)state;
    const char *dir = new_model("{}");
    put_safetensors(in(dir, "model.safetensors"), one, 4);
    memset(before, 0, sizeof before);
    for (size_t i = 0; i < MLXD_COUNT_OF(documents); i++) {
        put_text(in(dir, documents[i]), "{} ");
        mlxd_checkpoint *c = model_file_open(model_file_path(dir));
        assert_int_equal(mlxd_checkpoint_document(c, documents[i]).len, 3);
        mlxd_checkpoint_meta_digest(c, after);
        assert_memory_not_equal(before, after, sizeof before);
        memcpy(before, after, sizeof before);
        assert_string_equal(mlxd_checkpoint_identity(c), ""); /* too new */
        mlxd_checkpoint_close(c);
    }
    put_text(in(dir, "README.md"), "hello");
    mlxd_checkpoint *c = model_file_open(model_file_path(dir));
    mlxd_checkpoint_meta_digest(c, after);
    assert_memory_equal(before, after, sizeof before);
    mlxd_checkpoint_close(c);
    c = model_file_open(MLXD_GOLDEN "/checkpoints/moe-sharded");
    assert_int_equal(strlen(mlxd_checkpoint_identity(c)), 64);
    mlxd_checkpoint_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hugging_face_shards_with_single_experts),
        cmocka_unit_test(other_makers),
        cmocka_unit_test(tensors_that_do_not_belong_together),
        cmocka_unit_test(shapes_of_quantized_tensors),
        cmocka_unit_test(tensors_of_other_kinds),
        cmocka_unit_test(which_files_are_read),
        cmocka_unit_test(hostile_indices),
        cmocka_unit_test(links_stay_inside),
        cmocka_unit_test(the_shared_cache),
        cmocka_unit_test(split_models),
        cmocka_unit_test(the_only_gguf_of_a_directory),
        cmocka_unit_test(metadata_and_identity),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
