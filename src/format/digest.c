/* digest.c - see digest.h. Thin over libcrypto's EVP; its calls fail only when libcrypto itself is
 * unusable, which is not something that input can cause. */
#include "format/digest.h"

#include "base/mem.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

struct mlxd_sha256 {
    EVP_MD_CTX *ctx;
    EVP_MD_CTX *copy; /* taken by get, so that adding can go on */
};

mlxd_sha256 *mlxd_sha256_open(void) {
    mlxd_sha256 *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return NULL;
    s->ctx = EVP_MD_CTX_new();
    s->copy = EVP_MD_CTX_new();
    /* The copy is made once here, so that get needs no memory later. */
    if (s->ctx && s->copy && EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) == 1 &&
        EVP_MD_CTX_copy_ex(s->copy, s->ctx) == 1)
        return s;
    mlxd_sha256_close(s);
    return NULL;
}

void mlxd_sha256_close(mlxd_sha256 *s) {
    if (!s)
        return;
    EVP_MD_CTX_free(s->ctx);
    EVP_MD_CTX_free(s->copy);
    mlxd_mem_free(s);
}

void mlxd_sha256_add(mlxd_sha256 *s, const void *data, size_t len) {
    MLXD_ASSERT(s && (data || len == 0));
    if (len > 0) {
        int ok = EVP_DigestUpdate(s->ctx, data, len);
        MLXD_ASSERT(ok == 1);
    }
}

void mlxd_sha256_get(const mlxd_sha256 *s, uint8_t out[MLXD_SHA256_BYTES]) {
    MLXD_ASSERT(s);
    unsigned len = 0;
    int copied = EVP_MD_CTX_copy_ex(s->copy, s->ctx);
    MLXD_ASSERT(copied == 1);
    int ok = EVP_DigestFinal_ex(s->copy, out, &len);
    MLXD_ASSERT(ok == 1 && len == MLXD_SHA256_BYTES);
}

void mlxd_sha256_once(const void *data, size_t len, uint8_t out[MLXD_SHA256_BYTES]) {
    MLXD_ASSERT(data || len == 0);
    int ok = EVP_Digest(len ? data : "", len, out, NULL, EVP_sha256(), NULL);
    MLXD_ASSERT(ok == 1);
}

void mlxd_hex(const uint8_t *data, size_t len, char *out) {
    static const char digits[] = "0123456789abcdef";
    MLXD_ASSERT(out && (data || len == 0));
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * len] = 0;
}

static int digit_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool mlxd_unhex(const char *text, uint8_t *out, size_t len) {
    MLXD_ASSERT(text && (out || len == 0));
    for (size_t i = 0; i < len; i++) {
        int high = digit_value(text[2 * i]);
        int low = high < 0 ? -1 : digit_value(text[2 * i + 1]);
        if (low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return text[2 * len] == 0;
}

bool mlxd_digest_eq(const uint8_t *a, const uint8_t *b, size_t len) {
    MLXD_ASSERT((a && b) || len == 0);
    return CRYPTO_memcmp(a, b, len) == 0;
}
