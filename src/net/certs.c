/* certs.c - makes CA and node certificates; see certs.h. What is read is checked in certs_load.c.
 *
 * A pair of files is placed as one act as far as a file system allows: both are written and synced
 * under temporary names first, then moved, the key before the certificate.
 */
#include "net/certs_internal.h"

#include "base/mem.h"
#include "base/os.h"

#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BACKDATE_S 300 /* clocks of nodes differ a little */

mlxd_err mlxd_certs_openssl_fail(mlxd_why *why, mlxd_err err, const char *what) {
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return mlxd_fail(why, err, "%s: %s", what, reason ? reason : "OpenSSL gave no reason");
}

mlxd_err mlxd_certs_path(char out[MLXD_CERTS_PATH_MAX], const char *dir, const char *stem,
                         const char *suffix, mlxd_why *why) {
    int n = snprintf(out, MLXD_CERTS_PATH_MAX, "%s/%s%s", dir, stem, suffix);
    if (n < 0 || n >= MLXD_CERTS_PATH_MAX)
        return mlxd_fail(why, MLXD_ERR_INVALID, "path of directory is too long");
    return MLXD_OK;
}

/* ---- files ---- */

typedef struct output {
    char path[MLXD_CERTS_PATH_MAX];
    char temporary[MLXD_CERTS_PATH_MAX + 16];
    mode_t mode;
    BIO *pem;
    bool written, placed;
} output;

static mlxd_err file_fail(mlxd_why *why, const char *what, const char *path) {
    int code = errno;
    return mlxd_fail(why, code == EEXIST ? MLXD_ERR_EXISTS : MLXD_ERR_IO, "%s %s: %s", what, path,
                     strerror(code));
}

static mlxd_err write_temporary(output *o, mlxd_why *why) {
    char *data = NULL;
    long len = BIO_get_mem_data(o->pem, &data);
    int fd = open(o->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, o->mode);
    if (fd < 0)
        return file_fail(why, "cannot create", o->temporary);
    o->written = true;
    bool ok = fchmod(fd, o->mode) == 0; /* whatever the umask says */
    for (long at = 0; ok && at < len;) {
        ssize_t n = write(fd, data + at, (size_t)(len - at));
        if (n < 0 && errno == EINTR)
            continue;
        ok = n > 0;
        at += ok ? n : 0;
    }
    ok = ok && fsync(fd) == 0;
    mlxd_err err = ok ? MLXD_OK : file_fail(why, "cannot write", o->temporary);
    if (close(fd) != 0 && !err)
        err = file_fail(why, "cannot write", o->temporary);
    return err;
}

static mlxd_err place(output *o, bool force, mlxd_why *why) {
    if (force ? rename(o->temporary, o->path) : link(o->temporary, o->path))
        return file_fail(why, "cannot create", o->path);
    o->written = !force; /* a link leaves the temporary name behind */
    o->placed = true;
    return MLXD_OK;
}

static void sync_dir(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)fsync(fd);
    close(fd);
}

/* All of them or none (when nothing is replaced). */
static mlxd_err write_files(const char *dir, output *files, size_t n, bool force, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    for (size_t i = 0; i < n && !err && !force; i++)
        if (access(files[i].path, F_OK) == 0)
            err = mlxd_fail(why, MLXD_ERR_EXISTS, "%s exists already; --force replaces it",
                            files[i].path);
    uint64_t random = 0;
    if (!err && !mlxd_os_random(&random, sizeof random))
        err = mlxd_fail(why, MLXD_ERR_IO, "the system has no entropy");
    for (size_t i = 0; i < n && !err; i++) {
        snprintf(files[i].temporary, sizeof files[i].temporary, "%s.%08x", files[i].path,
                 (unsigned)random);
        err = write_temporary(&files[i], why);
    }
    for (size_t i = 0; i < n && !err; i++)
        err = place(&files[i], force, why);
    for (size_t i = 0; i < n; i++) {
        if (files[i].written)
            (void)unlink(files[i].temporary);
        if (err && files[i].placed && !force)
            (void)unlink(files[i].path);
    }
    sync_dir(dir);
    return err;
}

/* ---- certificates ---- */

static bool add_text_ext(X509 *cert, X509 *issuer, int nid, const char *value) {
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = ext && X509_add_ext(cert, ext, -1);
    X509_EXTENSION_free(ext);
    return ok;
}

/* Names are given one by one, so that no text can smuggle in a second name. */
static bool add_name(GENERAL_NAMES *names, int type, const char *value) {
    GENERAL_NAME *name = a2i_GENERAL_NAME(NULL, NULL, NULL, type, value, 0);
    if (name && sk_GENERAL_NAME_push(names, name) > 0)
        return true;
    GENERAL_NAME_free(name);
    return false;
}

static bool is_ip(const char *host) {
    unsigned char bytes[16];
    return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

static bool is_dns_name(const char *host) {
    size_t len = strlen(host), label = 0;
    if (len == 0 || len > 253)
        return false;
    for (size_t i = 0; i <= len; i++) {
        char c = host[i];
        bool end = c == '.' || c == 0;
        if (end && (label == 0 || label > 63 || host[i - 1] == '-'))
            return false;
        if (!end && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            !(c == '-' && label > 0))
            return false;
        label = end ? 0 : label + 1;
    }
    return true;
}

static bool add_names(X509 *cert, const mlxd_identity *id, const char *const *hosts, size_t n) {
    char uri[MLXD_IDENTITY_URI_MAX], dns[MLXD_IDENTITY_DNS_MAX];
    mlxd_identity_uri(id, uri);
    mlxd_identity_dns(id->cluster, id->device, dns);
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    bool ok = names && add_name(names, GEN_URI, uri) && add_name(names, GEN_DNS, dns);
    for (size_t i = 0; ok && i < n; i++)
        ok = add_name(names, is_ip(hosts[i]) ? GEN_IPADD : GEN_DNS, hosts[i]);
    ok = ok && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) > 0;
    GENERAL_NAMES_free(names);
    return ok;
}

static bool set_serial(X509 *cert) {
    BIGNUM *bn = BN_new();
    bool ok = bn && BN_rand(bn, 128, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) &&
              BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(cert));
    BN_free(bn);
    return ok;
}

/* An unsigned certificate with names, times and key; NULL with OpenSSL's error set. */
static X509 *make_cert(EVP_PKEY *key, const char *common_name, X509 *issuer, time_t not_after) {
    X509 *cert = X509_new();
    X509_NAME *name = cert ? X509_get_subject_name(cert) : NULL;
    time_t begin = time(NULL) - BACKDATE_S;
    bool ok = cert && X509_set_version(cert, 2) && set_serial(cert) &&
              X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                         (const unsigned char *)common_name, -1, -1, 0) &&
              X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : name) &&
              ASN1_TIME_set(X509_getm_notBefore(cert), begin) &&
              ASN1_TIME_set(X509_getm_notAfter(cert), not_after) && X509_set_pubkey(cert, key);
    if (ok)
        return cert;
    X509_free(cert);
    return NULL;
}

static bool put_pem(output *o, X509 *cert, EVP_PKEY *key) {
    o->pem = BIO_new(BIO_s_mem());
    if (!o->pem)
        return false;
    if (cert)
        return PEM_write_bio_X509(o->pem, cert);
    return PEM_write_bio_PrivateKey(o->pem, key, NULL, NULL, 0, NULL, NULL);
}

/* Fills two rows (key, certificate) for the file stem. */
static mlxd_err fill_pair(output files[2], const char *dir, const char *stem, X509 *cert,
                          EVP_PKEY *key, mlxd_why *why) {
    mlxd_err err = mlxd_certs_path(files[0].path, dir, stem, ".key", why);
    if (!err)
        err = mlxd_certs_path(files[1].path, dir, stem, ".crt", why);
    files[0].mode = 0600;
    files[1].mode = 0644;
    if (!err && (!put_pem(&files[0], NULL, key) || !put_pem(&files[1], cert, NULL)))
        err = mlxd_certs_openssl_fail(why, MLXD_ERR_NOMEM, "cannot encode the certificate");
    return err;
}

static void free_outputs(output *files, size_t n) {
    for (size_t i = 0; i < n; i++)
        BIO_free(files[i].pem); /* OpenSSL wipes memory BIOs */
}

/* ---- CA ---- */

static bool sign_ca(X509 *ca, EVP_PKEY *key) {
    return add_text_ext(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
           add_text_ext(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") &&
           add_text_ext(ca, ca, NID_subject_key_identifier, "hash") &&
           X509_sign(ca, key, EVP_sha256()) > 0;
}

mlxd_err mlxd_certs_init(const char *dir, const char *cluster, bool force, mlxd_why *why) {
    char name[sizeof MLXD_CERTS_CA_NAME + MLXD_LIMIT_DEVICE_ID];
    output files[2] = {0};
    EVP_PKEY *key = NULL;
    X509 *ca = NULL;
    mlxd_err err = mlxd_identity_check_id(mlxd_slice_str(cluster), why);
    if (err)
        return mlxd_fail_in(why, err, "cluster name");
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return file_fail(why, "cannot create", dir);
    snprintf(name, sizeof name, MLXD_CERTS_CA_NAME "%s", cluster);
    key = EVP_EC_gen("P-256");
    ca = key ? make_cert(key, name, NULL, time(NULL) + MLXD_CERTS_CA_DAYS * 86400L) : NULL;
    if (!ca || !sign_ca(ca, key))
        err = mlxd_certs_openssl_fail(why, MLXD_ERR_NOMEM, "cannot make the CA");
    if (!err)
        err = fill_pair(files, dir, "ca", ca, key, why);
    if (!err)
        err = write_files(dir, files, 2, force, why);
    free_outputs(files, 2);
    X509_free(ca);
    EVP_PKEY_free(key);
    return err;
}

/* ---- node ---- */

static mlxd_err check_options(const mlxd_certs_node_options *o, mlxd_why *why) {
    MLXD_ASSERT(o->role && !(o->role & (o->role - 1)));
    if (o->days < 0 || o->days > MLXD_CERTS_NODE_DAYS_MAX)
        return mlxd_fail(why, MLXD_ERR_INVALID, "days: %d, expected 1 to %d", o->days,
                         MLXD_CERTS_NODE_DAYS_MAX);
    if (strcmp(o->device, "ca") == 0 || strcmp(o->device, "server") == 0)
        return mlxd_fail(why, MLXD_ERR_INVALID, "device name \"%s\" is the name of another file",
                         o->device);
    for (size_t i = 0; i < o->host_count; i++)
        if (!is_ip(o->hosts[i]) && !is_dns_name(o->hosts[i]))
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "host \"%s\" is neither an IP address nor a DNS name", o->hosts[i]);
    return MLXD_OK;
}

static bool sign_node(X509 *cert, const mlxd_identity *id, const mlxd_certs_node_options *o,
                      X509 *ca, EVP_PKEY *ca_key) {
    const char *usage = id->role == MLXD_ROLE_OPERATOR ? "clientAuth" : "serverAuth,clientAuth";
    return add_text_ext(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
           add_text_ext(cert, ca, NID_key_usage, "critical,digitalSignature") &&
           add_text_ext(cert, ca, NID_ext_key_usage, usage) &&
           add_text_ext(cert, ca, NID_subject_key_identifier, "hash") &&
           add_text_ext(cert, ca, NID_authority_key_identifier, "keyid:always") &&
           add_names(cert, id, o->hosts, o->host_count) &&
           X509_sign(cert, ca_key, EVP_sha256()) > 0;
}

mlxd_err mlxd_certs_node(const char *dir, const mlxd_certs_node_options *options, mlxd_why *why) {
    output files[4] = {0};
    mlxd_certs_ca ca = {0};
    mlxd_identity id;
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    int days = options->days ? options->days : MLXD_CERTS_NODE_DAYS;
    mlxd_err err = check_options(options, why);
    if (!err)
        err = mlxd_certs_ca_load(&ca, dir, (int64_t)time(NULL), why);
    if (!err)
        err = mlxd_identity_init(&id, options->role, ca.cluster, options->device, why);
    if (err)
        goto done;
    key = EVP_EC_gen("P-256");
    time_t end = time(NULL) + days * 86400L;
    cert =
        key ? make_cert(key, options->device, ca.cert, (time_t)MLXD_MIN(end, ca.not_after)) : NULL;
    if (!cert || !sign_node(cert, &id, options, ca.cert, ca.key)) {
        err = mlxd_certs_openssl_fail(why, MLXD_ERR_NOMEM, "cannot make the certificate");
        goto done;
    }
    err = fill_pair(files, dir, options->device, cert, key, why);
    if (!err && options->server_pair)
        err = fill_pair(files + 2, dir, "server", cert, key, why);
    if (!err)
        err = write_files(dir, files, options->server_pair ? 4 : 2, options->force, why);
done:
    free_outputs(files, 4);
    X509_free(cert);
    EVP_PKEY_free(key);
    mlxd_certs_ca_deinit(&ca);
    return err;
}
