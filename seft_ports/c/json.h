/* json.h: parses lines of JSON into a tree, and writes JSON to a buffer that grows; arrays are base64 texts. */
#ifndef SEFT_JSON_H
#define SEFT_JSON_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_INTEGER, /* of magnitude at most 2^53 - 1 */
    JSON_NUMBER,  /* any other number */
    JSON_STRING,
    JSON_LIST,
    JSON_OBJECT
} json_kind;

/* A value; the members of an object have keys. Texts point into the parsed line: unescaped, and not terminated. */
typedef struct json {
    json_kind kind;
    int64_t integer;
    const char *text, *key;
    size_t size, key_size;
    size_t first, next; /* indices in the tree: first child, next sibling; 0 for none */
} json;

typedef struct {
    json *values; /* the outermost is values[0] */
    size_t count, room;
    char *at, *end;
} json_tree;

/* Parses a line, and unescapes its strings in place. Returns 0 if it is not JSON, has more than 64 levels or a million
 * values, or memory runs out. A tree may be used again; json_free frees its memory. */
int json_parse(json_tree *tree, char *line, size_t size);
void json_free(json_tree *tree);

/* Returns the member of a key, the last if there are several; NULL if there is none, or the value is no object. */
const json *json_member(const json_tree *tree, const json *object, const char *key);
const json *json_first(const json_tree *tree, const json *container);
const json *json_next(const json_tree *tree, const json *value);
int json_is(const json *value, const char *text); /* whether it is this string */

/* Returns the number of bytes that a padded base64 text encodes, or SIZE_MAX if its length or kind is wrong. */
size_t json_base64_size(const json *string);
int json_base64_bytes(const json *string, unsigned char *bytes); /* writes the bytes; returns 0 if it is not base64 */

typedef struct {
    char *at;
    size_t size, room;
    int failed; /* memory ran out */
} json_out;

void json_put(json_out *out, const char *bytes, size_t size);
void json_puts(json_out *out, const char *text);
void json_string(json_out *out, const char *bytes, size_t size); /* quoted, escaped to ASCII; bytes must be UTF-8 */
void json_integer(json_out *out, int64_t value);
void json_base64(json_out *out, const unsigned char *bytes, size_t size);

#endif
