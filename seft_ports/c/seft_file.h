/* seft_file.h: reads, checks and expands checkpoint files of SPEC.md chapter 12 ("Files"), version 1.0, feature delta;
 * with SEFT_ZSTD, and zstd.c beside it, feature zstd too.
 *
 * One header, C99, libc only. In one source file of a program:
 *
 *     #define SEFT_IMPLEMENTATION
 *     #include "seft_file.h"
 *
 * The caller keeps the bytes of a whole file in memory (read or mapped) as long as the seft_file lives. There is no
 * global state, so different files may be used from different threads. Functions that return int return 1 for success
 * and 0 for failure, and then fill `error` unless it is NULL. A clause id such as FMT-063 in a comment stands where
 * the clause is enforced.
 *
 * Out of scope: folders. Files with companions are refused (FMT-102). Without SEFT_ZSTD so are files with compressed
 * sections (FMT-043). */
#ifndef SEFT_FILE_H
#define SEFT_FILE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* FMT-097: an error. Its clause is empty if memory ran out or the caller asked for something impossible. */
typedef struct {
    char clause[8];
    char message[248];
} seft_error;

/* The allocator; NULL stands for malloc and free. */
typedef struct {
    void *(*take)(void *user, size_t size);
    void (*give)(void *user, void *block);
    void *user;
} seft_memory;

/* One tensor. rows and columns are the matrix [R, C] that the tensor is read as; a scalar is [1, 1]. */
typedef struct {
    const char *name;      /* UTF-8 with a final NUL; FMT-009 keeps other NULs out */
    size_t name_size;      /* without it */
    const char *name_json; /* the same as canonical JSON text with quotes, not terminated */
    size_t name_json_size;
    const char *dtype;
    const char *encoding;
    unsigned dims;
    uint64_t shape[8];
    uint64_t nnz, numel, rows, columns;
} seft_tensor;

typedef struct seft_file seft_file;

/* Opens a file, and checks every rule of 12.2 and 12.3, tied names, scales, FMT-130 to FMT-132. Returns NULL if one is
 * broken. */
seft_file *seft_open(const uint8_t *data, size_t size, seft_error *error);
seft_file *seft_open_in(const uint8_t *data, size_t size, const seft_memory *memory, seft_error *error);
void seft_close(seft_file *file);

const char *seft_kind(const seft_file *file);
void seft_root(const seft_file *file, char hex[65]);  /* FMT-092 */
void seft_state(const seft_file *file, char hex[65]); /* FMT-099 */

/* Returns the canonical text of one of these keys of the manifest: attributes, delta, scales, tied. It is not
 * terminated; NULL if there is no such key. */
const char *seft_text(const seft_file *file, const char *key, size_t *size);

size_t seft_count(const seft_file *file);
const seft_tensor *seft_info(const seft_file *file, size_t index); /* NULL if there is no such tensor */

/* FMT-095: checks pads, section digests, the rules of the encoding and the content digest of one tensor. */
int seft_check(seft_file *file, size_t index, seft_error *error);

/* Writes the support: rows + 1 row pointers, and nnz columns of column_size 4 (int32_t) or 8 (int64_t) bytes. */
int seft_support(seft_file *file, size_t index, int64_t *row_pointers, void *columns, size_t column_size,
                 seft_error *error);

/* Gets the bytes of the section `values` as they are in the file: little-endian, F4 and F6 packed, none of a mask. */
int seft_values(seft_file *file, size_t index, const uint8_t **values, uint64_t *size, seft_error *error);

/* Writes the tensor as a dense array in row-major order: a mask as bytes 0 and 1, a value of F4 or F6 in a byte of its
 * own. FMT-098: out_size is the limit; a larger array is refused before a byte is written. */
uint64_t seft_dense_size(const seft_file *file, size_t index);
int seft_dense(seft_file *file, size_t index, uint8_t *out, size_t out_size, seft_error *error);

void seft_sha256(const void *data, size_t size, char hex[65]);

#ifdef __cplusplus
}
#endif
#endif /* SEFT_FILE_H */

#ifdef SEFT_IMPLEMENTATION

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values are handed out as they stand in the file, which is little-endian. */
#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "seft_file.h reads files on little-endian hosts only"
#endif

#define SF_MOST INT64_C(9007199254740991) /* 2^53 - 1 */
#define SF_NAME 512                       /* FMT-009: bytes of a tensor name */

/* ---------------------------------------------------------------------------------------------------- errors */

static int sf_fail(seft_error *error, const char *clause, const char *format, ...)
{
    va_list args;
    if (!error)
        return 0;
    snprintf(error->clause, sizeof error->clause, "%s", clause);
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return 0;
}

/* --------------------------------------------------------------------------------------------------- SHA-256 */

typedef struct {
    uint32_t state[8];
    uint64_t size;
    uint8_t block[64];
} sf_sha;

static void sf_sha_begin(sf_sha *sha)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->state, start, sizeof start);
    sha->size = 0;
}

#define SF_TURN(x, n) (((x) >> (n)) | ((x) << (32 - (n))))

static void sf_sha_block(uint32_t state[8], const uint8_t *block)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], s[8];
    int i;
    for (i = 0; i < 16; i++, block += 4)
        w[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (SF_TURN(a, 7) ^ SF_TURN(a, 18) ^ (a >> 3)) +
               (SF_TURN(b, 17) ^ SF_TURN(b, 19) ^ (b >> 10));
    }
    memcpy(s, state, sizeof s);
    for (i = 0; i < 64; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t one = (SF_TURN(e, 6) ^ SF_TURN(e, 11) ^ SF_TURN(e, 25)) + ((e & s[5]) ^ (~e & s[6]));
        uint32_t two = (SF_TURN(a, 2) ^ SF_TURN(a, 13) ^ SF_TURN(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        one += s[7] + k[i] + w[i];
        s[7] = s[6], s[6] = s[5], s[5] = e, s[4] = s[3] + one;
        s[3] = s[2], s[2] = s[1], s[1] = a, s[0] = one + two;
    }
    for (i = 0; i < 8; i++)
        state[i] += s[i];
}

static void sf_sha_put(sf_sha *sha, const void *data, uint64_t size)
{
    const uint8_t *at = (const uint8_t *)data;
    while (size) {
        size_t held = (size_t)(sha->size % 64), part = 64 - held;
        if (part > size)
            part = (size_t)size;
        if (part == 64) {
            sf_sha_block(sha->state, at);
        } else {
            memcpy(sha->block + held, at, part);
            if (held + part == 64)
                sf_sha_block(sha->state, sha->block);
        }
        sha->size += part;
        at += part;
        size -= part;
    }
}

static void sf_sha_text(sf_sha *sha, const char *text)
{
    sf_sha_put(sha, text, strlen(text));
}

/* Hashes a digest as JSON text, or null. */
static void sf_sha_digest(sf_sha *sha, const char *hex)
{
    sf_sha_text(sha, hex ? "\"" : "null");
    sf_sha_text(sha, hex ? hex : "");
    sf_sha_text(sha, hex ? "\"" : "");
}

/* Hashes an integer of 2, 4 or 8 bytes, little-endian. */
static void sf_sha_integer(sf_sha *sha, uint64_t value, unsigned width)
{
    uint8_t bytes[8];
    unsigned i;
    for (i = 0; i < width; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    sf_sha_put(sha, bytes, width);
}

static void sf_sha_end(sf_sha *sha, char hex[65])
{
    static const uint8_t stop[64] = {0x80};
    uint64_t bits = sha->size * 8;
    uint8_t length[8];
    int i;
    for (i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    sf_sha_put(sha, stop, 1 + (119 - sha->size % 64) % 64);
    sf_sha_put(sha, length, 8);
    for (i = 0; i < 64; i++)
        hex[i] = "0123456789abcdef"[sha->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    hex[64] = 0;
}

void seft_sha256(const void *data, size_t size, char hex[65])
{
    sf_sha sha;
    sf_sha_begin(&sha);
    sf_sha_put(&sha, data, size);
    sf_sha_end(&sha, hex);
}

/* ------------------------------------------------------------------------------ JSON, first pass: is it legal? */

typedef struct {
    const uint8_t *at, *end;
    seft_error *error;
} sf_parser;

/* Returns the length of the UTF-8 sequence of a Unicode scalar value, or 0 if it is not one. */
static size_t sf_utf8(const uint8_t *s, size_t left)
{
    size_t size = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0, i;
    if (size > left)
        return 0;
    for (i = 1; i < size; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90)) /* longer than needed */
        return 0;
    if ((s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90)) /* surrogates, past U+10FFFF */
        return 0;
    return size;
}

static int sf_hex(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int sf_unexpected(sf_parser *p)
{
    if (p->at == p->end)
        return sf_fail(p->error, "FMT-024", "a JSON text ends too early");
    if (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
        return sf_fail(p->error, "FMT-028", "white space outside the strings of a JSON text");
    return sf_fail(p->error, "FMT-024", "not a JSON text: byte 0x%02x where it cannot be", *p->at);
}

static int sf_expect(sf_parser *p, uint8_t c)
{
    if (p->at == p->end || *p->at != c)
        return sf_unexpected(p);
    p->at++;
    return 1;
}

static int sf_word(sf_parser *p, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(p->end - p->at) < size || memcmp(p->at, word, size))
        return sf_fail(p->error, "FMT-024", "not a JSON text: an unknown word");
    p->at += size;
    return 1;
}

static int sf_number(sf_parser *p)
{
    const uint8_t *start = p->at, *digits;
    int64_t value = 0;
    if (*p->at == '-')
        p->at++;
    digits = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9') {
        value = value > SF_MOST ? value : value * 10 + (*p->at - '0');
        p->at++;
    }
    if (p->at == digits)
        return sf_unexpected(p);
    if (p->at < p->end && (*p->at == '.' || *p->at == 'e' || *p->at == 'E')) /* FMT-026 */
        return sf_fail(p->error, "FMT-026", "a number with a fraction or an exponent");
    if (*digits == '0' && p->at - digits > 1) /* FMT-024; no JSON text has one */
        return sf_fail(p->error, "FMT-024", "a number with a leading zero");
    if (*digits == '0' && digits > start) /* FMT-028 */
        return sf_fail(p->error, "FMT-028", "a negative zero");
    if (value > SF_MOST) /* FMT-026 */
        return sf_fail(p->error, "FMT-026", "a number beyond 2^53 - 1");
    return 1;
}

static int sf_escape(sf_parser *p)
{
    static const char never[] = "\b\t\n\f\r"; /* these have escapes of their own */
    size_t left = (size_t)(p->end - p->at), i;
    int value;
    if (left < 2)
        return sf_fail(p->error, "FMT-024", "a JSON text ends too early");
    if (strchr("\"\\btnfr", p->at[1]) && p->at[1]) {
        p->at += 2;
        return 1;
    }
    if (p->at[1] == '/')
        return sf_fail(p->error, "FMT-028", "a character is escaped that stands for itself");
    for (i = 2; i < 6; i++)
        if (p->at[1] != 'u' || i >= left || (sf_hex(p->at[i]) < 0 && !(p->at[i] >= 'A' && p->at[i] <= 'F')))
            return sf_fail(p->error, "FMT-024", "not a JSON text: an unknown escape");
    if (memcmp(p->at + 2, "00", 2) || (p->at[4] != '0' && p->at[4] != '1') || sf_hex(p->at[5]) < 0) /* FMT-028 */
        return sf_fail(p->error, "FMT-028", "an escape that is not the canonical one");
    value = sf_hex(p->at[4]) * 16 + sf_hex(p->at[5]);
    if (value && strchr(never, value)) /* FMT-028 */
        return sf_fail(p->error, "FMT-028", "an escape that is not the canonical one");
    p->at += 6;
    return 1;
}

static int sf_string(sf_parser *p)
{
    if (!sf_expect(p, '"'))
        return 0;
    while (p->at < p->end && *p->at != '"') {
        if (*p->at < 0x20)
            return sf_fail(p->error, "FMT-024", "not a JSON text: a control character in a string");
        if (*p->at != '\\')
            p->at++;
        else if (!sf_escape(p))
            return 0;
    }
    return sf_expect(p, '"');
}

/* Returns the next byte that a canonical string stands for, or -1 at its closing quote. */
static int sf_take(const uint8_t **at)
{
    const uint8_t *s = *at;
    if (*s == '"')
        return -1;
    *at = s + (*s != '\\' ? 1 : s[1] == 'u' ? 6 : 2);
    if (*s != '\\')
        return *s;
    switch (s[1]) {
    case 'u': return sf_hex(s[4]) * 16 + sf_hex(s[5]);
    case 'b': return '\b';
    case 't': return '\t';
    case 'n': return '\n';
    case 'f': return '\f';
    case 'r': return '\r';
    default: return s[1];
    }
}

/* Orders two canonical strings by the bytes they stand for; both pointers are just after the opening quote. */
static int sf_compare(const uint8_t *a, const uint8_t *b)
{
    for (;;) {
        int x = sf_take(&a), y = sf_take(&b);
        if (x != y)
            return x < y ? -1 : 1;
        if (x < 0)
            return 0;
    }
}

static int sf_value(sf_parser *p, int depth);

static int sf_list(sf_parser *p, int depth)
{
    if (depth == 16) /* FMT-027 */
        return sf_fail(p->error, "FMT-027", "more than 16 levels of objects and lists");
    p->at++;
    if (p->at < p->end && *p->at == ']') {
        p->at++;
        return 1;
    }
    while (sf_value(p, depth + 1)) {
        if (p->at == p->end || *p->at != ',')
            return sf_expect(p, ']');
        p->at++;
    }
    return 0;
}

static int sf_object(sf_parser *p, int depth)
{
    const uint8_t *before = NULL, *key;
    if (depth == 16) /* FMT-027 */
        return sf_fail(p->error, "FMT-027", "more than 16 levels of objects and lists");
    p->at++;
    if (p->at < p->end && *p->at == '}') {
        p->at++;
        return 1;
    }
    for (;;) {
        int order;
        key = p->at + 1;
        if (!sf_string(p))
            return 0;
        order = before ? sf_compare(before, key) : -1;
        if (order == 0) /* FMT-025; keys are sorted, so equal ones are neighbours */
            return sf_fail(p->error, "FMT-025", "an object has a key twice");
        if (order > 0) /* FMT-028 */
            return sf_fail(p->error, "FMT-028", "the keys of an object are not sorted");
        before = key;
        if (!sf_expect(p, ':') || !sf_value(p, depth + 1))
            return 0;
        if (p->at == p->end || *p->at != ',')
            return sf_expect(p, '}');
        p->at++;
    }
}

/* Parses a value inside `depth` objects and lists. FMT-027 bounds the depth of the recursion. */
static int sf_value(sf_parser *p, int depth)
{
    if (p->at == p->end)
        return sf_unexpected(p);
    switch (*p->at) {
    case '{': return sf_object(p, depth);
    case '[': return sf_list(p, depth);
    case '"': return sf_string(p);
    case 't': return sf_word(p, "true");
    case 'f': return sf_word(p, "false");
    case 'n': return sf_word(p, "null");
    case '-': return sf_number(p);
    default: return *p->at >= '0' && *p->at <= '9' ? sf_number(p) : sf_unexpected(p);
    }
}

static int sf_json(const uint8_t *text, size_t size, seft_error *error)
{
    sf_parser p;
    size_t i = 0;
    while (i < size) {
        size_t step = sf_utf8(text + i, size - i);
        if (!step) /* FMT-024 */
            return sf_fail(error, "FMT-024", "a JSON text is not UTF-8");
        i += step;
    }
    p.at = text;
    p.end = text + size;
    p.error = error;
    if (!sf_value(&p, 0))
        return 0;
    return p.at == p.end || sf_unexpected(&p);
}

/* --------------------------------------------------------- JSON, second pass: walking a text known to be legal */

/* A value is a pointer to its first byte; where only a string can be, to the byte after the opening quote. */
static const uint8_t *sf_skip(const uint8_t *at)
{
    int depth = 0;
    do {
        uint8_t c = *at;
        if (c == '"') {
            for (at++; *at != '"'; at++)
                at += *at == '\\';
            at++;
        } else if (c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')) {
            while (*at == '-' || (*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'z'))
                at++;
        } else {
            depth += (c == '{' || c == '[') - (c == '}' || c == ']');
            at++;
        }
    } while (depth);
    return at;
}

typedef struct {
    const uint8_t *key, *value, *next;
} sf_walk;

static sf_walk sf_enter(const uint8_t *container)
{
    sf_walk walk = {NULL, NULL, NULL};
    walk.next = container + 1;
    return walk;
}

static int sf_step_list(sf_walk *walk)
{
    walk->value = walk->next + (*walk->next == ',');
    if (*walk->value == ']')
        return 0;
    walk->next = sf_skip(walk->value);
    return 1;
}

static int sf_step(sf_walk *walk)
{
    const uint8_t *at = walk->next + (*walk->next == ',');
    if (*at == '}')
        return 0;
    walk->key = at + 1;
    walk->value = sf_skip(at) + 1;
    walk->next = sf_skip(walk->value);
    return 1;
}

static size_t sf_members(const uint8_t *object)
{
    sf_walk walk = sf_enter(object);
    size_t count = 0;
    while (sf_step(&walk))
        count++;
    return count;
}

/* Returns whether a string is this word, which needs no escapes. Stops at the string's closing quote at the latest. */
static int sf_is(const uint8_t *string, const char *word)
{
    while (*word && *string == (uint8_t)*word)
        string++, word++;
    return !*word && *string == '"';
}

static const uint8_t *sf_find(const uint8_t *object, const char *key)
{
    sf_walk walk = sf_enter(object);
    while (sf_step(&walk))
        if (sf_is(walk.key, key))
            return walk.value;
    return NULL;
}

/* Gets the values of an object, which must have exactly the given keys. A key that begins with `?` may be absent; its
 * value is then NULL. */
static int sf_fields(const uint8_t *object, const char *const *keys, size_t count, const uint8_t **values)
{
    sf_walk walk;
    size_t i;
    if (*object != '{')
        return 0;
    for (i = 0; i < count; i++)
        values[i] = NULL;
    walk = sf_enter(object);
    while (sf_step(&walk)) {
        for (i = 0; i < count && !sf_is(walk.key, keys[i] + (*keys[i] == '?')); i++)
            ;
        if (i == count)
            return 0;
        values[i] = walk.value;
    }
    for (i = 0; i < count; i++)
        if (!values[i] && *keys[i] != '?')
            return 0;
    return 1;
}

static int sf_integer(const uint8_t *value, int64_t *out)
{
    int minus = *value == '-';
    if (!minus && (*value < '0' || *value > '9'))
        return 0;
    *out = 0;
    for (value += minus; *value >= '0' && *value <= '9'; value++)
        *out = *out * 10 + (*value - '0');
    *out = minus ? -*out : *out;
    return 1;
}

static int sf_count(const uint8_t *value, uint64_t *out)
{
    int64_t number;
    if (!sf_integer(value, &number) || number < 0)
        return 0;
    *out = (uint64_t)number;
    return 1;
}

/* Writes the bytes of a string; returns their number, or limit + 1 if there are more than the limit. */
static size_t sf_decode(const uint8_t *string, char *out, size_t limit)
{
    size_t size = 0;
    int c;
    while ((c = sf_take(&string)) >= 0) {
        if (size == limit)
            return limit + 1;
        out[size++] = (char)c;
    }
    return size;
}

/* Returns whether a string matches [a-z][a-z0-9<extra>]{0,63}. */
static int sf_matches(const uint8_t *string, uint8_t extra)
{
    size_t i;
    if (*string < 'a' || *string > 'z')
        return 0;
    for (i = 1; i < 64; i++)
        if (!(string[i] >= 'a' && string[i] <= 'z') && !(string[i] >= '0' && string[i] <= '9') && string[i] != extra)
            break;
    return string[i] == '"';
}

static int sf_digest(const uint8_t *value)
{
    size_t i;
    if (*value != '"')
        return 0;
    for (i = 1; i <= 64; i++)
        if (sf_hex(value[i]) < 0)
            return 0;
    return value[65] == '"';
}

/* Returns whether a string is a tensor name. */
static int sf_name(const uint8_t *string)
{
    size_t size = 0;
    int c;
    while ((c = sf_take(&string)) >= 0)
        if (c == '#' || c < 0x20 || c == 0x7f || ++size > SF_NAME)
            return 0;
    return size > 0;
}

/* ------------------------------------------------------------------------------------------- what a file holds */

enum { SF_DENSE, SF_BITMASK, SF_NM, SF_CSR, SF_GAP8, SF_VARINT, SF_ENCODINGS };
enum { SF_COL_IDX, SF_GAPS, SF_MASK, SF_RANKS, SF_ROW_PTR, SF_VALUES, SF_ROLES }; /* sorted by bytes */
enum { SF_NONE, SF_BOOL, SF_U8, SF_U16, SF_U32, SF_U64 };

/* FMT-006; the first dtypes have constants in the code */
static const struct {
    const char *name;
    unsigned bits;
} sf_dtypes[] = {{"NONE", 0},    {"BOOL", 8},    {"U8", 8},      {"U16", 16},        {"U32", 32},        {"U64", 64},
                 {"F16", 16},    {"BF16", 16},   {"F32", 32},    {"F64", 64},        {"F4", 4},          {"F6_E2M3", 6},
                 {"F6_E3M2", 6}, {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8},     {"F8_E8M0", 8},     {"I16", 16},
                 {"I32", 32},    {"I64", 64},    {"C64", 64},    {"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8}};
enum { SF_DTYPES = sizeof sf_dtypes / sizeof *sf_dtypes };

static const char *const sf_encodings[SF_ENCODINGS] = {"dense", "bitmask", "nm", "csr", "gap8", "varint"};
static const char *const sf_roles[SF_ROLES] = {"col_idx", "gaps", "mask", "ranks", "row_ptr", "values"};

/* FMT-140: the codec, if SEFT_ZSTD is defined. */
#ifdef SEFT_ZSTD
int seft_zstd(const uint8_t *frame, size_t size, uint8_t *out, size_t out_size);
enum { SF_ZSTD = 1 };
#else
enum { SF_ZSTD = 0 };
#endif

typedef struct {
    int role, compressed;
    uint64_t size, begin; /* begin counts from the end of the header */
    uint64_t raw_size;    /* FMT-049: the bytes that dtype and shape take; equal to size unless compressed */
    uint8_t *raw;         /* the bytes of a compressed section after expanding it */
    const uint8_t *digest;
} sf_section;

typedef struct {
    seft_tensor info;
    int dtype, encoding, sound;
    unsigned axis, m, n, rank_bits; /* FMT-051, FMT-052 */
    uint64_t packed_rows, groups;   /* Q and G of FMT-052 */
    unsigned section_count;
    sf_section sections[3];
    const uint8_t *digest;
} sf_tensor;

/* A section as the header describes it. */
typedef struct {
    const uint8_t *key, *begin, *end, *dtype, *shape;
    int used;
} sf_entry;

/* A section as encoding, dtype, shape and support size imply it. */
typedef struct {
    int dtype;
    unsigned dims;
    uint64_t shape[8];
} sf_layout;

struct seft_file {
    const uint8_t *data, *body;
    uint64_t size, body_size;
    seft_memory memory;
    uint8_t *manifest;
    size_t manifest_size;
    sf_entry *entries;
    size_t entry_count;
    char *names;
    sf_tensor *tensors;
    size_t count;
    const uint8_t *attributes, *delta, *scales, *tied; /* in the manifest */
    char kind[65];
    int compressed;          /* whether any section is compressed */
    uint64_t choose[65][65]; /* binomials C(p, i) */
};

static void *sf_malloc(void *user, size_t size)
{
    (void)user;
    return malloc(size);
}

static void sf_free(void *user, void *block)
{
    (void)user;
    free(block);
}

/* FMT-096: every caller asks for memory in proportion to the bytes of the header that it has just walked over. */
static void *sf_reserve(seft_file *file, size_t count, size_t each, seft_error *error)
{
    void *block = count < SIZE_MAX / each ? file->memory.take(file->memory.user, count * each + 1) : NULL;
    if (!block)
        sf_fail(error, "", "out of memory");
    return block;
}

static uint64_t sf_load(const uint8_t *at, unsigned width)
{
    uint64_t value = 0;
    unsigned i;
    for (i = 0; i < width; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

/* --------------------------------------------------------------------------------------------- 12.2: the header */

static int sf_open_header(seft_file *file, seft_error *error)
{
    const uint8_t *header;
    uint64_t n, spaces = 0, text;
    if (file->size < 8) /* FMT-020 */
        return sf_fail(error, "FMT-020", "fewer than 8 bytes");
    n = sf_load(file->data, 8);
    header = file->data + 8;
    if (n > (1 << 24) - 8 || n > file->size - 8) /* FMT-021 */
        return sf_fail(error, "FMT-021", "a header of %" PRIu64 " bytes", n);
    if (8 + n < 1024 || ((8 + n) & (7 + n))) /* FMT-022 */
        return sf_fail(error, "FMT-022", "the data does not begin at a power of two from 1,024");
    file->body = header + n;
    file->body_size = file->size - 8 - n;
    while (spaces < n && header[n - 1 - spaces] == ' ')
        spaces++;
    text = n - spaces;
    if (header[0] != '{' || (8 + n > 1024 && 8 + text <= (8 + n) / 2)) /* FMT-023 */
        return sf_fail(error, "FMT-023", "the header does not begin with { or would fit a smaller size");
    return sf_json(header, (size_t)text, error);
}

static int sf_open_entry(sf_entry *entry, const sf_walk *member)
{
    static const char *const keys[] = {"data_offsets", "dtype", "shape"};
    const uint8_t *values[3];
    uint64_t number;
    sf_walk list;
    if (!sf_fields(member->value, keys, 3, values) || *values[0] != '[' || *values[1] != '"' || *values[2] != '[')
        return 0;
    entry->key = member->key;
    entry->dtype = values[1] + 1;
    entry->shape = values[2];
    entry->used = 0;
    list = sf_enter(values[2]);
    while (sf_step_list(&list))
        if (!sf_count(list.value, &number))
            return 0;
    list = sf_enter(values[0]);
    if (!sf_step_list(&list) || !sf_count(entry->begin = list.value, &number))
        return 0;
    if (!sf_step_list(&list) || !sf_count(entry->end = list.value, &number))
        return 0;
    return !sf_step_list(&list);
}

static int sf_dtype_of(const uint8_t *string)
{
    int i;
    for (i = 0; i < SF_DTYPES; i++)
        if (sf_is(string, sf_dtypes[i].name))
            return i;
    return -1;
}

static int sf_open_entries(seft_file *file, seft_error *error)
{
    sf_walk walk = sf_enter(file->data + 8);
    size_t count = 0;
    file->entries = (sf_entry *)sf_reserve(file, sf_members(file->data + 8), sizeof *file->entries, error);
    if (!file->entries)
        return 0;
    while (sf_step(&walk)) {
        if (sf_is(walk.key, "__metadata__"))
            continue;
        if (!sf_open_entry(&file->entries[count], &walk)) /* FMT-030 */
            return sf_fail(error, "FMT-030", "a section of the header is not data_offsets, dtype and shape");
        if (sf_dtype_of(file->entries[count].dtype) < 0) /* FMT-006 */
            return sf_fail(error, "FMT-006", "the header has an unknown dtype");
        count++;
    }
    file->entry_count = count;
    return 1;
}

/* Decodes the manifest, which is JSON text inside a string of the header. */
static int sf_open_manifest(seft_file *file, const uint8_t *string, seft_error *error)
{
    size_t most = (size_t)(sf_skip(string - 1) - string);
    file->manifest = (uint8_t *)sf_reserve(file, most, 1, error);
    if (!file->manifest)
        return 0;
    file->manifest_size = sf_decode(string, (char *)file->manifest, most);
    return 1;
}

static int sf_open_metadata(seft_file *file, seft_error *error)
{
    static const char *const keys[] = {"format", "seft.manifest", "seft.manifest.sha256"};
    const uint8_t *metadata = sf_find(file->data + 8, "__metadata__"), *values[3];
    char root[65];
    if (!metadata || !sf_fields(metadata, keys, 3, values) || *values[1] != '"' || *values[2] != '"' ||
        *values[0] != '"' || !sf_is(values[0] + 1, "pt")) /* FMT-029 */
        return sf_fail(error, "FMT-029", "__metadata__ is not format, seft.manifest and seft.manifest.sha256");
    if (!sf_open_entries(file, error) || !sf_open_manifest(file, values[1] + 1, error))
        return 0;
    if (!sf_digest(values[2])) /* FMT-047 */
        return sf_fail(error, "FMT-047", "seft.manifest.sha256 is not 64 lower-case hexadecimal digits");
    seft_root(file, root);
    if (!sf_is(values[2] + 1, root)) /* FMT-093 */
        return sf_fail(error, "FMT-093", "seft.manifest.sha256 is not the digest of the manifest");
    return sf_json(file->manifest, file->manifest_size, error);
}

/* ------------------------------------------------------------------------------------------- 12.3: the manifest */

static int sf_type(const uint8_t *value, uint8_t first, const char *name, seft_error *error)
{
    return *value == first || sf_fail(error, "FMT-041", "%s has a wrong type", name); /* FMT-041 */
}

/* Checks a feature list. `taken` has the features of the first list: bit 0 for delta, bit 1 for zstd. */
static int sf_features(const uint8_t *list, const char *name, int taken, seft_error *error)
{
    sf_walk walk;
    const uint8_t *before = NULL;
    if (!sf_type(list, '[', name, error))
        return 0;
    walk = sf_enter(list);
    while (sf_step_list(&walk)) {
        if (!sf_type(walk.value, '"', name, error))
            return 0;
        if (!sf_matches(walk.value + 1, '-') || (before && sf_compare(before, walk.value + 1) >= 0)) /* FMT-044 */
            return sf_fail(error, "FMT-044", "%s is not a sorted list of different feature names", name);
        if ((taken & 1 && sf_is(walk.value + 1, "delta")) || (taken & 2 && sf_is(walk.value + 1, "zstd"))) /* FMT-044 */
            return sf_fail(error, "FMT-044", "a feature stands in both lists");
        before = walk.value + 1;
    }
    return 1;
}

/* Returns whether a string is 1.<minor>, a number of at most four digits without leading zeros. */
static int sf_version(const uint8_t *string)
{
    size_t digits = 0;
    if (string[0] != '1' || string[1] != '.')
        return 0;
    for (string += 2; string[digits] >= '0' && string[digits] <= '9'; digits++)
        ;
    return digits >= 1 && digits <= 4 && string[digits] == '"' && (digits == 1 || *string != '0');
}

/* FMT-042: checked before any other key, so that a file of a later version is refused for what it requires. */
/* `needs` has bit 0 if the file requires delta, bit 1 if it requires zstd. */
static int sf_understood(const uint8_t *manifest, int *needs, seft_error *error)
{
    const uint8_t *spec = sf_find(manifest, "spec"), *requires_list = sf_find(manifest, "requires");
    sf_walk walk;
    if (!spec || !requires_list) /* FMT-040 */
        return sf_fail(error, "FMT-040", "the manifest lacks spec or requires");
    if (!sf_type(spec, '"', "spec", error))
        return 0;
    if (!sf_version(spec + 1)) /* FMT-042, FMT-160 */
        return sf_fail(error, "FMT-042", "spec is not 1.<minor>");
    if (!sf_features(requires_list, "requires", 0, error))
        return 0;
    *needs = 0;
    walk = sf_enter(requires_list);
    while (sf_step_list(&walk)) {
        int zstd = SF_ZSTD && sf_is(walk.value + 1, "zstd");
        if (!zstd && !sf_is(walk.value + 1, "delta")) /* FMT-043 */
            return sf_fail(error, "FMT-043", "the feature %.*s is required", (int)(walk.next - walk.value),
                           (const char *)walk.value);
        *needs |= zstd ? 2 : 1;
    }
    return 1;
}

static int sf_shape(seft_tensor *info, const uint8_t *list, seft_error *error)
{
    sf_walk walk;
    uint64_t product = 1, dimension;
    if (!sf_type(list, '[', "shape", error))
        return 0;
    info->numel = info->rows = info->columns = 1;
    walk = sf_enter(list);
    while (sf_step_list(&walk)) {
        if (!sf_count(walk.value, &dimension)) /* FMT-041, FMT-007 */
            return sf_fail(error, "FMT-041", "tensor %.160s: a dimension is no integer from 0", info->name);
        if (info->dims == 8 || (dimension && product > (uint64_t)SF_MOST / dimension)) /* FMT-007 */
            return sf_fail(error, "FMT-007", "tensor %.160s: more than 8 dimensions or 2^53 - 1 positions", info->name);
        product *= dimension ? dimension : 1;
        info->rows = info->numel;
        info->numel *= dimension;
        info->columns = dimension;
        info->shape[info->dims++] = dimension;
    }
    return 1;
}

static int sf_pattern(const seft_file *file, sf_tensor *t, const uint8_t *object, seft_error *error)
{
    static const char *const keys[] = {"axis", "m", "n"};
    const uint8_t *values[3];
    const seft_tensor *info = &t->info;
    uint64_t axis, m, n;
    if (!sf_type(object, '{', "pattern", error))
        return 0;
    if (!sf_fields(object, keys, 3, values)) /* FMT-040 */
        return sf_fail(error, "FMT-040", "tensor %.160s: pattern is not axis, m and n", info->name);
    if (!sf_count(values[0], &axis) || !sf_count(values[1], &m) || !sf_count(values[2], &n)) /* FMT-041 */
        return sf_fail(error, "FMT-041", "tensor %.160s: a number of pattern is no integer from 0", info->name);
    if (axis >= info->dims || m < 2 || m > 64 || n < 1 || n >= m || !info->numel || info->shape[axis] % m ||
        info->nnz * m != info->numel * n) /* FMT-051 */
        return sf_fail(error, "FMT-051", "tensor %.160s: the pattern does not fit", info->name);
    t->axis = (unsigned)axis;
    t->m = (unsigned)m;
    t->n = (unsigned)n;
    t->packed_rows = axis + 1 == info->dims ? info->rows : info->rows / m; /* FMT-052 */
    t->groups = axis + 1 == info->dims ? info->columns / m : info->columns;
    while ((file->choose[m][n] - 1) >> t->rank_bits)
        t->rank_bits++;
    return 1;
}

/* Checks shapes and counts against the encoding. */
static int sf_suits(const sf_tensor *t, seft_error *error)
{
    const seft_tensor *info = &t->info;
    if (t->encoding == SF_DENSE && t->dtype == SF_NONE) /* FMT-017 */
        return sf_fail(error, "FMT-017", "tensor %.160s: a mask is dense", info->name);
    if (info->nnz > info->numel || (t->encoding == SF_DENSE && info->nnz < info->numel)) /* FMT-046 */
        return sf_fail(error, "FMT-046", "tensor %.160s: nnz does not fit the shape", info->name);
    if (t->encoding == SF_DENSE)
        return 1;
    if (!info->dims || info->rows > 0x7fffffff || info->columns > 0x7fffffff) /* FMT-008, FMT-004 */
        return sf_fail(error, "FMT-008", "tensor %.160s: rows or columns past 2^31 - 1, or a scalar", info->name);
    if (t->encoding == SF_BITMASK && !info->columns) /* FMT-064 */
        return sf_fail(error, "FMT-064", "tensor %.160s: bitmask of rows without columns", info->name);
    return 1;
}

/* FMT-049: reads the section of one role; its size is checked later. */
static int sf_open_section(sf_section *section, const uint8_t *object, seft_error *error)
{
    static const char *const keys[] = {"bytes", "?codec", "?raw_bytes", "sha256"};
    const uint8_t *values[4];
    if (!sf_type(object, '{', "a section", error))
        return 0;
    if (!sf_fields(object, keys, 4, values) || !values[1] != !values[2]) /* FMT-040 */
        return sf_fail(error, "FMT-040", "a section of the manifest has a key too many or too few");
    if (values[1] && !sf_type(values[1], '"', "codec", error))
        return 0;
    if (values[1] && !sf_is(values[1] + 1, "zstd")) /* FMT-043 */
        return sf_fail(error, "FMT-043", "a section has an unknown codec");
    if (values[1] && !SF_ZSTD) /* FMT-050; a file that requires zstd was refused before */
        return sf_fail(error, "FMT-050", "a section is compressed, and requires does not name zstd");
    if (!sf_count(values[0], &section->size)) /* FMT-041 */
        return sf_fail(error, "FMT-041", "bytes is no integer from 0");
    section->compressed = values[1] != NULL;
    section->raw_size = section->size;
    if (values[2] && !sf_count(values[2], &section->raw_size)) /* FMT-041 */
        return sf_fail(error, "FMT-041", "raw_bytes is no integer from 0");
    if (values[1] && (section->size >= section->raw_size || (section->raw_size - 1) / 1024 >= section->size))
        return sf_fail(error, "FMT-141", "a compressed section is not smaller, or too small"); /* FMT-141 */
    if (!sf_type(values[3], '"', "sha256", error))
        return 0;
    if (!sf_digest(values[3])) /* FMT-047 */
        return sf_fail(error, "FMT-047", "sha256 is not 64 lower-case hexadecimal digits");
    section->digest = values[3] + 1;
    return 1;
}

static uint64_t sf_up(uint64_t value, uint64_t unit)
{
    return value / unit + (value % unit != 0);
}

/* Returns dtype and shape of a section by FMT-033, FMT-071 and the table of 12.4. Gaps have any length: `stated`. */
static sf_layout sf_layout_of(const sf_tensor *t, int role, uint64_t stated)
{
    const seft_tensor *info = &t->info;
    sf_layout layout = {SF_U8, 1, {0}};
    layout.shape[0] = stated;
    if (role == SF_COL_IDX) { /* FMT-065 */
        layout.dtype = info->columns <= 65536 ? SF_U16 : SF_U32;
        layout.shape[0] = info->nnz;
    } else if (role == SF_ROW_PTR) { /* FMT-065 */
        layout.dtype = info->nnz >> 32 ? SF_U64 : SF_U32;
        layout.shape[0] = info->rows + 1;
    } else if (role == SF_MASK) { /* FMT-061 */
        layout.dims = 2;
        layout.shape[0] = info->rows;
        layout.shape[1] = sf_up(info->columns, 8);
    } else if (role == SF_RANKS) { /* FMT-052 */
        layout.dims = 2;
        layout.shape[0] = t->packed_rows;
        layout.shape[1] = sf_up(t->groups * t->rank_bits, 8);
    } else if (role == SF_VALUES && sf_dtypes[t->dtype].bits % 8) { /* FMT-071 */
        layout.shape[0] = sf_up(info->nnz * sf_dtypes[t->dtype].bits, 8);
    } else if (role == SF_VALUES) {
        layout.dtype = t->dtype;
        layout.dims = t->encoding == SF_DENSE ? info->dims : 1;
        layout.shape[0] = info->nnz;
        if (t->encoding == SF_DENSE)
            memcpy(layout.shape, info->shape, sizeof layout.shape);
    }
    return layout;
}

static int sf_fits(const sf_tensor *t, const sf_section *section, seft_error *error)
{
    sf_layout layout = sf_layout_of(t, section->role, section->raw_size);
    const seft_tensor *info = &t->info;
    uint64_t size = sf_dtypes[layout.dtype].bits / 8, most;
    unsigned i;
    for (i = 0; i < layout.dims; i++)
        size *= layout.shape[i];
    most = t->encoding == SF_GAP8 ? info->nnz + info->numel / 255 : 8 * info->nnz;
    if (section->role == SF_GAPS && (info->rows > 1 << 20 || sf_up(info->rows, 65536) > section->raw_size + 1))
        return sf_fail(error, "FMT-056", /* FMT-056 */
                       "tensor %.160s: too many rows for its gaps", info->name);
    if (section->role == SF_GAPS && (section->raw_size < info->nnz || section->raw_size > most)) /* FMT-057 */
        return sf_fail(error, "FMT-057", "tensor %.160s: gaps has too few or too many bytes", info->name);
    if (section->raw_size != size) /* FMT-049 */
        return sf_fail(error, "FMT-049", "tensor %.160s: bytes is not what dtype and shape take", info->name);
    return 1;
}

static int sf_open_sections(sf_tensor *t, const uint8_t *object, seft_error *error)
{
    static const int codes[SF_ENCODINGS][2] = {{-1, -1},                 {SF_MASK, -1}, {SF_RANKS, -1},
                                               {SF_COL_IDX, SF_ROW_PTR}, {SF_GAPS, -1}, {SF_GAPS, -1}};
    int roles[3];
    unsigned count = 0, i;
    sf_walk walk;
    if (!sf_type(object, '{', "sections", error))
        return 0;
    for (i = 0; i < 2; i++)
        if (codes[t->encoding][i] >= 0)
            roles[count++] = codes[t->encoding][i];
    if (t->dtype != SF_NONE) /* FMT-017, FMT-071 */
        roles[count++] = SF_VALUES;
    walk = sf_enter(object);
    for (i = 0; sf_step(&walk) && i < count; i++) {
        sf_section *section = &t->sections[i];
        section->role = roles[i];
        if (!sf_is(walk.key, sf_roles[roles[i]])) /* FMT-031 */
            break;
        if (!sf_open_section(section, walk.value, error) || !sf_fits(t, section, error))
            return 0;
    }
    t->section_count = count;
    if (i != count || sf_members(object) != count) /* FMT-031 */
        return sf_fail(error, "FMT-031", "tensor %.160s: sections does not list its roles", t->info.name);
    return 1;
}

static int sf_open_tensor(const seft_file *file, sf_tensor *t, const uint8_t *object, seft_error *error)
{
    static const char *const keys[] = {"content_sha256", "dtype", "encoding", "nnz", "?pattern", "sections", "shape"};
    const uint8_t *v[7];
    unsigned i;
    if (!sf_type(object, '{', "a tensor", error))
        return 0;
    if (!sf_fields(object, keys, 7, v)) /* FMT-040 */
        return sf_fail(error, "FMT-040", "tensor %.160s: a key too many or too few", t->info.name);
    for (i = 0; i < 3; i++)
        if (!sf_type(v[i], '"', keys[i], error))
            return 0;
    if (!sf_digest(v[0])) /* FMT-047 */
        return sf_fail(error, "FMT-047", "content_sha256 is not 64 lower-case hexadecimal digits");
    t->digest = v[0] + 1;
    t->dtype = sf_dtype_of(v[1] + 1);
    if (t->dtype < 0) /* FMT-006 */
        return sf_fail(error, "FMT-006", "tensor %.160s: an unknown dtype", t->info.name);
    while (t->encoding < SF_ENCODINGS && !sf_is(v[2] + 1, sf_encodings[t->encoding]))
        t->encoding++;
    if (t->encoding == SF_ENCODINGS) /* FMT-045 */
        return sf_fail(error, "FMT-045", "tensor %.160s: an unknown encoding", t->info.name);
    t->info.dtype = sf_dtypes[t->dtype].name;
    t->info.encoding = sf_encodings[t->encoding];
    if (!v[4] != (t->encoding != SF_NM)) /* FMT-040 */
        return sf_fail(error, "FMT-040", "tensor %.160s: pattern belongs to nm and to no other encoding", t->info.name);
    if (!sf_count(v[3], &t->info.nnz)) /* FMT-041 */
        return sf_fail(error, "FMT-041", "tensor %.160s: nnz is no integer from 0", t->info.name);
    return sf_shape(&t->info, v[6], error) && sf_suits(t, error) && (!v[4] || sf_pattern(file, t, v[4], error)) &&
           sf_open_sections(t, v[5], error);
}

static int sf_open_tensors(seft_file *file, const uint8_t *object, seft_error *error)
{
    sf_walk walk = sf_enter(object);
    size_t count = sf_members(object);
    char *name;
    file->tensors = (sf_tensor *)sf_reserve(file, count, sizeof *file->tensors, error);
    file->names = file->tensors ? (char *)sf_reserve(file, file->manifest_size, 1, error) : NULL;
    if (!file->names)
        return 0;
    for (name = file->names; sf_step(&walk); file->count++) {
        sf_tensor *t = &file->tensors[file->count];
        memset(t, 0, sizeof *t);
        if (!sf_name(walk.key)) /* FMT-009 */
            return sf_fail(error, "FMT-009", "a tensor has a name that it cannot have");
        t->info.name = name;
        t->info.name_size = sf_decode(walk.key, name, SF_NAME);
        t->info.name_json = (const char *)walk.key - 1;
        t->info.name_json_size = (size_t)(walk.value - walk.key); /* with both quotes, without the colon */
        name += t->info.name_size;
        *name++ = 0;
        if (!sf_open_tensor(file, t, walk.value, error))
            return 0;
    }
    return 1;
}

static int sf_keep_kind(seft_file *file, const uint8_t *value, seft_error *error)
{
    if (!sf_type(value, '"', "kind", error))
        return 0;
    if (!sf_matches(value + 1, '-')) /* FMT-012 */
        return sf_fail(error, "FMT-012", "kind does not match [a-z][a-z0-9-]{0,63}");
    file->kind[sf_decode(value + 1, file->kind, 64)] = 0;
    return 1;
}

/* --------------------------------------------------------------------------- what the manifest says of the header */

/* Returns the index of a stored tensor, or count if there is none of that name. */
static size_t sf_place(const seft_file *file, const char *name, size_t size)
{
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const seft_tensor *info = &file->tensors[middle].info;
        size_t common = info->name_size < size ? info->name_size : size;
        int order = memcmp(info->name, name, common);
        order = order ? order : (info->name_size > size) - (info->name_size < size);
        if (!order)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return file->count;
}

/* Returns the index of the tensor that a prefix and a JSON string name, or count if there is none. */
static size_t sf_stored(const seft_file *file, const char *prefix, const uint8_t *string)
{
    char name[SF_NAME + 8];
    size_t before = strlen(prefix), size;
    memcpy(name, prefix, before);
    size = sf_decode(string, name + before, SF_NAME);
    return size > SF_NAME ? file->count : sf_place(file, name, before + size);
}

/* Orders a JSON string against `size` bytes. */
static int sf_order(const uint8_t *string, const char *bytes, size_t size)
{
    size_t i;
    for (i = 0;; i++) {
        int x = sf_take(&string), y = i < size ? (uint8_t)bytes[i] : -1;
        if (x != y)
            return x < y ? -1 : 1;
        if (x < 0)
            return 0;
    }
}

/* Finds the header's section of a name by bisection, because the keys of a header are sorted (FMT-028). */
static sf_entry *sf_entry_of(seft_file *file, const sf_tensor *t, int role, const char *suffix)
{
    char key[SF_NAME + 16];
    size_t size = t->info.name_size, low = 0, high = file->entry_count;
    memcpy(key, t->info.name, size);
    size += (size_t)snprintf(key + size, sizeof key - size, "#%s%s", sf_roles[role], suffix);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = sf_order(file->entries[middle].key, key, size);
        if (!order)
            return &file->entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static int sf_same_shape(const uint8_t *list, const sf_layout *layout)
{
    sf_walk walk = sf_enter(list);
    uint64_t dimension;
    unsigned i;
    for (i = 0; sf_step_list(&walk); i++)
        if (i == layout->dims || !sf_count(walk.value, &dimension) || dimension != layout->shape[i])
            return 0;
    return i == layout->dims;
}

static int sf_same_place(const sf_entry *entry, uint64_t begin, uint64_t end)
{
    uint64_t number;
    return sf_count(entry->begin, &number) && number == begin && sf_count(entry->end, &number) && number == end;
}

/* FMT-034: checks the pad from `end` to the next multiple of 64, if there must be one. */
static int sf_place_pad(seft_file *file, const sf_tensor *t, int role, uint64_t *end, seft_error *error)
{
    uint64_t size = sf_up(*end, 64) * 64 - *end;
    sf_layout layout = {SF_U8, 1, {0}};
    sf_entry *entry;
    if (!size)
        return 1;
    layout.shape[0] = size;
    entry = sf_entry_of(file, t, role, "#pad");
    if (!entry || !sf_is(entry->dtype, "U8") || !sf_same_shape(entry->shape, &layout) ||
        !sf_same_place(entry, *end, *end + size)) /* FMT-034 */
        return sf_fail(error, "FMT-034", "tensor %.160s: %s lacks its pad", t->info.name, sf_roles[role]);
    if (size > file->body_size - *end) /* FMT-035 */
        return sf_fail(error, "FMT-035", "the file ends within a pad");
    entry->used = 1;
    *end += size;
    return 1;
}

static int sf_place_section(seft_file *file, const sf_tensor *t, sf_section *section, uint64_t *end, seft_error *error)
{
    const sf_layout bytes = {SF_U8, 1, {section->size}};
    sf_layout layout = section->compressed ? bytes : sf_layout_of(t, section->role, section->raw_size);
    sf_entry *entry = sf_entry_of(file, t, section->role, "");
    const char *name = t->info.name, *role = sf_roles[section->role];
    if (!entry) /* FMT-031 */
        return sf_fail(error, "FMT-031", "tensor %.160s: the header has no section %s", name, role);
    if (!sf_is(entry->dtype, sf_dtypes[layout.dtype].name) || !sf_same_shape(entry->shape, &layout)) /* FMT-033 */
        return sf_fail(error, "FMT-033", "tensor %.160s: dtype or shape of the section %s", name, role);
    if (!sf_same_place(entry, *end, *end + section->size)) /* FMT-034 */
        return sf_fail(error, "FMT-034", "tensor %.160s: data_offsets of the section %s", name, role);
    if (section->size > file->body_size - *end) /* FMT-035, FMT-096 */
        return sf_fail(error, "FMT-035", "tensor %.160s: the file ends within the section %s", name, role);
    entry->used = 1;
    file->compressed |= section->compressed;
    section->begin = *end;
    *end += section->size;
    return sf_place_pad(file, t, section->role, end, error);
}

static int sf_place_sections(seft_file *file, seft_error *error)
{
    uint64_t end = 0;
    size_t i;
    unsigned k;
    for (i = 0; i < file->count; i++)
        for (k = 0; k < file->tensors[i].section_count; k++)
            if (!sf_place_section(file, &file->tensors[i], &file->tensors[i].sections[k], &end, error))
                return 0;
    for (i = 0; i < file->entry_count; i++)
        if (!file->entries[i].used) /* FMT-032 */
            return sf_fail(error, "FMT-032", "the header has a section that the manifest does not imply");
    if (end != file->body_size) /* FMT-035 */
        return sf_fail(error, "FMT-035", "the file does not end where its last section or pad ends");
    return 1;
}

/* ---------------------------------------------------------------------------------------- tied, scales, deltas */

/* FMT-010; `own` is 0 for the target of a delta, whose tensors are not in the file (FMT-131). */
static int sf_check_tied(const seft_file *file, const uint8_t *object, int own, seft_error *error)
{
    sf_walk walk = sf_enter(object);
    while (sf_step(&walk)) {
        if (!sf_type(walk.value, '"', "tied", error))
            return 0;
        if (!sf_name(walk.key) || !sf_name(walk.value + 1)) /* FMT-009 */
            return sf_fail(error, "FMT-009", "tied has a name that no tensor can have");
        if (!sf_compare(walk.key, walk.value + 1)) /* FMT-010 */
            return sf_fail(error, "FMT-010", "a tied name stands for itself");
        if (own && (sf_stored(file, "", walk.key) < file->count || sf_stored(file, "", walk.value + 1) == file->count))
            return sf_fail(error, "FMT-010", "a tied name is stored, or stands for one that is not"); /* FMT-010 */
    }
    return 1;
}

/* FMT-016 */
static int sf_check_scales(const seft_file *file, const uint8_t *object, int own, seft_error *error)
{
    sf_walk outer = sf_enter(object), inner;
    while (sf_step(&outer)) {
        if (!sf_type(outer.value, '{', "scales", error))
            return 0;
        if (!sf_name(outer.key)) /* FMT-009 */
            return sf_fail(error, "FMT-009", "scales has a name that no tensor can have");
        if (outer.value[1] == '}' || (own && sf_stored(file, "", outer.key) == file->count)) /* FMT-016 */
            return sf_fail(error, "FMT-016", "scales has an empty object, or one of a tensor that is not stored");
        inner = sf_enter(outer.value);
        while (sf_step(&inner)) {
            if (!sf_type(inner.value, '"', "scales", error))
                return 0;
            if (!sf_name(inner.value + 1)) /* FMT-009 */
                return sf_fail(error, "FMT-009", "scales has a name that no tensor can have");
            if (!sf_matches(inner.key, '_') || !sf_compare(outer.key, inner.value + 1) ||
                (own && sf_stored(file, "", inner.value + 1) == file->count)) /* FMT-016 */
                return sf_fail(error, "FMT-016", "scales has a wrong role, a tensor of itself, or one not stored");
        }
    }
    return 1;
}

/* Returns how a delta stores a listed tensor: one bit for each of replace, remove, add and whole. */
static unsigned sf_forms(const seft_file *file, const uint8_t *name)
{
    static const char *const prefixes[] = {"replace:", "remove:", "add:", "whole:"};
    unsigned forms = 0, i;
    for (i = 0; i < 4; i++)
        forms |= (unsigned)(sf_stored(file, prefixes[i], name) < file->count) << i;
    return forms;
}

/* Checks FMT-131 and FMT-132 for one listed tensor; adds to `stored` the number of tensors that store its change. */
static int sf_check_listed(const seft_file *file, const sf_walk *listed, size_t *stored, seft_error *error)
{
    static const char *const keys[] = {"base", "target"};
    const uint8_t *v[2];
    unsigned forms, i;
    if (!sf_type(listed->value, '{', "a tensor of delta", error))
        return 0;
    if (!sf_name(listed->key)) /* FMT-009 */
        return sf_fail(error, "FMT-009", "delta has a name that no tensor can have");
    if (!sf_fields(listed->value, keys, 2, v)) /* FMT-040 */
        return sf_fail(error, "FMT-040", "a tensor of delta is not base and target");
    for (i = 0; i < 2; i++) {
        if (*v[i] != 'n' && !sf_type(v[i], '"', keys[i], error))
            return 0;
        if (*v[i] == '"' && !sf_digest(v[i])) /* FMT-047 */
            return sf_fail(error, "FMT-047", "a digest of delta is not 64 lower-case hexadecimal digits");
    }
    if (*v[0] == *v[1] && (*v[0] == 'n' || !sf_compare(v[0] + 1, v[1] + 1))) /* FMT-131 */
        return sf_fail(error, "FMT-131", "delta lists a tensor whose content does not change");
    forms = sf_forms(file, listed->key);
    *stored += (forms & 1) + (forms >> 1 & 1) + (forms >> 2 & 1) + (forms >> 3);
    if (*v[1] == 'n' ? forms != 0 : *v[0] == 'n' ? forms != 8 : !(forms <= 4 || forms == 8) || !forms) /* FMT-132 */
        return sf_fail(error, "FMT-132", "a tensor of delta is stored in a way that it cannot be");
    return 1;
}

static int sf_check_delta(const seft_file *file, const uint8_t *object, seft_error *error)
{
    static const char *const keys[] = {"base_sha256", "scales", "target_sha256", "tensors", "tied"};
    const uint8_t *v[5];
    size_t stored = 0, i;
    sf_walk walk;
    if (!sf_type(object, '{', "delta", error))
        return 0;
    if (!sf_fields(object, keys, 5, v)) /* FMT-040 */
        return sf_fail(error, "FMT-040", "delta has a key too many or too few");
    for (i = 0; i < 5; i++)
        if (!sf_type(v[i], i == 0 || i == 2 ? '"' : '{', keys[i], error))
            return 0;
    if (file->scales[1] != '}' || file->tied[1] != '}') /* FMT-130 */
        return sf_fail(error, "FMT-130", "a delta has scales or tied names of its own");
    if (!sf_digest(v[0]) || !sf_digest(v[2])) /* FMT-047 */
        return sf_fail(error, "FMT-047", "a digest of delta is not 64 lower-case hexadecimal digits");
    if (!sf_check_scales(file, v[1], 0, error) || !sf_check_tied(file, v[4], 0, error))
        return 0;
    walk = sf_enter(v[3]);
    while (sf_step(&walk))
        if (!sf_check_listed(file, &walk, &stored, error))
            return 0;
    if (stored != file->count) /* FMT-132 */
        return sf_fail(error, "FMT-132", "a tensor is stored that delta does not list");
    return 1;
}

/* ------------------------------------------------------------------------------------------------------ opening */

/* Checks the types of a manifest's values, and those values that can be checked without a tensor. */
static int sf_check_whole(const uint8_t *const *v, int needs, seft_error *error)
{
    uint64_t part;
    if (!sf_type(v[0], '{', "attributes", error) || !sf_type(v[2], '{', "files", error) ||
        !sf_type(v[7], '{', "scales", error) || !sf_type(v[9], '{', "tensors", error) ||
        !sf_type(v[10], '{', "tied", error))
        return 0;
    if (!sf_count(v[5], &part)) /* FMT-041 */
        return sf_fail(error, "FMT-041", "part is no integer from 0");
    if (part) /* FMT-048 */
        return sf_fail(error, "FMT-048", "the file is a part of a checkpoint");
    if (v[2][1] != '}') /* FMT-102 */
        return sf_fail(error, "FMT-102", "the file has companions, which a reader of bytes cannot find");
    return sf_features(v[4], "optional", needs, error);
}

/* Opens a file; the order of the checks is that of 12.8. */
static int sf_open_all(seft_file *file, seft_error *error)
{
    static const char *const keys[] = {"attributes", "?delta", "files",  "kind",    "optional", "part",
                                       "requires",   "scales", "spec",   "tensors", "tied"};
    const uint8_t *v[11], *manifest;
    int is_delta, needs = 0;
    if (!sf_open_header(file, error) || !sf_open_metadata(file, error))
        return 0;
    manifest = file->manifest;
    if (*manifest != '{') /* FMT-040 */
        return sf_fail(error, "FMT-040", "the manifest is no object");
    if (!sf_understood(manifest, &needs, error))
        return 0;
    if (!sf_fields(manifest, keys, 11, v)) /* FMT-040 */
        return sf_fail(error, "FMT-040", "the manifest has a key too many or too few");
    if (!sf_keep_kind(file, v[3], error) || !sf_check_whole(v, needs, error))
        return 0;
    is_delta = !strcmp(file->kind, "delta");
    if (is_delta != (v[1] != NULL)) /* FMT-040, FMT-130 */
        return sf_fail(error, "FMT-040", "delta belongs to a file of kind delta and to no other");
    if (is_delta != (needs & 1)) /* FMT-050 */
        return sf_fail(error, "FMT-050", "requires does not name the features that the file uses");
    file->attributes = v[0];
    file->delta = v[1];
    file->scales = v[7];
    file->tied = v[10];
    if (!sf_open_tensors(file, v[9], error) || !sf_place_sections(file, error))
        return 0;
    if (file->compressed != needs >> 1) /* FMT-050 */
        return sf_fail(error, "FMT-050", "requires does not name the features that the file uses");
    return sf_check_tied(file, file->tied, 1, error) && sf_check_scales(file, file->scales, 1, error) &&
           (!is_delta || sf_check_delta(file, v[1], error));
}

static void sf_fill_choose(seft_file *file)
{
    unsigned p, i;
    for (p = 0; p <= 64; p++) {
        file->choose[p][0] = 1;
        for (i = 1; i <= p; i++)
            file->choose[p][i] = file->choose[p - 1][i - 1] + (i < p ? file->choose[p - 1][i] : 0);
    }
}

seft_file *seft_open_in(const uint8_t *data, size_t size, const seft_memory *memory, seft_error *error)
{
    seft_memory own = {sf_malloc, sf_free, NULL};
    seft_file *file;
    own = memory ? *memory : own;
    file = (seft_file *)own.take(own.user, sizeof *file);
    if (!file) {
        sf_fail(error, "", "out of memory");
        return NULL;
    }
    memset(file, 0, sizeof *file);
    file->data = data;
    file->size = size;
    file->memory = own;
    sf_fill_choose(file);
    if (!sf_open_all(file, error)) {
        seft_close(file);
        return NULL;
    }
    own.give(own.user, file->entries);
    file->entries = NULL;
    return file;
}

seft_file *seft_open(const uint8_t *data, size_t size, seft_error *error)
{
    return seft_open_in(data, size, NULL, error);
}

void seft_close(seft_file *file)
{
    seft_memory memory;
    size_t i;
    unsigned j;
    if (!file)
        return;
    memory = file->memory;
    for (i = 0; file->tensors && i < file->count; i++)
        for (j = 0; j < 3; j++)
            if (file->tensors[i].sections[j].raw)
                memory.give(memory.user, file->tensors[i].sections[j].raw);
    if (file->entries)
        memory.give(memory.user, file->entries);
    if (file->manifest)
        memory.give(memory.user, file->manifest);
    if (file->names)
        memory.give(memory.user, file->names);
    if (file->tensors)
        memory.give(memory.user, file->tensors);
    memory.give(memory.user, file);
}

/* --------------------------------------------------------------------------------------------- walking a support */

static const uint8_t *sf_bytes(const seft_file *file, const sf_tensor *t, int role, uint64_t *size)
{
    unsigned i;
    for (i = 0; i < t->section_count; i++) {
        if (t->sections[i].role != role)
            continue;
        if (size)
            *size = t->sections[i].raw_size;
        return t->sections[i].compressed ? t->sections[i].raw : file->body + t->sections[i].begin;
    }
    if (size)
        *size = 0;
    return NULL;
}

/* Returns `width` bits (at most 64) from bit `at` on, the least significant first. */
static uint64_t sf_bits(const uint8_t *bytes, uint64_t at, unsigned width)
{
    uint64_t value = 0;
    unsigned have = 0;
    while (have < width) {
        unsigned shift = (unsigned)((at + have) % 8), part = 8 - shift;
        part = part < width - have ? part : width - have;
        value |= (uint64_t)(bytes[(at + have) / 8] >> shift & ((1u << part) - 1)) << have;
        have += part;
    }
    return value;
}

/* Reads a gap of a code that was checked before. */
static uint64_t sf_gap(const uint8_t *gaps, uint64_t *at, int encoding)
{
    uint64_t gap = 0;
    unsigned shift = 0;
    if (encoding == SF_GAP8) { /* FMT-054 */
        while (gaps[*at] == 255)
            gap += gaps[(*at)++];
        return gap + gaps[(*at)++];
    }
    do /* FMT-055 */
        gap |= (uint64_t)(gaps[*at] & 127) << 7 * shift++;
    while (gaps[(*at)++] & 128);
    return gap;
}

/* Walks the positions of a support in row-major order; row and column are those of the last position returned. */
typedef struct {
    const seft_file *file;
    const sf_tensor *t;
    const uint8_t *codes; /* the section that encodes the support */
    uint64_t row, column;
    uint64_t at;          /* the next unit of the code: byte, group, slot or position */
    uint64_t end;         /* units of the code */
    uint64_t flat;        /* gap codes: the position behind the last one */
    uint64_t bits, first; /* unread positions of the last unit; bit 0 is column `first` */
} sf_iter;

static sf_iter sf_begin(const seft_file *file, const sf_tensor *t)
{
    static const int codes[SF_ENCODINGS] = {SF_VALUES, SF_MASK, SF_RANKS, SF_COL_IDX, SF_GAPS, SF_GAPS};
    sf_iter it;
    memset(&it, 0, sizeof it);
    it.file = file;
    it.t = t;
    it.codes = sf_bytes(file, t, codes[t->encoding], &it.end);
    if (t->encoding == SF_DENSE)
        it.end = t->info.numel;
    if (t->encoding == SF_CSR)
        it.end = t->info.nnz;
    if (t->encoding == SF_NM)
        it.end = t->axis + 1 == t->info.dims ? t->packed_rows * t->groups : t->info.numel;
    return it;
}

/* FMT-052: returns the rank of group g of packed row q. */
static uint64_t sf_rank(const sf_tensor *t, const uint8_t *ranks, uint64_t q, uint64_t g)
{
    return sf_bits(ranks + q * sf_up(t->groups * t->rank_bits, 8), g * t->rank_bits, t->rank_bits);
}

/* FMT-052: returns the offsets that a rank encodes, as bits. */
static uint64_t sf_offsets(const seft_file *file, const sf_tensor *t, uint64_t rank)
{
    uint64_t offsets = 0;
    unsigned p = t->m, i;
    for (i = t->n; i; i--) {
        do
            p--;
        while (file->choose[p][i] > rank);
        rank -= file->choose[p][i];
        offsets |= UINT64_C(1) << p;
    }
    return offsets;
}

/* Reads unit `at` of an nm code whose groups lie across rows: it says whether one position is stored. */
static void sf_refill_across(sf_iter *it)
{
    const seft_tensor *info = &it->t->info;
    uint64_t inner = 1, along, q;
    unsigned i;
    for (i = it->t->axis + 1; i + 1 < info->dims; i++)
        inner *= info->shape[i];
    it->row = it->at / info->columns;
    it->first = it->at % info->columns;
    along = it->row / inner % info->shape[it->t->axis];
    q = it->row / inner / info->shape[it->t->axis] * (info->shape[it->t->axis] / it->t->m) + along / it->t->m;
    q = q * inner + it->row % inner;
    it->bits = sf_offsets(it->file, it->t, sf_rank(it->t, it->codes, q, it->first)) >> along % it->t->m & 1;
}

static void sf_refill(sf_iter *it)
{
    const seft_tensor *info = &it->t->info;
    uint64_t units;
    if (it->t->encoding == SF_BITMASK) { /* FMT-061 */
        units = sf_up(info->columns, 8);
        it->row = it->at / units;
        it->first = it->at % units * 8;
        it->bits = it->codes[it->at];
    } else if (it->t->axis + 1 == info->dims) { /* FMT-051 */
        units = it->t->groups;
        it->row = it->at / units;
        it->first = it->at % units * it->t->m;
        it->bits = sf_offsets(it->file, it->t, sf_rank(it->t, it->codes, it->row, it->at % units));
    } else {
        sf_refill_across(it);
    }
    it->at++;
}

static int sf_next_bit(sf_iter *it)
{
    while (!it->bits) {
        if (it->at == it->end)
            return 0;
        sf_refill(it);
    }
    it->column = it->first;
    while (!(it->bits >> (it->column - it->first) & 1))
        it->column++;
    it->bits &= it->bits - 1;
    return 1;
}

/* Moves to the next position of a support that was checked before; returns 0 at its end. */
static int sf_next(sf_iter *it)
{
    const seft_tensor *info = &it->t->info;
    const uint8_t *row_ptr;
    unsigned width = info->nnz >> 32 ? 8 : 4;
    if (it->t->encoding == SF_BITMASK || it->t->encoding == SF_NM)
        return sf_next_bit(it);
    if (it->at == it->end)
        return 0;
    if (it->t->encoding == SF_DENSE) { /* FMT-060 */
        it->row = it->at / info->columns;
        it->column = it->at++ % info->columns;
        return 1;
    }
    if (it->t->encoding == SF_CSR) { /* FMT-065 */
        row_ptr = sf_bytes(it->file, it->t, SF_ROW_PTR, NULL);
        while (it->at >= sf_load(row_ptr + (it->row + 1) * width, width))
            it->row++;
        width = info->columns <= 65536 ? 2 : 4;
        it->column = sf_load(it->codes + it->at++ * width, width);
        return 1;
    }
    it->flat += sf_gap(it->codes, &it->at, it->t->encoding) + 1;
    it->row = (it->flat - 1) / info->columns;
    it->column = (it->flat - 1) % info->columns;
    return 1;
}

/* ------------------------------------------------------------------------------------- 12.4: rules of one tensor */

static int sf_check_pads(const seft_file *file, const sf_tensor *t, seft_error *error)
{
    unsigned i;
    for (i = 0; i < t->section_count; i++) {
        uint64_t at = t->sections[i].begin + t->sections[i].size;
        for (; at % 64; at++)
            if (file->body[at]) /* FMT-036 */
                return sf_fail(error, "FMT-036", "tensor %.160s: a byte of a pad is not zero", t->info.name);
    }
    return 1;
}

static int sf_check_bitmask(const seft_file *file, const sf_tensor *t, seft_error *error)
{
    uint64_t size, at, ones = 0, stride = sf_up(t->info.columns, 8);
    const uint8_t *mask = sf_bytes(file, t, SF_MASK, &size);
    unsigned used = (unsigned)(t->info.columns % 8), bits;
    for (at = 0; at < size; at++) {
        if (used && at % stride == stride - 1 && mask[at] >> used) /* FMT-062 */
            return sf_fail(error, "FMT-062", "tensor %.160s: bits past the last column", t->info.name);
        for (bits = mask[at]; bits; bits &= bits - 1)
            ones++;
    }
    if (ones != t->info.nnz) /* FMT-063 */
        return sf_fail(error, "FMT-063", "tensor %.160s: nnz is not the number of 1 bits", t->info.name);
    return 1;
}

static int sf_check_nm(const seft_file *file, const sf_tensor *t, seft_error *error)
{
    const uint8_t *ranks = sf_bytes(file, t, SF_RANKS, NULL);
    uint64_t stride = sf_up(t->groups * t->rank_bits, 8), used = t->groups * t->rank_bits % 8, q, g;
    for (q = 0; q < t->packed_rows; q++) {
        for (g = 0; g < t->groups; g++)
            if (sf_rank(t, ranks, q, g) >= file->choose[t->m][t->n]) /* FMT-053 */
                return sf_fail(error, "FMT-053", "tensor %.160s: a rank is too large", t->info.name);
        if (used && ranks[(q + 1) * stride - 1] >> used) /* FMT-072 */
            return sf_fail(error, "FMT-072", "tensor %.160s: bits past the last rank of a row", t->info.name);
    }
    return 1;
}

static int sf_check_csr(const seft_file *file, const sf_tensor *t, seft_error *error)
{
    const uint8_t *row_ptr = sf_bytes(file, t, SF_ROW_PTR, NULL), *col_idx = sf_bytes(file, t, SF_COL_IDX, NULL);
    const char *name = t->info.name;
    uint64_t row, i, from = 0, to, column, before = 0;
    unsigned wide = t->info.nnz >> 32 ? 8 : 4, narrow = t->info.columns <= 65536 ? 2 : 4;
    if (sf_load(row_ptr, wide) || sf_load(row_ptr + t->info.rows * wide, wide) != t->info.nnz) /* FMT-066 */
        return sf_fail(error, "FMT-066", "tensor %.160s: row_ptr does not go from 0 to nnz", name);
    for (row = 0; row < t->info.rows; row++, from = to) {
        to = sf_load(row_ptr + (row + 1) * wide, wide);
        if (to < from || to > t->info.nnz) /* FMT-067; past nnz it would have to decrease later */
            return sf_fail(error, "FMT-067", "tensor %.160s: row_ptr decreases", name);
        for (i = from; i < to; i++, before = column) {
            column = sf_load(col_idx + i * narrow, narrow);
            if (column >= t->info.columns) /* FMT-068 */
                return sf_fail(error, "FMT-068", "tensor %.160s: a column past the last one", name);
            if (i > from && column <= before) /* FMT-069 */
                return sf_fail(error, "FMT-069", "tensor %.160s: columns do not increase within a row", name);
        }
    }
    return 1;
}

/* FMT-058, FMT-073: checks that there are nnz gaps, each in its only spelling. */
static int sf_count_gaps(const sf_tensor *t, const uint8_t *gaps, uint64_t size, seft_error *error)
{
    uint64_t at, count = 0, length = 0;
    uint8_t least = t->encoding == SF_GAP8 ? 255 : 128; /* a byte of at least this does not end a gap */
    for (at = 0; at < size; at++) {
        length++;
        if (t->encoding == SF_VARINT && (length > 8 || (length > 1 && !gaps[at]))) /* FMT-073 */
            return sf_fail(error, "FMT-073", "tensor %.160s: a gap is spelled too long", t->info.name);
        if (gaps[at] >= least)
            continue;
        count++;
        length = 0;
    }
    if (length || count != t->info.nnz) /* FMT-058 */
        return sf_fail(error, "FMT-058", "tensor %.160s: gaps does not hold as many gaps as nnz says", t->info.name);
    return 1;
}

static int sf_check_gaps(const seft_file *file, const sf_tensor *t, seft_error *error)
{
    uint64_t size, at = 0, flat = 0, gap;
    const uint8_t *gaps = sf_bytes(file, t, SF_GAPS, &size);
    if (!sf_count_gaps(t, gaps, size, error))
        return 0;
    while (at < size) {
        gap = sf_gap(gaps, &at, t->encoding);
        if (gap >= t->info.numel - flat) /* FMT-059; by subtraction, because a sum could wrap */
            return sf_fail(error, "FMT-059", "tensor %.160s: a gap leads past the last position", t->info.name);
        flat += gap + 1;
    }
    return 1;
}

static int sf_check_values(const seft_file *file, const sf_tensor *t, seft_error *error)
{
    uint64_t size, i, used = t->info.nnz * sf_dtypes[t->dtype].bits % 8;
    const uint8_t *values = sf_bytes(file, t, SF_VALUES, &size);
    if (used && values[size - 1] >> used) /* FMT-072 */
        return sf_fail(error, "FMT-072", "tensor %.160s: bits past the last value", t->info.name);
    for (i = 0; t->dtype == SF_BOOL && i < size; i++)
        if (values[i] > 1) /* FMT-070 */
            return sf_fail(error, "FMT-070", "tensor %.160s: a byte of BOOL is neither 0 nor 1", t->info.name);
    return 1;
}

/* FMT-140, FMT-142: expands compressed sections and puts their planes together. */
#ifdef SEFT_ZSTD
static int sf_expand_section(const seft_file *file, const sf_tensor *t, sf_section *section, seft_error *error)
{
    size_t size = (size_t)section->raw_size, width, i, plane;
    uint8_t *planes = (uint8_t *)sf_reserve((seft_file *)file, size, 1, error);
    uint8_t *raw = planes ? (uint8_t *)sf_reserve((seft_file *)file, size, 1, error) : NULL;
    int done = raw ? seft_zstd(file->body + section->begin, (size_t)section->size, planes, size) : -1;
    width = sf_dtypes[sf_layout_of(t, section->role, section->raw_size).dtype].bits / 8;
    for (plane = 0; done > 0 && plane < width; plane++)
        for (i = 0; i < size / width; i++)
            raw[i * width + plane] = planes[plane * (size / width) + i];
    if (planes)
        file->memory.give(file->memory.user, planes);
    if (raw && done <= 0)
        file->memory.give(file->memory.user, raw);
    section->raw = done > 0 ? raw : NULL;
    if (!done) /* FMT-142 */
        return sf_fail(error, "FMT-142", "tensor %.160s: a section is no such frame", t->info.name);
    return done > 0 ? 1 : sf_fail(error, "", "out of memory");
}

static int sf_expand_sections(const seft_file *file, sf_tensor *t, seft_error *error)
{
    unsigned i;
    for (i = 0; i < t->section_count; i++)
        if (t->sections[i].compressed && !t->sections[i].raw &&
            !sf_expand_section(file, t, &t->sections[i], error))
            return 0;
    return 1;
}
#else
static int sf_expand_sections(const seft_file *file, const sf_tensor *t, seft_error *error)
{
    (void)file, (void)t, (void)error;
    return 1;
}
#endif

/* FMT-095: checks what must hold before the arrays of a tensor are used. */
static int sf_sound(const seft_file *file, sf_tensor *t, seft_error *error)
{
    int sound = t->sound || (sf_check_pads(file, t, error) && sf_expand_sections(file, t, error) &&
                             sf_check_values(file, t, error));
    if (!t->sound && sound && t->encoding == SF_BITMASK)
        sound = sf_check_bitmask(file, t, error);
    if (!t->sound && sound && t->encoding == SF_NM)
        sound = sf_check_nm(file, t, error);
    if (!t->sound && sound && t->encoding == SF_CSR)
        sound = sf_check_csr(file, t, error);
    if (!t->sound && sound && (t->encoding == SF_GAP8 || t->encoding == SF_VARINT))
        sound = sf_check_gaps(file, t, error);
    t->sound = sound;
    return sound;
}

/* ----------------------------------------------------------------------------------------------- 12.7: digests */

/* Hashes the row pointers of a support as integers of a width. */
static void sf_sha_rows(sf_sha *sha, sf_iter it, unsigned width)
{
    uint64_t row = 0, count = 0;
    sf_sha_integer(sha, 0, width);
    for (; sf_next(&it); count++)
        for (; row < it.row; row++)
            sf_sha_integer(sha, count, width);
    for (; row < it.t->info.rows; row++)
        sf_sha_integer(sha, count, width);
}

static void sf_sha_columns(sf_sha *sha, sf_iter it, unsigned width)
{
    while (sf_next(&it))
        sf_sha_integer(sha, it.column, width);
}

/* Hashes the mask of a support as the encoding bitmask stores it. */
static void sf_sha_mask(sf_sha *sha, sf_iter it)
{
    uint64_t width = it.t->info.columns / 8 + (it.t->info.columns % 8 != 0), at = 0, here;
    uint8_t byte = 0;
    while (sf_next(&it)) {
        for (here = it.row * width + it.column / 8; at < here; at++, byte = 0)
            sf_sha_put(sha, &byte, 1);
        byte = (uint8_t)(byte | 1u << it.column % 8);
    }
    for (here = it.t->info.rows * width; at < here; at++, byte = 0)
        sf_sha_put(sha, &byte, 1);
}

/* FMT-091: hashes a support as its sections in bitmask or csr, whichever takes fewer bytes. */
static void sf_sha_support(sf_sha *sha, const seft_file *file, const sf_tensor *t)
{
    unsigned column = t->info.columns <= 65536 ? 2 : 4, pointer = t->info.nnz >> 32 ? 8 : 4; /* FMT-065 */
    uint64_t mask = t->info.rows * (t->info.columns / 8 + (t->info.columns % 8 != 0));
    char digest[65];
    sf_sha one;
    sf_sha_begin(&one);
    if (mask <= t->info.nnz * column + (t->info.rows + 1) * pointer) {
        sf_sha_mask(&one, sf_begin(file, t));
        sf_sha_end(&one, digest);
        sf_sha_text(sha, "{\"mask\":");
    } else {
        sf_sha_columns(&one, sf_begin(file, t), column);
        sf_sha_end(&one, digest);
        sf_sha_text(sha, "{\"col_idx\":");
        sf_sha_digest(sha, digest);
        sf_sha_begin(&one);
        sf_sha_rows(&one, sf_begin(file, t), pointer);
        sf_sha_end(&one, digest);
        sf_sha_text(sha, ",\"row_ptr\":");
    }
    sf_sha_digest(sha, digest);
    sf_sha_text(sha, "}");
}

/* FMT-091: builds the canonical text, with its keys sorted. */
static void sf_content(const seft_file *file, const sf_tensor *t, char hex[65])
{
    char text[256], digest[65];
    const seft_tensor *info = &t->info;
    uint64_t size;
    const uint8_t *values = sf_bytes(file, t, SF_VALUES, &size);
    sf_sha sha;
    unsigned i;
    sf_sha_begin(&sha);
    snprintf(text, sizeof text, "{\"dtype\":\"%s\",\"nnz\":%" PRIu64 ",\"shape\":[", info->dtype, info->nnz);
    sf_sha_text(&sha, text);
    for (i = 0; i < info->dims; i++) {
        snprintf(text, sizeof text, "%s%" PRIu64, i ? "," : "", info->shape[i]);
        sf_sha_text(&sha, text);
    }
    sf_sha_text(&sha, "],\"support\":");
    if (info->nnz < info->numel)
        sf_sha_support(&sha, file, t);
    else
        sf_sha_digest(&sha, NULL);
    sf_sha_text(&sha, ",\"values\":");
    seft_sha256(values, (size_t)size, digest);
    sf_sha_digest(&sha, t->dtype == SF_NONE ? NULL : digest);
    sf_sha_text(&sha, "}");
    sf_sha_end(&sha, hex);
}

void seft_root(const seft_file *file, char hex[65])
{
    seft_sha256(file->manifest, file->manifest_size, hex); /* FMT-092 */
}

/* FMT-099: names, scales and tied have their canonical text in the manifest already. */
void seft_state(const seft_file *file, char hex[65])
{
    sf_sha sha;
    size_t i;
    sf_sha_begin(&sha);
    sf_sha_text(&sha, "{\"scales\":");
    sf_sha_put(&sha, file->scales, (uint64_t)(sf_skip(file->scales) - file->scales));
    sf_sha_text(&sha, ",\"tensors\":{");
    for (i = 0; i < file->count; i++) {
        sf_sha_text(&sha, i ? "," : "");
        sf_sha_put(&sha, file->tensors[i].info.name_json, file->tensors[i].info.name_json_size);
        sf_sha_text(&sha, ":\"");
        sf_sha_put(&sha, file->tensors[i].digest, 64);
        sf_sha_text(&sha, "\"");
    }
    sf_sha_text(&sha, "},\"tied\":");
    sf_sha_put(&sha, file->tied, (uint64_t)(sf_skip(file->tied) - file->tied));
    sf_sha_text(&sha, "}");
    sf_sha_end(&sha, hex);
}

/* ------------------------------------------------------------------------------------------- handing tensors out */

const char *seft_kind(const seft_file *file)
{
    return file->kind;
}

const char *seft_text(const seft_file *file, const char *key, size_t *size)
{
    static const char *const keys[] = {"attributes", "delta", "scales", "tied"};
    const uint8_t *values[4], *text = NULL;
    unsigned i;
    values[0] = file->attributes;
    values[1] = file->delta;
    values[2] = file->scales;
    values[3] = file->tied;
    for (i = 0; i < 4; i++)
        text = strcmp(key, keys[i]) ? text : values[i];
    *size = text ? (size_t)(sf_skip(text) - text) : 0;
    return (const char *)text;
}

size_t seft_count(const seft_file *file)
{
    return file->count;
}

const seft_tensor *seft_info(const seft_file *file, size_t index)
{
    return index < file->count ? &file->tensors[index].info : NULL;
}

static sf_tensor *sf_ready(seft_file *file, size_t index, seft_error *error)
{
    if (index >= file->count) {
        sf_fail(error, "", "there is no such tensor");
        return NULL;
    }
    return sf_sound(file, &file->tensors[index], error) ? &file->tensors[index] : NULL;
}

int seft_check(seft_file *file, size_t index, seft_error *error)
{
    sf_tensor *t = sf_ready(file, index, error);
    char hex[65];
    unsigned i;
    if (!t)
        return 0;
    for (i = 0; i < t->section_count; i++) {
        const sf_section *section = &t->sections[i];
        seft_sha256(file->body + section->begin, (size_t)section->size, hex);
        if (memcmp(hex, section->digest, 64)) /* FMT-090 */
            return sf_fail(error, "FMT-090", "tensor %.160s: digest of %s", t->info.name, sf_roles[section->role]);
    }
    sf_content(file, t, hex);
    if (memcmp(hex, t->digest, 64)) /* FMT-091 */
        return sf_fail(error, "FMT-091", "tensor %.160s: content digest", t->info.name);
    return 1;
}

int seft_support(seft_file *file, size_t index, int64_t *row_pointers, void *columns, size_t column_size,
                 seft_error *error)
{
    sf_tensor *t = sf_ready(file, index, error);
    uint64_t row = 0, count = 0;
    sf_iter it;
    if (!t)
        return 0;
    if (column_size != 8 && (column_size != 4 || t->info.columns > 0x80000000u))
        return sf_fail(error, "", "columns of that size cannot hold every column");
    it = sf_begin(file, t);
    row_pointers[0] = 0;
    for (; sf_next(&it); count++) {
        while (row < it.row)
            row_pointers[++row] = (int64_t)count;
        if (column_size == 8)
            ((int64_t *)columns)[count] = (int64_t)it.column;
        else
            ((int32_t *)columns)[count] = (int32_t)it.column;
    }
    while (row < t->info.rows)
        row_pointers[++row] = (int64_t)count;
    return 1;
}

int seft_values(seft_file *file, size_t index, const uint8_t **values, uint64_t *size, seft_error *error)
{
    sf_tensor *t = sf_ready(file, index, error);
    if (!t)
        return 0;
    *values = sf_bytes(file, t, SF_VALUES, size);
    return 1;
}

/* Returns the size of one value in a dense array. */
static size_t sf_unit(const sf_tensor *t)
{
    unsigned bits = sf_dtypes[t->dtype].bits;
    return bits < 8 ? 1 : bits / 8;
}

uint64_t seft_dense_size(const seft_file *file, size_t index)
{
    return index < file->count ? file->tensors[index].info.numel * sf_unit(&file->tensors[index]) : 0;
}

int seft_dense(seft_file *file, size_t index, uint8_t *out, size_t out_size, seft_error *error)
{
    sf_tensor *t = sf_ready(file, index, error);
    uint64_t size = seft_dense_size(file, index), slot;
    const uint8_t *values;
    size_t unit;
    sf_iter it;
    if (!t)
        return 0;
    if (size > out_size) /* FMT-098 */
        return sf_fail(error, "FMT-098", "tensor %.160s: a dense array of %" PRIu64 " bytes", t->info.name, size);
    unit = sf_unit(t);
    values = sf_bytes(file, t, SF_VALUES, NULL);
    if (size)
        memset(out, 0, (size_t)size); /* FMT-002 */
    it = sf_begin(file, t);
    for (slot = 0; sf_next(&it); slot++) {
        uint8_t *to = out + (it.row * t->info.columns + it.column) * unit;
        unsigned bits = sf_dtypes[t->dtype].bits;
        if (bits % 8) /* FMT-071 */
            *to = (uint8_t)sf_bits(values, slot * bits, bits);
        else if (bits)
            memcpy(to, values + slot * unit, unit);
        else
            *to = 1;
    }
    return 1;
}

#endif /* SEFT_IMPLEMENTATION */
