/* test_certs.c - identities as text, the files that mlxd certs makes, and what loading refuses. The
 * `openssl` program is the independent judge of the certificates. */
#include "net/certs.h"
#include "net/identity.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static const char *in_dir(const char *name) {
    static char paths[8][128];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static int64_t now_s(void) {
    return (int64_t)time(NULL);
}

/* Runs a shell command and returns everything it wrote. */
static const char *shell(const char *command) {
    static char out[65536];
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, sizeof out - 1, f);
    out[n] = 0;
    pclose(f);
    return out;
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mlxd-certs-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void make_node(mlxd_role role, const char *device) {
    mlxd_why why;
    mlxd_certs_node_options o = {.role = role, .device = device};
    mlxd_err err = mlxd_certs_node(dir, &o, &why);
    if (err)
        fail_msg("%s", why.text);
}

static mlxd_err load(mlxd_certs_bundle *b, const char *ca, const char *crt, const char *key,
                     int64_t at, mlxd_why *why) {
    return mlxd_certs_load(b, in_dir(ca), in_dir(crt), in_dir(key), at, why);
}

/* ---- identity ---- */

static void identity_round_trip(void **state) {
    static const mlxd_role roles[] = {MLXD_ROLE_COORDINATOR, MLXD_ROLE_WORKER, MLXD_ROLE_OPERATOR};
    char longest[64], uri[MLXD_IDENTITY_URI_MAX], dns[MLXD_IDENTITY_DNS_MAX];
    mlxd_identity a, b;
    mlxd_why why;
    (void)state;
    memset(longest, 'x', 63);
    longest[63] = 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++) {
        assert_int_equal(mlxd_identity_init(&a, roles[i], longest, i ? "mini-1" : longest, &why),
                         0);
        mlxd_identity_uri(&a, uri);
        mlxd_identity_dns(a.cluster, a.device, dns);
        assert_int_equal(mlxd_identity_parse_uri(mlxd_slice_str(uri), &b, &why), 0);
        assert_memory_equal(&a, &b, sizeof a);
    }
    assert_int_equal(mlxd_identity_init(&a, MLXD_ROLE_WORKER, "home", "mini2", &why), 0);
    mlxd_identity_uri(&a, uri);
    mlxd_identity_dns("home", "mini2", dns);
    assert_string_equal(uri, "spiffe://home/worker/mini2");
    assert_string_equal(dns, "mini2.home.mlxd");
    char text[64];
    mlxd_role_mask_text(MLXD_ROLE_COORDINATOR | MLXD_ROLE_OPERATOR, text, sizeof text);
    assert_string_equal(text, "coordinator or operator");
}

static void identity_refuses(void **state) {
    static const char *const bad[] = {
        "",
        "spiffe://",
        "spiffe:///worker/mini2",
        "spiffe://home/worker/",
        "spiffe://home/worker",
        "spiffe://home/worker/mini2/",
        "spiffe://home/worker/mini2/x",
        "spiffe://home/root/mini2",
        "spiffe://home/Worker/mini2",
        "spiffe://home//mini2",
        "spiffe://HOME/worker/mini2",
        "spiffe://home:9100/worker/mini2",
        "spiffe://user@home/worker/mini2",
        "spiffe://home/worker/mini2?x=1",
        "spiffe://home/worker/mini%32",
        "spiffe://home/worker/-mini2",
        "spiffe://home/worker/mini2-",
        "spiffe://home/worker/mini_2",
        "spiffe://a.b/worker/mini2",
        "https://home/worker/mini2",
        " spiffe://home/worker/mini2",
        "spiffe://home/worker/"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    };
    mlxd_identity id;
    mlxd_why why;
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        memset(&id, 1, sizeof id);
        if (mlxd_identity_parse_uri(mlxd_slice_str(bad[i]), &id, &why) != MLXD_ERR_INVALID)
            fail_msg("accepted %s", bad[i]);
        assert_int_equal(id.role, MLXD_ROLE_NONE);
        assert_int_not_equal(why.text[0], 0);
    }
    mlxd_slice with_nul = {(const uint8_t *)"spiffe://home/worker/mini2\0", 27};
    assert_int_equal(mlxd_identity_parse_uri(with_nul, &id, &why), MLXD_ERR_INVALID);
}

/* ---- making ---- */

static void files_and_modes(void **state) {
    mlxd_why why;
    struct stat st;
    (void)state;
    assert_int_equal(mlxd_certs_init(dir, "home", false, &why), 0);
    mlxd_certs_node_options o = {
        .role = MLXD_ROLE_COORDINATOR, .device = "mini1", .server_pair = true};
    assert_int_equal(mlxd_certs_node(dir, &o, &why), 0);
    static const char *const keys[] = {"ca.key", "mini1.key", "server.key"};
    static const char *const crts[] = {"ca.crt", "mini1.crt", "server.crt"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(stat(in_dir(keys[i]), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(stat(in_dir(crts[i]), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0644);
    }
    char command[256]; /* nothing temporary stays behind */
    snprintf(command, sizeof command, "ls -A %s | wc -l", dir);
    assert_int_equal(atoi(shell(command)), 6);
}

static void never_overwrites(void **state) {
    mlxd_why why;
    char before[128], command[256];
    (void)state;
    snprintf(command, sizeof command, "cat %s/* | sha256sum", dir);
    snprintf(before, sizeof before, "%.100s", shell(command));
    assert_int_equal(mlxd_certs_init(dir, "home", false, &why), MLXD_ERR_EXISTS);
    assert_non_null(strstr(why.text, "ca.key"));
    mlxd_certs_node_options o = {.role = MLXD_ROLE_COORDINATOR, .device = "mini1"};
    assert_int_equal(mlxd_certs_node(dir, &o, &why), MLXD_ERR_EXISTS);
    o.device = "mini9"; /* its server pair would replace one: nothing at all is written */
    o.server_pair = true;
    assert_int_equal(mlxd_certs_node(dir, &o, &why), MLXD_ERR_EXISTS);
    assert_int_not_equal(access(in_dir("mini9.key"), F_OK), 0);
    assert_int_equal(strncmp(shell(command), before, 64), 0);
    o = (mlxd_certs_node_options){.role = MLXD_ROLE_COORDINATOR, .device = "mini1", .force = true};
    assert_int_equal(mlxd_certs_node(dir, &o, &why), 0);
    assert_int_not_equal(strncmp(shell(command), before, 64), 0);
}

static void openssl_agrees(void **state) {
    static const char *const hosts[] = {"192.168.1.7", "::1", "box.example"};
    mlxd_why why;
    char command[256];
    (void)state;
    mlxd_certs_node_options o = {
        .role = MLXD_ROLE_WORKER, .device = "mini2", .hosts = hosts, .host_count = 3, .days = 10};
    assert_int_equal(mlxd_certs_node(dir, &o, &why), 0);
    make_node(MLXD_ROLE_OPERATOR, "admin");
    snprintf(command, sizeof command,
             "openssl verify -x509_strict -purpose sslserver -CAfile %s/ca.crt "
             "-verify_hostname mini2.home.mlxd %s/mini2.crt 2>&1",
             dir, dir);
    assert_non_null(strstr(shell(command), ": OK"));
    snprintf(command, sizeof command,
             "openssl verify -purpose sslserver -CAfile %s/ca.crt %s/admin.crt 2>&1", dir, dir);
    assert_null(strstr(shell(command), ": OK")); /* an operator is never a server */
    snprintf(command, sizeof command, "openssl x509 -noout -text -in %s/mini2.crt", dir);
    const char *text = shell(command);
    assert_non_null(strstr(text, "URI:spiffe://home/worker/mini2"));
    assert_non_null(strstr(text, "DNS:mini2.home.mlxd"));
    assert_non_null(strstr(text, "IP Address:192.168.1.7"));
    assert_non_null(strstr(text, "IP Address:0:0:0:0:0:0:0:1"));
    assert_non_null(strstr(text, "DNS:box.example"));
    assert_non_null(strstr(text, "TLS Web Server Authentication, TLS Web Client Authentication"));
    assert_non_null(strstr(text, "Digital Signature"));
    assert_non_null(strstr(text, "CA:FALSE"));
    assert_non_null(strstr(text, "prime256v1"));
    assert_non_null(strstr(text, "ecdsa-with-SHA256"));
    snprintf(command, sizeof command, "openssl x509 -noout -text -in %s/ca.crt", dir);
    text = shell(command);
    assert_non_null(strstr(text, "CA:TRUE, pathlen:0"));
    assert_non_null(strstr(text, "Certificate Sign, CRL Sign"));
}

static void node_refuses(void **state) {
    static const struct {
        mlxd_role role;
        const char *device;
        const char *host;
        int days;
    } bad[] = {
        {MLXD_ROLE_WORKER, "ca", NULL, 0},
        {MLXD_ROLE_WORKER, "server", NULL, 0},
        {MLXD_ROLE_WORKER, "../x", NULL, 0},
        {MLXD_ROLE_WORKER, "", NULL, 0},
        {MLXD_ROLE_WORKER, "Mini", NULL, 0},
        {MLXD_ROLE_WORKER, "ok", "a b", 0},
        {MLXD_ROLE_WORKER, "ok", "x,URI:spiffe://home/coordinator/evil", 0},
        {MLXD_ROLE_WORKER, "ok", "-x", 0},
        {MLXD_ROLE_WORKER, "ok", "x..y", 0},
        {MLXD_ROLE_WORKER, "ok", "", 0},
        {MLXD_ROLE_WORKER, "ok", NULL, -1},
        {MLXD_ROLE_WORKER, "ok", NULL, 826},
    };
    mlxd_why why;
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        mlxd_certs_node_options o = {.role = bad[i].role,
                                     .device = bad[i].device,
                                     .hosts = &bad[i].host,
                                     .host_count = bad[i].host ? 1 : 0,
                                     .days = bad[i].days};
        if (mlxd_certs_node(dir, &o, &why) != MLXD_ERR_INVALID)
            fail_msg("row %zu was accepted", i);
    }
    mlxd_certs_node_options o = {.role = MLXD_ROLE_WORKER, .device = "ok"};
    assert_int_equal(mlxd_certs_node("/nonexistent", &o, &why), MLXD_ERR_NOTFOUND);
    assert_non_null(strstr(why.text, "/nonexistent/ca.crt"));
}

/* ---- loading ---- */

static void loads_what_it_made(void **state) {
    mlxd_certs_bundle b;
    mlxd_why why;
    (void)state;
    assert_int_equal(load(&b, "ca.crt", "mini2.crt", "mini2.key", now_s(), &why), 0);
    assert_int_equal(b.identity.role, MLXD_ROLE_WORKER);
    assert_string_equal(b.identity.device, "mini2");
    assert_string_equal(b.identity.cluster, "home");
    int64_t left = b.not_after - now_s();
    assert_true(left > 10 * 86400 - 60 && left <= 10 * 86400);
    mlxd_certs_bundle_deinit(&b);
    assert_int_equal(load(&b, "ca.crt", "server.crt", "server.key", now_s(), &why), 0);
    assert_string_equal(b.identity.device, "mini1");
    mlxd_certs_bundle_deinit(&b);
}

static void put(const char *name, const char *text) {
    FILE *f = fopen(in_dir(name), "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    chmod(in_dir(name), 0600);
}

static void expect_refusal(const char *ca, const char *crt, const char *key, int64_t at,
                           mlxd_err expected, const char *named) {
    mlxd_certs_bundle b;
    mlxd_why why = {""};
    mlxd_err err = load(&b, ca, crt, key, at, &why);
    if (err != expected || !strstr(why.text, named))
        fail_msg("%s %s %s: error %s, text \"%s\", expected %s naming %s", ca, crt, key,
                 mlxd_err_name(err), why.text, mlxd_err_name(expected), named);
    assert_null(b.key_pem);
    assert_null(b.ca_pem);
}

static void load_refuses(void **state) {
    int64_t now = now_s();
    (void)state;
    put("empty", "");
    put("noise", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    put("text", "hello\n");
    expect_refusal("none.crt", "mini2.crt", "mini2.key", now, MLXD_ERR_NOTFOUND, "none.crt");
    expect_refusal("ca.crt", "none.crt", "mini2.key", now, MLXD_ERR_NOTFOUND, "none.crt");
    expect_refusal("ca.crt", "mini2.crt", "none.key", now, MLXD_ERR_NOTFOUND, "none.key");
    expect_refusal("ca.crt", "empty", "mini2.key", now, MLXD_ERR_DATA, "empty");
    expect_refusal("ca.crt", "noise", "mini2.key", now, MLXD_ERR_DATA, "noise");
    expect_refusal("text", "mini2.crt", "mini2.key", now, MLXD_ERR_DATA, "text");
    expect_refusal("ca.crt", "mini2.crt", "text", now, MLXD_ERR_DATA, "text");
    expect_refusal("ca.crt", "mini2.crt", "mini1.key", now, MLXD_ERR_CORRUPT, "mini1.key");
    expect_refusal("ca.crt", "ca.crt", "ca.key", now, MLXD_ERR_DATA, "CA certificate");
    expect_refusal("ca.crt", "mini2.crt", "mini2.key", now + 11 * 86400, MLXD_ERR_STATE, "expired");
    expect_refusal("ca.crt", "mini2.crt", "mini2.key", now - 86400, MLXD_ERR_STATE, "not valid");
    expect_refusal(".", "mini2.crt", "mini2.key", now, MLXD_ERR_DATA, "regular file");
    assert_int_equal(chmod(in_dir("mini2.key"), 0644), 0);
    expect_refusal("ca.crt", "mini2.crt", "mini2.key", now, MLXD_ERR_PERM, "0644");
    assert_int_equal(chmod(in_dir("mini2.key"), 0600), 0);
}

static void load_refuses_other_ca(void **state) {
    char saved[64], other[80];
    mlxd_certs_bundle b;
    mlxd_why why;
    (void)state;
    snprintf(other, sizeof other, "%s/other", dir);
    assert_int_equal(mlxd_certs_init(other, "home", false, &why), 0);
    expect_refusal("other/ca.crt", "mini2.crt", "mini2.key", now_s(), MLXD_ERR_CORRUPT,
                   "mini2.crt");
    memcpy(saved, dir, sizeof saved);
    memcpy(dir, other, sizeof dir - 1);
    make_node(MLXD_ROLE_WORKER, "mini2");
    assert_int_equal(load(&b, "ca.crt", "mini2.crt", "mini2.key", now_s(), &why), 0);
    mlxd_certs_bundle_deinit(&b);
    memcpy(dir, saved, sizeof dir);
}

/* A stranger's certificates: right CA, but without an mlxd name, with two, or too weak. */
static void load_refuses_strange_names(void **state) {
    static const struct {
        const char *key, *san, *named;
        mlxd_err err;
    } rows[] = {
        {"ec -pkeyopt ec_paramgen_curve:P-256", "DNS:mini5.home.mlxd", "0 URI", MLXD_ERR_DATA},
        {"ec -pkeyopt ec_paramgen_curve:P-256",
         "URI:spiffe://home/worker/mini5,URI:spiffe://home/coordinator/mini5,"
         "DNS:mini5.home.mlxd",
         "2 URI", MLXD_ERR_DATA},
        {"ec -pkeyopt ec_paramgen_curve:P-256", "URI:spiffe://home/worker/mini5", "lacks",
         MLXD_ERR_DATA},
        {"rsa -pkeyopt rsa_keygen_bits:1024", "URI:spiffe://home/worker/mini5,DNS:mini5.home.mlxd",
         "x.crt", MLXD_ERR_CORRUPT},
    };
    char command[1024];
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        snprintf(command, sizeof command,
                 "cd %s && openssl genpkey -algorithm %s -out x.key 2>&1 && "
                 "openssl req -new -key x.key -subj /CN=x -out x.csr 2>&1 && "
                 "printf 'subjectAltName=%s\\nbasicConstraints=CA:FALSE\\n' > x.ext && "
                 "openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 "
                 "-extfile x.ext -out x.crt 2>&1; chmod 600 x.key",
                 dir, rows[i].key, rows[i].san);
        (void)shell(command);
        expect_refusal("ca.crt", "x.crt", "x.key", now_s(), rows[i].err, rows[i].named);
    }
}

/* Every single flipped byte of a certificate or key: refused or read, never a crash. */
static void flipped_bytes(void **state) {
    static const char *const files[] = {"mini2.crt", "mini2.key"};
    static char text[8192];
    unsigned refused = 0, total = 0;
    (void)state;
    for (int which = 0; which < 2; which++) {
        FILE *f = fopen(in_dir(files[which]), "r");
        assert_non_null(f);
        size_t len = fread(text, 1, sizeof text - 1, f);
        fclose(f);
        text[len] = 0;
        for (size_t i = 0; i < len; i += 7) {
            mlxd_certs_bundle b;
            char old = text[i];
            text[i] = (char)(old ^ 1);
            put("flipped", text);
            text[i] = old;
            mlxd_err err = which == 0 ? load(&b, "ca.crt", "flipped", "mini2.key", now_s(), NULL)
                                      : load(&b, "ca.crt", "mini2.crt", "flipped", now_s(), NULL);
            refused += err != MLXD_OK;
            total++;
            mlxd_certs_bundle_deinit(&b);
        }
    }
    assert_true(total > 50);
    assert_true(refused > total * 8 / 10);
}

static void expiry_text(void **state) {
    char text[64];
    (void)state;
    mlxd_certs_expiry_text(1795446240, 1795446240 - 89 * 86400 - 5, text, sizeof text);
    assert_string_equal(text, "2026-11-23 15:04 UTC, in 89 days");
    mlxd_certs_expiry_text(1795446240, 1795446240 + 3 * 86400, text, sizeof text);
    assert_string_equal(text, "2026-11-23 15:04 UTC, 3 days ago");
    mlxd_certs_expiry_text(1795446240, 1795446240 - 120, text, sizeof text);
    assert_string_equal(text, "2026-11-23 15:04 UTC, in 2 minutes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_round_trip),   cmocka_unit_test(identity_refuses),
        cmocka_unit_test(files_and_modes),       cmocka_unit_test(never_overwrites),
        cmocka_unit_test(openssl_agrees),        cmocka_unit_test(node_refuses),
        cmocka_unit_test(loads_what_it_made),    cmocka_unit_test(load_refuses),
        cmocka_unit_test(load_refuses_other_ca), cmocka_unit_test(load_refuses_strange_names),
        cmocka_unit_test(flipped_bytes),         cmocka_unit_test(expiry_text),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
