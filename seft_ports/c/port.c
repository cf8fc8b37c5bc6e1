/* seft-port: answers calls of the library as lines of JSON (SPEC.md chapter 16), so that the kit can test it. */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_LINE ((size_t)1 << 28)

static const operation *const OFFERED[] = {number_operations, rule_operations, file_operations};
enum { LISTS = sizeof OFFERED / sizeof *OFFERED };

static const operation *find(const json *op)
{
    const operation *one;
    int i;
    for (i = 0; i < LISTS; i++)
        for (one = OFFERED[i]; one->name; one++)
            if (json_is(op, one->name))
                return one;
    return NULL;
}

/* Begins an answer. The id is repeated as it came if it is a string or an integer; anything else becomes null. */
static void put_head(json_out *out, const char *type, const json *id)
{
    json_puts(out, "{\"type\":");
    json_string(out, type, strlen(type));
    json_puts(out, ",\"id\":");
    if (id && id->kind == JSON_STRING)
        json_string(out, id->text, id->size);
    else if (id && id->kind == JSON_INTEGER)
        json_integer(out, id->integer);
    else
        json_puts(out, "null");
}

static void put_error(json_out *out, const json *id, const char *message)
{
    put_head(out, "error", id);
    json_puts(out, ",\"message\":");
    json_string(out, message, strlen(message));
    json_puts(out, "}");
}

/* PRT-004, PRT-011 */
static void put_hello(json_out *out)
{
    const operation *one;
    int i, first = 1;
    json_puts(out, "{\"type\":\"hello\",\"protocol\":1,\"port\":"
                   "{\"name\":\"seft-c\",\"version\":\"1.0\",\"language\":\"C99\"},"
                   "\"flags\":{\"deterministic\":true},\"ops\":{");
    for (i = 0; i < LISTS; i++)
        for (one = OFFERED[i]; one->name; one++, first = 0) {
            json_puts(out, first ? "" : ",");
            json_string(out, one->name, strlen(one->name));
            json_puts(out, ":[\"exact64\",\"fp32\"]");
        }
    json_puts(out, "}}");
}

/* PRT-005 to PRT-007; PRT-009: nothing is kept from one call to the next */
static void answer_call(const json_tree *tree, const json *message, json_out *out)
{
    const json *id = json_member(tree, message, "id"), *dtype = json_member(tree, message, "dtype");
    /* PRT-007: no operation is offered in the classes of 16 bits */
    const operation *op = json_is(dtype, "bfloat16") || json_is(dtype, "float16")
                              ? NULL
                              : find(json_member(tree, message, "op"));
    size_t begin = out->size;
    call c;
    memset(&c, 0, sizeof c);
    c.tree = tree;
    c.in = json_member(tree, message, "in");
    c.real = json_is(dtype, "float32") ? F32 : F64;
    c.out = out;
    if (!op) {
        put_head(out, "unsupported", id);
        json_puts(out, "}");
        return;
    }
    if (!c.in || c.in->kind != JSON_OBJECT || (c.real == F64 && !json_is(dtype, "float64"))) {
        put_error(out, id, "a call has inputs, and the dtype float64 or float32");
        return;
    }
    put_head(out, "ok", id);
    json_puts(out, ",\"out\":{");
    op->run[c.real == F32](&c);
    json_puts(out, "}}");
    if (c.failed)
        out->size = begin;
    if (c.failed && *c.error.clause) {
        put_head(out, "rejected", id);
        json_puts(out, ",\"code\":");
        json_string(out, c.error.clause, strlen(c.error.clause));
        json_puts(out, ",\"detail\":");
        json_string(out, c.error.message, strlen(c.error.message));
        json_puts(out, "}");
    } else if (c.failed) {
        put_error(out, id, c.error.message);
    }
    call_end(&c);
}

/* Answers a line; returns 0 if it asks to stop. */
static int answer(json_tree *tree, char *line, size_t size, json_out *out)
{
    const json *message, *type;
    out->size = 0;
    out->failed = 0;
    if (!json_parse(tree, line, size)) {
        put_error(out, NULL, "no JSON, too deep, or too many values");
        return 1;
    }
    message = tree->values;
    type = json_member(tree, message, "type");
    if (json_is(type, "stop"))
        return 0;
    if (json_is(type, "hello")) {
        put_hello(out);
    } else if (json_is(type, "call")) {
        answer_call(tree, message, out);
    } else if (json_is(type, "ping")) {
        /* PRT-008 */
        put_head(out, "pong", json_member(tree, message, "id"));
        json_puts(out, "}");
    } else {
        put_error(out, json_member(tree, message, "id"), "a message of no known type");
    }
    return 1;
}

/* PRT-001: reads a line and its line feed. Returns its size without the line feed, -1 at the end of the input, or -2 if
 * the line is too long, after reading all of it. Bytes after the last line feed are not a request. */
static long long read_line(FILE *in, char **line, size_t *room)
{
    size_t size = 0;
    int c, lost = 0;
    while ((c = getc(in)) != EOF && c != '\n') {
        if (size == *room && !lost) {
            size_t more = 2 * *room + 4096;
            char *wider = more <= 2 * LONGEST_LINE ? (char *)realloc(*line, more) : NULL;
            lost = !wider;
            *line = wider ? wider : *line;
            *room = wider ? more : *room;
        }
        if (!lost)
            (*line)[size++] = (char)c;
    }
    return c == EOF ? -1 : lost ? -2 : (long long)size;
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    json_tree tree;
    json_out out;
    long long size;
    memset(&tree, 0, sizeof tree);
    memset(&out, 0, sizeof out);
    while ((size = read_line(stdin, &line, &room)) != -1) {
        char none[1] = "";
        if (!answer(&tree, size > 0 ? line : none, size > 0 ? (size_t)size : 0, &out))
            break;
        if (out.failed)
            fputs("{\"type\":\"error\",\"id\":null,\"message\":\"out of memory\"}", stdout);
        else
            fwrite(out.at, 1, out.size, stdout);
        putchar('\n');
        if (fflush(stdout))
            break;
    }
    free(line);
    free(out.at);
    json_free(&tree);
    return 0;
}
