#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 64
#define MOST_VALUES ((size_t)1000000)
#define SAFE INT64_C(9007199254740991)

/* ---------------------------------------------------------------------------------------------------- reading */

static size_t new_value(json_tree *tree)
{
    if (tree->count == tree->room) {
        size_t room = tree->room ? 2 * tree->room : 64;
        json *values = room <= 2 * MOST_VALUES ? (json *)realloc(tree->values, room * sizeof *values) : NULL;
        if (!values)
            return SIZE_MAX;
        tree->values = values;
        tree->room = room;
    }
    memset(tree->values + tree->count, 0, sizeof *tree->values);
    return tree->count < MOST_VALUES ? tree->count++ : SIZE_MAX;
}

static void skip_space(json_tree *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\t' || *t->at == '\r' || *t->at == '\n'))
        t->at++;
}

static int take(json_tree *t, char c)
{
    skip_space(t);
    if (t->at == t->end || *t->at != c)
        return 0;
    t->at++;
    return 1;
}

static int take_word(json_tree *t, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(t->end - t->at) < size || memcmp(t->at, word, size))
        return 0;
    t->at += size;
    return 1;
}

/* Returns the length of the UTF-8 sequence of a Unicode scalar value, or 0 if it is not one. */
static size_t utf8(const char *text, size_t left)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t size = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0, i;
    if (size > left)
        return 0;
    for (i = 1; i < size; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xed && s[1] >= 0xa0) ||
        (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return size;
}

static char *put_utf8(char *to, unsigned long c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 63));
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    }
    return to;
}

/* Returns the value of the four digits after \u, or 0x10000 if they are not hexadecimal. */
static unsigned long hex4(const char *at, const char *end)
{
    unsigned long value = 0;
    int i;
    if (end - at < 4)
        return 0x10000;
    for (i = 0; i < 4; i++) {
        char c = at[i];
        static const char known[] = "0123456789abcdefABCDEF";
        const char *digit = c ? strchr(known, c) : NULL;
        if (!digit)
            return 0x10000;
        value = value * 16 + (unsigned long)(digit - known > 15 ? digit - known - 6 : digit - known);
    }
    return value;
}

/* Writes the meaning of one escape to `to`, which is never behind the escape. Returns the end of what it wrote, or NULL
 * for an unknown escape or half a surrogate pair. */
static char *escape(json_tree *t, char *to)
{
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char *name;
    unsigned long c, low;
    if (t->end - t->at < 2)
        return NULL;
    name = t->at[1] ? strchr(names, t->at[1]) : NULL;
    if (name) {
        *to = meant[name - names];
        t->at += 2;
        return to + 1;
    }
    c = t->at[1] == 'u' ? hex4(t->at + 2, t->end) : 0x10000;
    if (c > 0xffff || (c >= 0xdc00 && c < 0xe000))
        return NULL;
    t->at += 6;
    if (c >= 0xd800 && c < 0xdc00) {
        low = t->end - t->at >= 6 && t->at[0] == '\\' && t->at[1] == 'u' ? hex4(t->at + 2, t->end) : 0;
        if (low < 0xdc00 || low > 0xdfff)
            return NULL;
        t->at += 6;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    return put_utf8(to, c);
}

static int take_string(json_tree *t, const char **text, size_t *size)
{
    char *to;
    if (!take(t, '"'))
        return 0;
    *text = to = t->at;
    while (t->at < t->end && *t->at != '"') {
        if (*t->at == '\\') {
            to = escape(t, to);
            if (!to)
                return 0;
        } else {
            size_t bytes = (unsigned char)*t->at < 0x20 ? 0 : utf8(t->at, (size_t)(t->end - t->at));
            if (!bytes)
                return 0;
            memmove(to, t->at, bytes);
            to += bytes;
            t->at += bytes;
        }
    }
    *size = (size_t)(to - *text);
    return take(t, '"');
}

static size_t digits(json_tree *t)
{
    const char *from = t->at;
    while (t->at < t->end && *t->at >= '0' && *t->at <= '9')
        t->at++;
    return (size_t)(t->at - from);
}

static int take_number(json_tree *t, json *value)
{
    char *from = t->at;
    size_t count;
    int minus = take_word(t, "-"), whole = 1;
    char *first = t->at;
    count = digits(t);
    if (!count || (*first == '0' && count > 1))
        return 0;
    if (take_word(t, ".")) {
        whole = 0;
        if (!digits(t))
            return 0;
    }
    if (take_word(t, "e") || take_word(t, "E")) {
        whole = 0;
        if (!take_word(t, "+"))
            take_word(t, "-");
        if (!digits(t))
            return 0;
    }
    value->text = from;
    value->size = (size_t)(t->at - from);
    value->kind = JSON_NUMBER;
    if (whole && count <= 16) {
        for (; count; count--)
            value->integer = value->integer * 10 + (*first++ - '0');
        value->integer = minus ? -value->integer : value->integer;
        if (value->integer <= SAFE && value->integer >= -SAFE)
            value->kind = JSON_INTEGER;
    }
    return 1;
}

static int take_value(json_tree *t, size_t here, int depth);

static int take_members(json_tree *t, size_t here, int depth, char close, int keyed)
{
    size_t before = 0, one;
    if (take(t, close))
        return 1;
    do {
        one = new_value(t);
        if (one == SIZE_MAX)
            return 0;
        if (keyed && !(take_string(t, &t->values[one].key, &t->values[one].key_size) && take(t, ':')))
            return 0;
        if (!take_value(t, one, depth))
            return 0;
        if (before)
            t->values[before].next = one;
        else
            t->values[here].first = one;
        before = one;
    } while (take(t, ','));
    return take(t, close);
}

static int take_value(json_tree *t, size_t here, int depth)
{
    json *value = t->values + here;
    skip_space(t);
    if (t->at == t->end || depth == DEEPEST)
        return 0;
    switch (*t->at) {
    case '{':
        t->at++;
        value->kind = JSON_OBJECT;
        return take_members(t, here, depth + 1, '}', 1);
    case '[':
        t->at++;
        value->kind = JSON_LIST;
        return take_members(t, here, depth + 1, ']', 0);
    case '"':
        value->kind = JSON_STRING;
        return take_string(t, &value->text, &value->size);
    case 'n':
        value->kind = JSON_NULL;
        return take_word(t, "null");
    case 't':
        value->kind = JSON_TRUE;
        return take_word(t, "true");
    case 'f':
        value->kind = JSON_FALSE;
        return take_word(t, "false");
    default:
        return take_number(t, value);
    }
}

int json_parse(json_tree *tree, char *line, size_t size)
{
    tree->count = 0;
    tree->at = line;
    tree->end = line + size;
    if (new_value(tree) == SIZE_MAX || !take_value(tree, 0, 0))
        return 0;
    skip_space(tree);
    return tree->at == tree->end;
}

void json_free(json_tree *tree)
{
    free(tree->values);
    memset(tree, 0, sizeof *tree);
}

const json *json_first(const json_tree *tree, const json *container)
{
    return container && container->first ? tree->values + container->first : NULL;
}

const json *json_next(const json_tree *tree, const json *value)
{
    return value->next ? tree->values + value->next : NULL;
}

static int same(const char *text, size_t size, const char *word)
{
    return size == strlen(word) && !memcmp(text, word, size);
}

const json *json_member(const json_tree *tree, const json *object, const char *key)
{
    const json *one, *found = NULL;
    if (!object || object->kind != JSON_OBJECT)
        return NULL;
    for (one = json_first(tree, object); one; one = json_next(tree, one))
        if (same(one->key, one->key_size, key))
            found = one;
    return found;
}

int json_is(const json *value, const char *text)
{
    return value && value->kind == JSON_STRING && same(value->text, value->size, text);
}

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t json_base64_size(const json *string)
{
    size_t size = string->size;
    if (string->kind != JSON_STRING || size % 4)
        return SIZE_MAX;
    if (!size)
        return 0;
    return size / 4 * 3 - (string->text[size - 1] == '=') - (string->text[size - 2] == '=');
}

int json_base64_bytes(const json *string, unsigned char *bytes)
{
    size_t size = json_base64_size(string), at = 0, i, j;
    for (i = 0; at < size; i += 4) {
        unsigned long group = 0;
        size_t here = size - at < 3 ? size - at : 3;
        for (j = 0; j < 4; j++) {
            int value = j <= here ? sextet(string->text[i + j]) : string->text[i + j] == '=' ? 0 : -1;
            if (value < 0)
                return 0;
            group = group << 6 | (unsigned long)value;
        }
        for (j = 0; j < here; j++)
            bytes[at++] = (unsigned char)(group >> (16 - 8 * j));
    }
    return 1;
}

/* ---------------------------------------------------------------------------------------------------- writing */

static char *reserve(json_out *out, size_t size)
{
    if (!out->failed && size > out->room - out->size) {
        size_t room = size < SIZE_MAX / 4 && out->size < SIZE_MAX / 4 ? 2 * (out->size + size) + 1024 : 0;
        char *at = room ? (char *)realloc(out->at, room) : NULL;
        out->failed = !at;
        if (at) {
            out->at = at;
            out->room = room;
        }
    }
    if (out->failed)
        return NULL;
    out->size += size;
    return out->at + out->size - size;
}

void json_put(json_out *out, const char *bytes, size_t size)
{
    char *to = reserve(out, size);
    if (to && size)
        memcpy(to, bytes, size);
}

void json_puts(json_out *out, const char *text)
{
    json_put(out, text, strlen(text));
}

void json_integer(json_out *out, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    json_puts(out, text);
}

/* Returns the scalar value of a legal UTF-8 sequence. */
static unsigned long scalar(const char *bytes, size_t size)
{
    const unsigned char *s = (const unsigned char *)bytes;
    unsigned long value = size == 1 ? s[0] : s[0] & (0xffu >> (size + 1));
    size_t i;
    for (i = 1; i < size; i++)
        value = value << 6 | (s[i] & 63);
    return value;
}

void json_string(json_out *out, const char *bytes, size_t size)
{
    char text[40];
    size_t i, step;
    json_puts(out, "\"");
    for (i = 0; i < size; i += step) {
        unsigned long c;
        step = utf8(bytes + i, size - i);
        c = step ? scalar(bytes + i, step) : 0xfffd;
        step = step ? step : 1;
        if (c >= 0x10000)
            snprintf(text, sizeof text, "\\u%04lx\\u%04lx", 0xd800 + ((c - 0x10000) >> 10),
                     0xdc00 + ((c - 0x10000) & 0x3ff));
        else if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
            snprintf(text, sizeof text, "\\u%04lx", c);
        else
            snprintf(text, sizeof text, "%c", (char)c);
        json_puts(out, text);
    }
    json_puts(out, "\"");
}

void json_base64(json_out *out, const unsigned char *bytes, size_t size)
{
    size_t groups = size / 3 + (size % 3 != 0), i, j;
    char *to = groups < SIZE_MAX / 4 ? reserve(out, 4 * groups) : NULL;
    for (i = 0; to && i < size; i += 3, to += 4) {
        size_t here = size - i < 3 ? size - i : 3;
        unsigned long group = 0;
        for (j = 0; j < 3; j++)
            group = group << 8 | (j < here ? bytes[i + j] : 0u);
        for (j = 0; j < 4; j++)
            to[j] = j <= here ? ALPHABET[group >> (18 - 6 * j) & 63] : '=';
    }
}
