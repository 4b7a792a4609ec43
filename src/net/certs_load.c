/* certs_load.c - reads PEM files and checks everything that can be checked before a handshake. */
#include "net/certs_internal.h"

#include "base/mem.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1u << 20)
#define CHAIN_MAX 16 /* certificates in one file */
#define AUTH_LEVEL 2 /* OpenSSL's: 112 bits */

/* ---- files ---- */

static void wipe(char **text) {
    if (*text)
        OPENSSL_cleanse(*text, strlen(*text));
    mlxd_mem_free(*text);
    *text = NULL;
}

static mlxd_err read_all(int fd, const char *path, char *text, size_t size, mlxd_why *why) {
    size_t at = 0;
    while (at < size) {
        ssize_t n = read(fd, text + at, size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mlxd_fail(why, MLXD_ERR_IO, "cannot read %s: %s", path, strerror(errno));
        if (n == 0)
            return mlxd_fail(why, MLXD_ERR_IO, "%s became shorter while it was read", path);
        at += (size_t)n;
    }
    return MLXD_OK;
}

/* A text file, NUL-terminated. `secret`: must not be open to others. */
static mlxd_err read_file(char **out, const char *path, bool secret, mlxd_why *why) {
    struct stat st;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        mlxd_err code = errno == ENOENT   ? MLXD_ERR_NOTFOUND
                        : errno == EACCES ? MLXD_ERR_PERM
                                          : MLXD_ERR_IO;
        return mlxd_fail(why, code, "cannot open %s: %s", path, strerror(errno));
    }
    mlxd_err err = MLXD_OK;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s is not a regular file", path);
    else if (st.st_size <= 0 || st.st_size > (off_t)FILE_BYTES_MAX)
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s has %lld bytes, expected PEM of 1 to %u", path,
                        (long long)st.st_size, FILE_BYTES_MAX);
    else if (secret && (st.st_mode & (S_IROTH | S_IWOTH | S_IWGRP)))
        err = mlxd_fail(why, MLXD_ERR_PERM,
                        "%s has mode %04o: a private key must not be open to others (chmod 600)",
                        path, (unsigned)(st.st_mode & 07777));
    else if (!(*out = mlxd_mem_new((size_t)st.st_size + 1, 1)))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "%s", path);
    else
        err = read_all(fd, path, *out, (size_t)st.st_size, why);
    close(fd);
    if (!err && strlen(*out) != (size_t)st.st_size)
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s is not PEM: it has NUL bytes", path);
    if (err)
        wipe(out);
    return err;
}

/* ---- PEM ---- */

/* Never asks a terminal for a passphrase. */
static int no_passphrase(char *buf, int size, int rwflag, void *u) {
    (void)buf, (void)size, (void)rwflag, (void)u;
    return -1;
}

static mlxd_err parse_certs(STACK_OF(X509) * *out, const char *pem, const char *path,
                            mlxd_why *why) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    STACK_OF(X509) *list = sk_X509_new_null();
    X509 *cert = NULL;
    bool ok = bio && list;
    while (ok && (cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL))) {
        ok = sk_X509_num(list) < CHAIN_MAX && sk_X509_push(list, cert) > 0;
        if (!ok)
            X509_free(cert);
    }
    /* "No more PEM blocks" is how the loop ends; any other error is a broken block. */
    unsigned long code = ERR_peek_last_error();
    ok = ok && sk_X509_num(list) > 0 && ERR_GET_LIB(code) == ERR_LIB_PEM &&
         ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(bio);
    if (ok) {
        *out = list;
        return MLXD_OK;
    }
    sk_X509_pop_free(list, X509_free);
    return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected 1 to %d certificates in PEM form", path,
                     CHAIN_MAX);
}

static mlxd_err parse_key(EVP_PKEY **out, const char *pem, const char *path, mlxd_why *why) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    *out = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    ERR_clear_error();
    BIO_free(bio);
    if (*out)
        return MLXD_OK;
    return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected an unencrypted private key in PEM form",
                     path);
}

static bool seconds_of(const ASN1_TIME *t, int64_t *out) {
    int days = 0, seconds = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    bool ok = epoch && ASN1_TIME_diff(&days, &seconds, epoch, t);
    ASN1_TIME_free(epoch);
    *out = (int64_t)days * 86400 + seconds;
    return ok;
}

static mlxd_err check_times(X509 *cert, const char *path, int64_t now_s, int64_t *begin,
                            int64_t *end, mlxd_why *why) {
    char text[64];
    if (!seconds_of(X509_get0_notBefore(cert), begin) || !seconds_of(X509_get0_notAfter(cert), end))
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: its dates cannot be read", path);
    if (now_s < *begin) {
        mlxd_certs_expiry_text(*begin, now_s, text, sizeof text);
        return mlxd_fail(why, MLXD_ERR_STATE, "%s is not valid before %s", path, text);
    }
    if (now_s > *end) {
        mlxd_certs_expiry_text(*end, now_s, text, sizeof text);
        return mlxd_fail(why, MLXD_ERR_STATE, "%s expired on %s", path, text);
    }
    return MLXD_OK;
}

/* ---- one bundle ---- */

static mlxd_err check_chain(STACK_OF(X509) * cas, STACK_OF(X509) * chain, const char *ca_path,
                            const char *cert_path, int64_t now_s, mlxd_why *why) {
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    bool ready = store && ctx;
    for (int i = 0; ready && i < sk_X509_num(cas); i++)
        ready = X509_STORE_add_cert(store, sk_X509_value(cas, i));
    ready = ready && X509_STORE_CTX_init(ctx, store, sk_X509_value(chain, 0), chain);
    mlxd_err err = MLXD_OK;
    if (!ready) {
        err = mlxd_certs_openssl_fail(why, MLXD_ERR_NOMEM, ca_path);
    } else {
        X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
        X509_VERIFY_PARAM_set_auth_level(param, AUTH_LEVEL);
        X509_VERIFY_PARAM_set_time(param, (time_t)now_s);
        (void)X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_SSL_CLIENT);
        if (X509_verify_cert(ctx) != 1) {
            int code = X509_STORE_CTX_get_error(ctx);
            bool old = code == X509_V_ERR_CERT_HAS_EXPIRED || code == X509_V_ERR_CERT_NOT_YET_VALID;
            err = mlxd_fail(why, old ? MLXD_ERR_STATE : MLXD_ERR_CORRUPT,
                            "%s is not a node certificate of the CA in %s: %s", cert_path, ca_path,
                            X509_verify_cert_error_string(code));
        }
    }
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    ERR_clear_error();
    return err;
}

static bool has_dns(GENERAL_NAMES *names, const char *expected) {
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_DNS)
            continue;
        mlxd_slice dns = {ASN1_STRING_get0_data(name->d.dNSName),
                          (size_t)ASN1_STRING_length(name->d.dNSName)};
        if (mlxd_slice_eq(dns, mlxd_slice_str(expected)))
            return true;
    }
    return false;
}

static mlxd_err read_identity(X509 *cert, const char *path, mlxd_identity *out, mlxd_why *why) {
    char dns[MLXD_IDENTITY_DNS_MAX];
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    mlxd_err err = MLXD_OK;
    int uris = 0;
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names) && !err; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        mlxd_slice uri = {ASN1_STRING_get0_data(name->d.uniformResourceIdentifier),
                          (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier)};
        uris++;
        err = mlxd_identity_parse_uri(uri, out, why);
    }
    if (err) {
        err = mlxd_fail_in(why, MLXD_ERR_DATA, "%s", path);
    } else if (uris != 1) {
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s has %d URI names, expected 1 (spiffe://...)", path,
                        uris);
    } else if (out->role != MLXD_ROLE_OPERATOR) {
        mlxd_identity_dns(out->cluster, out->device, dns);
        if (!has_dns(names, dns))
            err = mlxd_fail(why, MLXD_ERR_DATA, "%s lacks the DNS name %s", path, dns);
    }
    GENERAL_NAMES_free(names);
    return err;
}

typedef struct paths {
    const char *ca, *cert, *key;
} paths;

static mlxd_err check_bundle(mlxd_certs_bundle *b, const paths *p, int64_t now_s, mlxd_why *why) {
    STACK_OF(X509) *cas = NULL, *chain = NULL;
    EVP_PKEY *key = NULL;
    X509 *leaf = NULL;
    mlxd_err err = parse_certs(&cas, b->ca_pem, p->ca, why);
    if (!err)
        err = parse_certs(&chain, b->cert_pem, p->cert, why);
    if (!err)
        err = parse_key(&key, b->key_pem, p->key, why);
    if (!err) {
        leaf = sk_X509_value(chain, 0);
        err = check_times(leaf, p->cert, now_s, &b->not_before, &b->not_after, why);
    }
    if (!err && !X509_check_private_key(leaf, key)) {
        ERR_clear_error();
        err = mlxd_fail(why, MLXD_ERR_CORRUPT, "%s is not the key of %s", p->key, p->cert);
    }
    if (!err && X509_check_ca(leaf) > 0)
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s is a CA certificate, expected a node's", p->cert);
    if (!err)
        err = check_chain(cas, chain, p->ca, p->cert, now_s, why);
    if (!err)
        err = read_identity(leaf, p->cert, &b->identity, why);
    EVP_PKEY_free(key);
    sk_X509_pop_free(chain, X509_free);
    sk_X509_pop_free(cas, X509_free);
    return err;
}

mlxd_err mlxd_certs_load(mlxd_certs_bundle *out, const char *ca_path, const char *cert_path,
                         const char *key_path, int64_t now_s, mlxd_why *why) {
    *out = (mlxd_certs_bundle){0};
    mlxd_err err = read_file(&out->ca_pem, ca_path, false, why);
    if (!err)
        err = read_file(&out->cert_pem, cert_path, false, why);
    if (!err)
        err = read_file(&out->key_pem, key_path, true, why);
    if (!err)
        err = check_bundle(out, &(paths){ca_path, cert_path, key_path}, now_s, why);
    if (err)
        mlxd_certs_bundle_deinit(out);
    return err;
}

void mlxd_certs_bundle_deinit(mlxd_certs_bundle *bundle) {
    wipe(&bundle->key_pem);
    mlxd_mem_free(bundle->cert_pem);
    mlxd_mem_free(bundle->ca_pem);
    *bundle = (mlxd_certs_bundle){0};
}

/* ---- the CA itself ---- */

static mlxd_err read_cluster(X509 *cert, const char *path, char out[MLXD_LIMIT_DEVICE_ID + 1],
                             mlxd_why *why) {
    char name[256] = "";
    const size_t prefix = sizeof MLXD_CERTS_CA_NAME - 1;
    int len =
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof name);
    mlxd_slice id = {(const uint8_t *)name + prefix, len > 0 ? (size_t)len - prefix : 0};
    if (len < (int)prefix || len >= (int)sizeof name ||
        memcmp(name, MLXD_CERTS_CA_NAME, prefix) != 0 || mlxd_identity_check_id(id, NULL))
        return mlxd_fail(
            why, MLXD_ERR_DATA,
            "%s was not made by mlxd: its name is not \"" MLXD_CERTS_CA_NAME "<cluster>\"", path);
    memcpy(out, id.data, id.len);
    out[id.len] = 0;
    return MLXD_OK;
}

mlxd_err mlxd_certs_ca_load(mlxd_certs_ca *out, const char *dir, int64_t now_s, mlxd_why *why) {
    char crt[MLXD_CERTS_PATH_MAX], key[MLXD_CERTS_PATH_MAX];
    char *crt_pem = NULL, *key_pem = NULL;
    STACK_OF(X509) *list = NULL;
    int64_t begin;
    *out = (mlxd_certs_ca){0};
    mlxd_err err = mlxd_certs_path(crt, dir, "ca", ".crt", why);
    if (!err)
        err = mlxd_certs_path(key, dir, "ca", ".key", why);
    if (!err)
        err = read_file(&crt_pem, crt, false, why);
    if (!err)
        err = read_file(&key_pem, key, true, why);
    if (!err)
        err = parse_certs(&list, crt_pem, crt, why);
    if (!err)
        err = parse_key(&out->key, key_pem, key, why);
    if (!err) {
        out->cert = sk_X509_value(list, 0);
        X509_up_ref(out->cert);
        err = check_times(out->cert, crt, now_s, &begin, &out->not_after, why);
    }
    if (!err && !X509_check_private_key(out->cert, out->key)) {
        ERR_clear_error();
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s is not the key of %s", key, crt);
    }
    if (!err && X509_check_ca(out->cert) != 1)
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s is not a CA certificate", crt);
    if (!err)
        err = read_cluster(out->cert, crt, out->cluster, why);
    sk_X509_pop_free(list, X509_free);
    wipe(&key_pem);
    mlxd_mem_free(crt_pem);
    if (err)
        mlxd_certs_ca_deinit(out);
    return err;
}

void mlxd_certs_ca_deinit(mlxd_certs_ca *ca) {
    EVP_PKEY_free(ca->key);
    X509_free(ca->cert);
    *ca = (mlxd_certs_ca){0};
}

/* ---- for people ---- */

void mlxd_certs_expiry_text(int64_t not_after, int64_t now_s, char *out, size_t size) {
    struct tm tm;
    time_t at = (time_t)not_after;
    char date[32] = "?";
    MLXD_ASSERT(size >= 48);
    if (gmtime_r(&at, &tm))
        (void)strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &tm);
    int64_t left = not_after - now_s, size_of = left < 0 ? -left : left;
    const char *unit = size_of >= 2 * 86400 ? "days" : size_of >= 7200 ? "hours" : "minutes";
    int64_t n = size_of / (size_of >= 2 * 86400 ? 86400 : size_of >= 7200 ? 3600 : 60);
    if (left >= 0)
        snprintf(out, size, "%s, in %lld %s", date, (long long)n, unit);
    else
        snprintf(out, size, "%s, %lld %s ago", date, (long long)n, unit);
}
