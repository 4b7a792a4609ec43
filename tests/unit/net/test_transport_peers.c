/* test_transport_peers.c - who may connect and call, and what everybody else gets: certificates,
 * roles, TLS versions, unknown methods, addresses; health checks; retries; new certificates. */
#include "rpc_fixture.h"

#include "net/grpc_core.h" /* to forge credentials that mlxd_rpc_creds_load refuses */
#include "net/health.h"

#include <netdb.h>
#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>

static const char *shell(const char *command) {
    static char out[65536];
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, sizeof out - 1, f);
    out[n] = 0;
    pclose(f);
    return out;
}

static mlxd_rpc_status echo_once(int port, const mlxd_rpc_creds *creds, const char *device) {
    mlxd_rpc_channel *channel = dial_port(port, creds, device);
    mlxd_rpc_status st = call_status(channel, "/t.T/Echo", mlxd_slice_str("x"));
    mlxd_rpc_channel_close(channel);
    return st;
}

/* ---- roles ---- */

static void wrong_role(void **state) {
    client_stream c;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_creds *other = make_creds(MLXD_ROLE_WORKER, "mini3");
    mlxd_rpc_channel *as_worker = dial(server, other), *as_operator = dial(server, operator);
    unsigned calls = get(&seen.calls), opens = get(&seen.opens);
    mlxd_rpc_status st = call_status(as_worker, "/t.T/Echo", mlxd_slice_str("x"));
    assert_int_equal(st.code, 7);
    assert_int_equal(st.err, MLXD_ERR_PERM);
    assert_non_null(strstr(st.why.text, "role coordinator or operator"));
    assert_non_null(strstr(st.why.text, "role worker (device mini3)"));
    open_stream(&c, as_operator);
    (void)send_number(&c, 0, 100);
    assert_true(end_stream(&c));
    assert_int_equal(c.status.code, 7);
    assert_non_null(strstr(c.status.why.text, "by role coordinator, not by role operator"));
    assert_int_equal(get(&seen.calls), calls);
    assert_int_equal(get(&seen.opens), opens);
    st = call_status(as_operator, "/t.T/Echo", mlxd_slice_str("x"));
    assert_int_equal(st.err, MLXD_OK);
    mlxd_rpc_channel_close(as_worker);
    mlxd_rpc_channel_close(as_operator);
    mlxd_rpc_creds_close(other);
    mlxd_rpc_server_close(server, 1000);
}

/* A certificate of the right CA with names of our choosing; not checked by us. */
static mlxd_rpc_creds *forge(const char *key, const char *san, const char *usage) {
    char command[1024];
    mlxd_rpc_creds *creds = mlxd_mem_new(1, sizeof *creds);
    mlxd_why why;
    snprintf(command, sizeof command,
             "cd %s && openssl genpkey -algorithm %s -out x.key 2>&1 && "
             "openssl req -new -key x.key -subj /CN=x -out x.csr 2>&1 && "
             "printf 'subjectAltName=%s\\nbasicConstraints=CA:FALSE\\n%s\\n' > x.ext && "
             "openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 "
             "-extfile x.ext -out x.crt 2>&1; chmod 600 x.key",
             cert_dir, key, san, usage);
    (void)shell(command);
    assert_int_equal(
        mlxd_identity_init(&creds->bundle.identity, MLXD_ROLE_COORDINATOR, "home", "mini1", &why),
        0);
    snprintf(command, sizeof command, "cat %s", cert_path("ca", ".crt"));
    creds->bundle.ca_pem = mlxd_mem_dup_str(shell(command));
    snprintf(command, sizeof command, "cat %s", cert_path("x", ".crt"));
    creds->bundle.cert_pem = mlxd_mem_dup_str(shell(command));
    snprintf(command, sizeof command, "cat %s", cert_path("x", ".key"));
    creds->bundle.key_pem = mlxd_mem_dup_str(shell(command));
    return creds;
}

#define EC "ec -pkeyopt ec_paramgen_curve:P-256"

static void strange_names(void **state) {
    static const struct {
        const char *san, *text;
    } rows[] = {
        {"URI:spiffe://other/coordinator/mini1", "cluster other"},
        {"DNS:mini1.home.mlxd", "0 URI names"},
        {"URI:spiffe://home/coordinator/mini1,URI:spiffe://home/operator/mini1", "2 URI names"},
        {"URI:spiffe://home/root/mini1", "no role"},
        {"URI:https://home/coordinator/mini1", "is not spiffe"},
    };
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    unsigned calls = get(&seen.calls);
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        mlxd_rpc_creds *creds = forge(EC, rows[i].san, "");
        mlxd_rpc_status st = echo_once(mlxd_rpc_server_port(server), creds, "mini2");
        if (st.code != 7 || !strstr(st.why.text, rows[i].text))
            fail_msg("row %zu: %d %s", i, st.code, st.why.text);
        mlxd_rpc_creds_close(creds);
    }
    assert_int_equal(get(&seen.calls), calls);
    mlxd_rpc_server_close(server, 1000);
}

/* ---- handshakes ---- */

static mlxd_rpc_creds *other_ca(void) {
    char saved[sizeof cert_dir];
    mlxd_why why;
    memcpy(saved, cert_dir, sizeof saved);
    snprintf(cert_dir, sizeof cert_dir, "%.50s/other", saved);
    if (mlxd_certs_init(cert_dir, "home", true, &why))
        fail_msg("%s", why.text);
    mlxd_certs_node_options o = {.role = MLXD_ROLE_COORDINATOR, .device = "mini1", .force = true};
    if (mlxd_certs_node(cert_dir, &o, &why))
        fail_msg("%s", why.text);
    mlxd_rpc_creds *creds = load_creds("ca", "mini1");
    memcpy(cert_dir, saved, sizeof saved);
    return creds;
}

/* mini1's certificate, signed again by the CA with a life that is over. */
static mlxd_rpc_creds *expired(void) {
    mlxd_rpc_creds *creds = load_creds("ca", "mini1");
    FILE *f = fopen(cert_path("ca", ".key"), "r");
    assert_non_null(f);
    EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    fclose(f);
    BIO *in = BIO_new_mem_buf(creds->bundle.cert_pem, -1), *out = BIO_new(BIO_s_mem());
    X509 *cert = PEM_read_bio_X509(in, NULL, NULL, NULL);
    assert_non_null(ASN1_TIME_adj(X509_getm_notAfter(cert), time(NULL), 0, -60));
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    assert_true(PEM_write_bio_X509(out, cert));
    char *pem;
    long len = BIO_get_mem_data(out, &pem);
    mlxd_mem_free(creds->bundle.cert_pem);
    creds->bundle.cert_pem = mlxd_mem_dup(pem, (size_t)len);
    BIO_free(in);
    BIO_free(out);
    X509_free(cert);
    EVP_PKEY_free(key);
    return creds;
}

static void refused_clients(void **state) {
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    int port = mlxd_rpc_server_port(server);
    unsigned calls = get(&seen.calls);
    mlxd_rpc_creds *strange = other_ca(), *old = expired();
    assert_int_equal(echo_once(port, strange, "mini2").err, MLXD_ERR_PEER);
    assert_int_equal(echo_once(port, old, "mini2").err, MLXD_ERR_PEER);
    assert_int_equal(echo_once(port, plain, "mini2").err, MLXD_ERR_PEER);
    /* Their right CA, our wrong name: it is the client who refuses. */
    mlxd_rpc_status st = echo_once(port, coordinator, "mini3");
    assert_int_equal(st.err, MLXD_ERR_PEER);
    assert_int_equal(get(&seen.calls), calls);
    assert_int_equal(echo_once(port, coordinator, "mini2").err, MLXD_OK);
    mlxd_rpc_creds_close(strange);
    mlxd_rpc_creds_close(old);
    mlxd_rpc_server_close(server, 1000);
}

static void refused_servers(void **state) {
    (void)state;
    mlxd_rpc_creds *strange = other_ca();
    mlxd_rpc_server *server = serve_with(strange, 0, 0);
    assert_int_equal(echo_once(mlxd_rpc_server_port(server), coordinator, "mini1").err,
                     MLXD_ERR_PEER);
    mlxd_rpc_server_close(server, 1000);
    mlxd_rpc_creds_close(strange);
    /* An operator's certificate names a device, but serves nobody. */
    server = serve_with(operator, 0, 0);
    assert_int_equal(echo_once(mlxd_rpc_server_port(server), coordinator, "admin").err,
                     MLXD_ERR_PEER);
    mlxd_rpc_server_close(server, 1000);
    server = serve_with(plain, 0, 0);
    assert_int_equal(echo_once(mlxd_rpc_server_port(server), coordinator, "mini2").err,
                     MLXD_ERR_PEER);
    mlxd_rpc_status st = echo_once(mlxd_rpc_server_port(server), plain, NULL);
    assert_int_equal(st.err, MLXD_OK); /* explicit plaintext on loopback */
    assert_int_equal(seen.peer.role, MLXD_ROLE_NONE);
    mlxd_rpc_server_close(server, 1000);
}

static const char *s_client(int port, const char *options) {
    char command[512];
    snprintf(command, sizeof command,
             "sleep 1 | openssl s_client -connect 127.0.0.1:%d -alpn h2 -CAfile %s %s 2>&1", port,
             cert_path("ca", ".crt"), options);
    return shell(command);
}

static void tls_versions(void **state) {
    char pair[300], options[400];
    (void)state;
    snprintf(pair, sizeof pair, "-cert %s -key %s", cert_path("mini1", ".crt"),
             cert_path("mini1", ".key"));
    mlxd_rpc_creds *rsa = forge("rsa -pkeyopt rsa_keygen_bits:2048",
                                "URI:spiffe://home/worker/mini2,DNS:mini2.home.mlxd", "");
    const mlxd_rpc_creds *servers[2] = {worker, rsa}; /* RSA has its own suites */
    for (int i = 0; i < 2; i++) {
        mlxd_rpc_server *server = serve_with(servers[i], 0, 0);
        int port = mlxd_rpc_server_port(server);
        snprintf(options, sizeof options, "-tls1_3 %s", pair);
        const char *out = s_client(port, options);
        assert_non_null(strstr(out, "TLSv1.3"));
        assert_non_null(strstr(out, "Verify return code: 0 (ok)"));
        assert_null(strstr(out, "alert"));
        snprintf(options, sizeof options, "-tls1_2 %s", pair);
        out = s_client(port, options);
        assert_non_null(strstr(out, "Cipher is (NONE)"));
        snprintf(options, sizeof options, "-tls1_2 -cipher ALL:@SECLEVEL=0 %s", pair);
        assert_non_null(strstr(s_client(port, options), "Cipher is (NONE)"));
        mlxd_rpc_server_close(server, 1000);
    }
    mlxd_rpc_creds_close(rsa);
}

static int connect_to(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Speaks TLS and the HTTP/2 preface by hand; does the server answer a byte? */
static bool answers_tls_client(int port, const char *stem) {
    static const uint8_t hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
    uint8_t byte;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (stem) {
        assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, cert_path(stem, ".crt")), 1);
        assert_int_equal(
            SSL_CTX_use_PrivateKey_file(ctx, cert_path(stem, ".key"), SSL_FILETYPE_PEM), 1);
    }
    SSL *ssl = SSL_new(ctx);
    int fd = connect_to(port);
    assert_int_equal(SSL_set_alpn_protos(ssl, (const uint8_t *)"\2h2", 3), 0);
    SSL_set_fd(ssl, fd);
    bool ok = SSL_connect(ssl) == 1 && SSL_write(ssl, hello, sizeof hello) > 0 &&
              SSL_read(ssl, &byte, 1) == 1;
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    return ok;
}

static void no_client_certificate(void **state) {
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    assert_true(answers_tls_client(mlxd_rpc_server_port(server), "mini1"));
    assert_false(answers_tls_client(mlxd_rpc_server_port(server), NULL));
    mlxd_rpc_server_close(server, 1000);
}

/* Bytes that are no TLS, and half an opening: closed or left alone, and others are served. */
static void garbage_on_the_port(void **state) {
    static const char *const texts[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\xff\xff"};
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    int fds[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = connect_to(mlxd_rpc_server_port(server));
        assert_true(send(fds[i], texts[i], strlen(texts[i]), MSG_NOSIGNAL) > 0);
    }
    assert_int_equal(echo_once(mlxd_rpc_server_port(server), coordinator, "mini2").err, MLXD_OK);
    char byte[256];
    while (recv(fds[0], byte, sizeof byte, 0) >
           0) /* a plaintext request gets no answer but the end */
        assert_null(memchr(byte, '/', sizeof byte));
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    mlxd_rpc_server_close(server, 1000);
}

/* ---- methods and addresses ---- */

static void unknown_method(void **state) {
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    mlxd_rpc_status st = call_status(channel, "/t.T/Nothing", mlxd_slice_str("x"));
    assert_int_equal(st.code, 12);
    assert_non_null(strstr(st.why.text, "/t.T/Nothing"));
    st = call_status(channel, "/other.S/Echo", mlxd_slice_str("x"));
    assert_int_equal(st.code, 12);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

static mlxd_err try_listen(const char *address, const mlxd_rpc_creds *creds, mlxd_why *why) {
    mlxd_rpc_server *server;
    mlxd_rpc_server_options o = {
        .listen = address, .creds = creds, .methods = methods, .method_count = 1};
    mlxd_err err = mlxd_rpc_server_open(&server, rt, &o, why);
    if (err)
        assert_null(server);
    mlxd_rpc_server_close(server, 0);
    return err;
}

static void addresses(void **state) {
    static const char *const bad[] = {
        "",         "127.0.0.1",     "127.0.0.1:", ":9100",     "127.0.0.1:x", "127.0.0.1:65536",
        "a b:9100", "unix:/tmp/x:1", "[::1:9100",  "[::1]9100", "[host]:9100", "127.0.0.1:-1"};
    char address[32];
    mlxd_why why;
    mlxd_rpc_channel *channel;
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        if (try_listen(bad[i], worker, &why) != MLXD_ERR_INVALID)
            fail_msg("listens on \"%s\"", bad[i]);
        assert_non_null(strstr(why.text, "address \""));
    }
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    snprintf(address, sizeof address, "127.0.0.1:%d", mlxd_rpc_server_port(server));
    assert_int_equal(try_listen(address, worker, &why), MLXD_ERR_IO);
    assert_non_null(strstr(why.text, address));
    assert_non_null(strstr(why.text, "in use"));
    mlxd_rpc_server_close(server, 0);
    assert_int_equal(try_listen(address, worker, &why), MLXD_OK); /* free again at once */
    assert_int_equal(try_listen("192.0.2.1:0", worker, &why), MLXD_ERR_IO);
    assert_non_null(strstr(why.text, "192.0.2.1:0"));
    assert_int_equal(try_listen("0.0.0.0:0", plain, &why), MLXD_ERR_PERM);
    assert_int_equal(try_listen("10.1.2.3:0", plain, &why), MLXD_ERR_PERM);
    struct addrinfo *found = NULL; /* a bare root has no /etc/hosts */
    if (getaddrinfo("localhost", NULL, NULL, &found) == 0) {
        freeaddrinfo(found);
        assert_int_equal(try_listen("localhost:0", plain, &why), MLXD_OK);
    }
    assert_int_equal(try_listen("0.0.0.0:0", worker, &why), MLXD_OK);
    mlxd_rpc_channel_options o = {.address = "10.1.2.3:9100", .creds = plain};
    assert_int_equal(mlxd_rpc_channel_open(&channel, rt, &o, &why), MLXD_ERR_PERM);
    o = (mlxd_rpc_channel_options){.address = "h:1", .creds = coordinator, .device = "Mini"};
    assert_int_equal(mlxd_rpc_channel_open(&channel, rt, &o, &why), MLXD_ERR_INVALID);
}

/* ---- health ---- */

static atomic_int health_value;

static mlxd_health_status health_now(void *ctx) {
    (void)ctx;
    return (mlxd_health_status)atomic_load(&health_value);
}

typedef struct health_answer {
    unsigned done;
    mlxd_rpc_status rpc;
    mlxd_health_status status;
} health_answer;

static void on_health(void *user, const mlxd_rpc_status *rpc, mlxd_health_status status) {
    health_answer *a = user;
    lock();
    *a = (health_answer){1, *rpc, status};
    unlock();
}

static health_answer check(mlxd_rpc_channel *channel, const char *service) {
    static health_answer a;
    mlxd_why why;
    a.done = 0;
    mlxd_health_request r = {service, SECONDS(10), on_health, &a};
    assert_int_equal(mlxd_health_check(channel, &r, &why), 0);
    assert_true(wait_for(&a.done, 1));
    return a;
}

static void health(void **state) {
    char long_name[201];
    static mlxd_health table;
    mlxd_rpc_server *server;
    mlxd_why why;
    (void)state;
    memset(long_name, 'n', 200);
    long_name[200] = 0;
    assert_int_equal(mlxd_health_add(&table, "", health_now, NULL), 0);
    assert_int_equal(mlxd_health_add(&table, "liveness", health_now, NULL), 0);
    assert_int_equal(mlxd_health_add(&table, long_name, health_now, NULL), 0);
    mlxd_rpc_method method = mlxd_health_method(&table);
    mlxd_rpc_server_options o = {.listen = "0.0.0.0:0",
                                 .creds = plain,
                                 .methods = &method,
                                 .method_count = 1,
                                 .plaintext_public = true};
    assert_int_equal(mlxd_rpc_server_open(&server, rt, &o, &why), 0);
    mlxd_rpc_channel *channel = dial(server, plain);
    for (int value = 1; value <= 2; value++) {
        atomic_store(&health_value, value);
        assert_int_equal(check(channel, "").status, value);
        assert_int_equal(check(channel, "liveness").status, value);
        assert_int_equal(check(channel, long_name).status, value);
    }
    health_answer a = check(channel, "nobody");
    assert_int_equal(a.rpc.err, MLXD_ERR_NOTFOUND);
    assert_int_equal(
        call_status(channel, "/grpc.health.v1.Health/Check", mlxd_slice_str("\x0a\x7fx")).code, 3);
    assert_int_equal(call_status(channel, "/grpc.health.v1.Health/Watch", mlxd_slice_str("")).code,
                     12);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

static void health_codec(void **state) {
    static const struct {
        const char *bytes;
        size_t len;
        const char *service; /* NULL: refused */
    } rows[] = {
        {"", 0, ""},
        {"\x0a\x00", 2, ""},
        {"\x0a\x03"
         "abc",
         5, "abc"},
        {"\x0a\x03"
         "abc\x0a\x01z",
         8, "z"},
        {"\x10\x05\x0a\x01z\x1d....\x21........", 19, "z"},
        {"\x0a\x03"
         "ab",
         4, NULL},
        {"\x0a", 1, NULL},
        {"\x08\x01", 2, NULL},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, NULL},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, NULL},
        {"\x0b", 1, NULL},
        {"\x02\x00", 2, NULL},
        {"\x80", 1, NULL},
    };
    mlxd_slice service;
    mlxd_health_status status;
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        mlxd_slice bytes = {(const uint8_t *)rows[i].bytes, rows[i].len};
        mlxd_err err = mlxd_health_decode_request(bytes, &service);
        if (rows[i].service ? err || !mlxd_slice_eq(service, mlxd_slice_str(rows[i].service))
                            : err != MLXD_ERR_INVALID)
            fail_msg("row %zu", i);
    }
    assert_int_equal(mlxd_health_decode_response(mlxd_slice_str("\x08\x01"), &status), 0);
    assert_int_equal(status, MLXD_HEALTH_SERVING);
    assert_int_equal(mlxd_health_decode_response(mlxd_slice_str("\x08\x63"), &status), 0);
    assert_int_equal(status, MLXD_HEALTH_UNKNOWN);
    assert_int_equal(mlxd_health_decode_response(mlxd_slice_str("\x0a\x01z"), &status),
                     MLXD_ERR_INVALID);
}

/* ---- retries, new certificates ---- */

static unsigned tries, failures;

static void on_flaky(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    (void)ctx;
    mlxd_rpc_msg_free(msg);
    lock();
    bool fails = ++tries <= failures;
    unlock();
    if (fails)
        mlxd_rpc_call_fail(call, MLXD_ERR_PEER, "flaky");
    else
        mlxd_rpc_call_reply(call, NULL, 0);
}

static void only_idempotent_calls_are_repeated(void **state) {
    static const char *const repeatable[] = {"/t.T/Get"};
    mlxd_rpc_method flaky[2] = {{.path = "/t.T/Get", .roles = 7, .on_call = on_flaky},
                                {.path = "/t.T/Step", .roles = 7, .on_call = on_flaky}};
    char address[32];
    mlxd_rpc_server *server;
    mlxd_rpc_channel *channel;
    mlxd_why why;
    (void)state;
    mlxd_rpc_server_options o = {
        .listen = "127.0.0.1:0", .creds = worker, .methods = flaky, .method_count = 2};
    assert_int_equal(mlxd_rpc_server_open(&server, rt, &o, &why), 0);
    snprintf(address, sizeof address, "127.0.0.1:%d", mlxd_rpc_server_port(server));
    mlxd_rpc_channel_options c = {.address = address,
                                  .creds = coordinator,
                                  .device = "mini2",
                                  .idempotent = repeatable,
                                  .idempotent_count = 1};
    assert_int_equal(mlxd_rpc_channel_open(&channel, rt, &c, &why), 0);
    tries = 0;
    failures = 2;
    assert_int_equal(call_status(channel, "/t.T/Get", mlxd_slice_str("x")).err, MLXD_OK);
    assert_int_equal(get(&tries), 3);
    tries = 0;
    assert_int_equal(call_status(channel, "/t.T/Step", mlxd_slice_str("x")).err, MLXD_ERR_PEER);
    assert_int_equal(get(&tries), 1);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

static void new_certificate(void **state) {
    char before[80], command[300];
    mlxd_why why;
    (void)state;
    mlxd_rpc_creds *first = make_creds(MLXD_ROLE_WORKER, "mini4");
    mlxd_rpc_server *server = serve_with(first, 0, 0);
    int port = mlxd_rpc_server_port(server);
    mlxd_rpc_channel *channel = dial_port(port, coordinator, "mini4");
    assert_int_equal(call_status(channel, "/t.T/Echo", mlxd_slice_str("x")).err, MLXD_OK);
    snprintf(command, sizeof command,
             "sleep 0.3 | openssl s_client -connect 127.0.0.1:%d -alpn h2 2>&1 | openssl x509 "
             "-noout -serial",
             port);
    snprintf(before, sizeof before, "%.70s", shell(command));
    assert_int_equal(strncmp(before, "serial=", 7), 0);
    assert_int_equal(mlxd_rpc_server_renew(server, worker, &why), MLXD_ERR_STATE);
    mlxd_certs_node_options o = {.role = MLXD_ROLE_WORKER, .device = "mini4", .force = true};
    assert_int_equal(mlxd_certs_node(cert_dir, &o, &why), 0);
    mlxd_rpc_creds *second = load_creds("ca", "mini4");
    assert_int_equal(mlxd_rpc_server_renew(server, second, &why), MLXD_OK);
    const char *after = shell(command);
    assert_int_equal(strncmp(after, "serial=", 7), 0);
    assert_int_not_equal(strncmp(after, before, 20), 0);
    assert_int_equal(call_status(channel, "/t.T/Echo", mlxd_slice_str("x")).err, MLXD_OK);
    assert_int_equal(echo_once(port, coordinator, "mini4").err, MLXD_OK);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_creds_close(first);
    mlxd_rpc_creds_close(second);
    mlxd_rpc_server_close(server, 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_role),          cmocka_unit_test(strange_names),
        cmocka_unit_test(refused_clients),     cmocka_unit_test(refused_servers),
        cmocka_unit_test(tls_versions),        cmocka_unit_test(no_client_certificate),
        cmocka_unit_test(garbage_on_the_port), cmocka_unit_test(unknown_method),
        cmocka_unit_test(addresses),           cmocka_unit_test(health),
        cmocka_unit_test(health_codec),        cmocka_unit_test(only_idempotent_calls_are_repeated),
        cmocka_unit_test(new_certificate),
    };
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes with write() */
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
