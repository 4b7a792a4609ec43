/* utf8.c - see utf8.h. The table of well-formed sequences is Unicode's table 3-7: the first byte
 * fixes the length and the range of the second byte, all others are 80..BF. */
#include "format/utf8.h"

size_t mlxd_utf8_next(const uint8_t *p, size_t len, uint32_t *cp) {
    MLXD_ASSERT(len > 0);
    uint8_t c = p[0], low = 0x80, high = 0xBF;
    size_t want;
    uint32_t v;
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    *cp = MLXD_UTF8_BAD;
    if (c >= 0xC2 && c <= 0xDF) {
        want = 2;
        v = c & 0x1Fu;
    } else if (c >= 0xE0 && c <= 0xEF) {
        want = 3;
        v = c & 0x0Fu;
        low = c == 0xE0 ? 0xA0 : 0x80;  /* no overlong forms */
        high = c == 0xED ? 0x9F : 0xBF; /* no surrogates */
    } else if (c >= 0xF0 && c <= 0xF4) {
        want = 4;
        v = c & 0x07u;
        low = c == 0xF0 ? 0x90 : 0x80;
        high = c == 0xF4 ? 0x8F : 0xBF; /* nothing above U+10FFFF */
    } else {
        return 1;
    }
    for (size_t i = 1; i < want; i++) {
        if (i == len || p[i] < low || p[i] > high)
            return i;
        v = v << 6 | (p[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *cp = v;
    return want;
}

size_t mlxd_utf8_put(uint32_t cp, uint8_t out[4]) {
    MLXD_ASSERT(cp <= 0x10FFFF && (cp < 0xD800 || cp > 0xDFFF));
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t)(0xC0 | cp >> 6);
        out[1] = (uint8_t)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t)(0xE0 | cp >> 12);
        out[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | cp >> 18);
    out[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (cp & 0x3F));
    return 4;
}

size_t mlxd_utf8_check(mlxd_slice s) {
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        size_t n = mlxd_utf8_next(s.data + i, s.len - i, &cp);
        if (cp == MLXD_UTF8_BAD)
            return i;
        i += n;
    }
    return s.len;
}
