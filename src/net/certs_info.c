/* certs_info.c - see certs_info.h. */
#include "net/certs_info.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1 << 20)

/* Never asks a terminal for a passphrase. */
static int no_passphrase(char *buf, int size, int rwflag, void *u) {
    (void)buf, (void)size, (void)rwflag, (void)u;
    return -1;
}

/* Opens a regular file of a sane size; never waits, as opening a pipe would. */
static mlxd_err open_file(FILE **out, const char *path, mlxd_why *why) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return mlxd_fail(why,
                         errno == ENOENT   ? MLXD_ERR_NOTFOUND
                         : errno == EACCES ? MLXD_ERR_PERM
                                           : MLXD_ERR_IO,
                         "cannot open %s: %s", path, strerror(errno));
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_BYTES_MAX;
    *out = ok ? fdopen(fd, "r") : NULL;
    if (*out)
        return MLXD_OK;
    close(fd);
    return mlxd_fail(why, MLXD_ERR_DATA, "%s is not a regular file of at most %d bytes", path,
                     FILE_BYTES_MAX);
}

static bool seconds_of(const ASN1_TIME *t, int64_t *out) {
    int days = 0, seconds = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    bool ok = epoch && t && ASN1_TIME_diff(&days, &seconds, epoch, t);
    ASN1_TIME_free(epoch);
    *out = (int64_t)days * 86400 + seconds;
    return ok;
}

static void read_name(X509 *cert, char *out, size_t size) {
    if (X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, out, (int)size) < 0)
        out[0] = 0;
    for (; *out; out++)
        if ((unsigned char)*out < 0x20 || *out == 0x7f)
            *out = '?';
}

static void read_identity(X509 *cert, mlxd_identity *out) {
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names) && !out->role; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        mlxd_slice uri = {ASN1_STRING_get0_data(name->d.uniformResourceIdentifier),
                          (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier)};
        if (mlxd_identity_parse_uri(uri, out, NULL))
            *out = (mlxd_identity){0};
    }
    GENERAL_NAMES_free(names);
}

mlxd_err mlxd_certs_info_read(mlxd_certs_info *out, const char *path, mlxd_why *why) {
    FILE *f;
    *out = (mlxd_certs_info){0};
    mlxd_err err = open_file(&f, path, why);
    if (err)
        return err;
    X509 *cert = PEM_read_X509(f, NULL, no_passphrase, NULL);
    (void)fclose(f);
    if (!cert) {
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s: expected a certificate in PEM form", path);
    } else if (!seconds_of(X509_get0_notBefore(cert), &out->not_before) ||
               !seconds_of(X509_get0_notAfter(cert), &out->not_after)) {
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s: its dates cannot be read", path);
    } else {
        read_name(cert, out->name, sizeof out->name);
        read_identity(cert, &out->identity);
        out->is_ca = X509_check_ca(cert) == 1;
    }
    X509_free(cert);
    ERR_clear_error();
    return err;
}
