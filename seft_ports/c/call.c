#include "call.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[DTYPES] = {{"f64", 8}, {"f32", 4}, {"i64", 8}, {"u64", 8}, {"u8", 1}, {"bool", 1}};

int call_fail(call *c, const char *format, ...)
{
    va_list args;
    if (c->failed)
        return 0;
    c->failed = 1;
    c->error.clause[0] = 0;
    va_start(args, format);
    vsnprintf(c->error.message, sizeof c->error.message, format, args);
    va_end(args);
    return 0;
}

int call_refuse(call *c, const char *clause, const char *message)
{
    if (!c->failed)
        seft_refuse(&c->error, clause, message);
    c->failed = 1;
    return 0;
}

int call_did(call *c, int done)
{
    c->failed |= !done;
    return !c->failed;
}

void *call_room(call *c, int64_t count, size_t each)
{
    void *block = NULL;
    if (!c->failed && count >= 0 && (uint64_t)count <= (MOST_BYTES - c->taken) / each)
        block = calloc((size_t)count * each + 1, 1);
    if (block && c->block_count == c->block_room) {
        size_t more = 2 * c->block_room + 16;
        void **blocks = (void **)realloc(c->blocks, more * sizeof *blocks);
        if (!blocks) {
            free(block);
            block = NULL;
        } else {
            c->blocks = blocks;
            c->block_room = more;
        }
    }
    if (!block) {
        call_fail(c, "this takes more memory than a call may have");
        return NULL;
    }
    c->taken += (uint64_t)count * each;
    c->blocks[c->block_count++] = block;
    return block;
}

void call_end(call *c)
{
    while (c->block_count)
        free(c->blocks[--c->block_count]);
    free(c->blocks);
    c->blocks = NULL;
    c->block_room = 0;
}

/* ----------------------------------------------------------------------------------------------------- inputs */

int call_has(const call *c, const char *name)
{
    const json *value = json_member(c->tree, c->in, name);
    return value && value->kind != JSON_NULL;
}

static const json *wanted(call *c, const char *name)
{
    const json *value = json_member(c->tree, c->in, name);
    if (!value)
        call_fail(c, "the input %s is missing", name);
    return value;
}

/* PRT-002: copies the text of {"f64": text} or {"int": text}, terminated; returns 0 if value is no such object. */
static int tagged(call *c, const json *value, const char *tag, char *text, size_t room)
{
    const json *inner = json_first(c->tree, value);
    if (value->kind != JSON_OBJECT || !inner || inner->next || !json_member(c->tree, value, tag))
        return 0;
    if (inner->kind != JSON_STRING || inner->size >= room || memchr(inner->text, 0, inner->size))
        return 0;
    memcpy(text, inner->text, inner->size);
    text[inner->size] = 0;
    return 1;
}

int64_t call_integer(call *c, const char *name)
{
    const json *value = wanted(c, name);
    if (value && value->kind != JSON_INTEGER)
        call_fail(c, "the input %s is no integer of at most 53 bits", name);
    return c->failed ? 0 : value->integer;
}

int64_t call_side(call *c, const char *name)
{
    int64_t value = call_integer(c, name);
    if (value < 0 || value > MOST_SIDE)
        call_fail(c, "the input %s is not from 0 to 2^31 - 1", name);
    return c->failed ? 0 : value;
}

uint64_t call_word(call *c, const char *name)
{
    const json *value = wanted(c, name);
    char text[24];
    uint64_t word = 0;
    size_t i;
    if (c->failed)
        return 0;
    if (value->kind == JSON_INTEGER && value->integer >= 0)
        return (uint64_t)value->integer;
    if (!tagged(c, value, "int", text, sizeof text) || !*text)
        return (uint64_t)call_fail(c, "the input %s is no integer from 0", name);
    for (i = 0; text[i]; i++) {
        if (text[i] < '0' || text[i] > '9' || word > (UINT64_MAX - (uint64_t)(text[i] - '0')) / 10)
            return (uint64_t)call_fail(c, "the input %s is no integer from 0 to 2^64 - 1", name);
        word = word * 10 + (uint64_t)(text[i] - '0');
    }
    return word;
}

uint64_t call_seed(call *c)
{
    int had_failed = c->failed;
    uint64_t seed = call_word(c, "seed");
    if (had_failed || !c->failed)
        return seed;
    c->failed = 0;
    return (uint64_t)call_refuse(c, "RNG-002", "the seed is no integer from 0 to 2^64 - 1");
}

double call_number(call *c, const char *name)
{
    const json *value = wanted(c, name);
    char text[64], *end;
    double number;
    if (c->failed)
        return 0;
    if (value->kind == JSON_INTEGER)
        return (double)value->integer;
    if (!tagged(c, value, "f64", text, sizeof text) || !*text)
        return call_fail(c, "the input %s is no number", name);
    number = strtod(text, &end);
    return *end ? call_fail(c, "the input %s is no number", name) : number;
}

/* Returns the number of entries of a shape, or -1 if it is not valid; `told` gets the shape. */
static int64_t entries(call *c, const json *shape, array *told)
{
    const json *side;
    int64_t count = 1;
    told->dims = 0;
    for (side = json_first(c->tree, shape); side; side = json_next(c->tree, side)) {
        if (told->dims == 8 || side->kind != JSON_INTEGER || side->integer < 0 || side->integer > MOST_SIDE)
            return -1;
        told->shape[told->dims++] = side->integer;
        if (side->integer && count > INT64_MAX / side->integer)
            return -1;
        count *= side->integer;
    }
    return shape && shape->kind == JSON_LIST ? count : -1;
}

array call_value(call *c, const json *value, const char *name)
{
    static const array nothing = {U8, 1, {0}, 0, NULL};
    const json *type = json_member(c->tree, value, "dtype"), *bytes = json_member(c->tree, value, "b64");
    array told = nothing;
    size_t size = bytes ? json_base64_size(bytes) : SIZE_MAX, i;
    int64_t count = entries(c, json_member(c->tree, value, "shape"), &told);
    for (told.type = F64; told.type < DTYPES && !json_is(type, dtypes[told.type].name);)
        told.type = (dtype)(told.type + 1);
    /* PRT-003 */
    if (c->failed || told.type == DTYPES || count < 0 || size == SIZE_MAX || size % dtypes[told.type].size ||
        size / dtypes[told.type].size != (uint64_t)count) {
        call_fail(c, "the input %s is no array that this port takes", name);
        return nothing;
    }
    told.count = count;
    told.at = call_room(c, count, dtypes[told.type].size);
    if (!told.at)
        return nothing;
    if (!json_base64_bytes(bytes, (unsigned char *)told.at))
        call_fail(c, "the input %s is no base64", name);
    for (i = 0; told.type == BOOL && i < size; i++)
        if (((unsigned char *)told.at)[i] > 1)
            call_fail(c, "the input %s has a bool that is neither 0 nor 1", name);
    return c->failed ? nothing : told;
}

array call_array(call *c, const char *name)
{
    return call_value(c, wanted(c, name), name);
}

int64_t *call_integers(call *c, const char *name, int64_t *count)
{
    array told = call_array(c, name);
    if (!c->failed && (told.type != I64 || told.dims != 1))
        call_fail(c, "the input %s is no vector of i64", name);
    *count = c->failed ? 0 : told.count;
    return (int64_t *)told.at;
}

int64_t *call_positions(call *c, const char *name, int64_t out, int64_t in, int64_t *count)
{
    int64_t *positions = call_integers(c, name, count);
    if (!c->failed)
        call_did(c, seft_positions_check(out, in, positions, *count, &c->error));
    if (c->failed)
        *count = 0;
    return positions;
}

void *call_reals(call *c, const char *name, unsigned dims, array *told)
{
    *told = call_array(c, name);
    /* PRT-005 */
    if (!c->failed && (told->type != c->real || told->dims != dims))
        call_fail(c, "the input %s is no array of %s with %u dimensions", name, dtypes[c->real].name, dims);
    return told->at;
}

void *call_operand(call *c, const char *name, unsigned dims, array *told)
{
    *told = call_array(c, name);
    if (!c->failed && told->type != c->real)
        call_fail(c, "the input %s is no array of %s", name, dtypes[c->real].name);
    /* KRN-009 */
    if (!c->failed && told->dims != dims)
        call_refuse(c, "KRN-009", "an operand has too many or too few dimensions");
    return told->at;
}

void *call_reals_of(call *c, const char *name, int64_t count)
{
    array told;
    call_reals(c, name, 1, &told);
    if (!c->failed && told.count != count)
        call_fail(c, "the input %s has not as many entries as there are slots", name);
    return told.at;
}

/* ---------------------------------------------------------------------------------------------------- outputs */

void call_put(call *c, const char *name)
{
    json_puts(c->out, c->outputs++ ? "," : "");
    json_string(c->out, name, strlen(name));
    json_puts(c->out, ":");
}

void call_put_text(call *c, const char *name, const char *bytes, size_t size)
{
    call_put(c, name);
    json_string(c->out, bytes, size);
}

void call_put_integer(call *c, const char *name, int64_t value)
{
    call_put(c, name);
    json_integer(c->out, value);
}

void call_put_number(call *c, const char *name, double value)
{
    char text[64];
    /* PRT-002 */
    if (isnan(value))
        strcpy(text, "nan");
    else
        snprintf(text, sizeof text, "%a", value);
    call_put(c, name);
    json_puts(c->out, "{\"f64\":\"");
    json_puts(c->out, text);
    json_puts(c->out, "\"}");
}

void call_write_array(call *c, dtype type, const void *at, unsigned dims, const int64_t *shape)
{
    size_t count = 1;
    unsigned i;
    json_puts(c->out, "{\"dtype\":\"");
    json_puts(c->out, dtypes[type].name);
    json_puts(c->out, "\",\"shape\":[");
    for (i = 0; i < dims; i++) {
        json_puts(c->out, i ? "," : "");
        json_integer(c->out, shape[i]);
        count *= (size_t)shape[i];
    }
    json_puts(c->out, "],\"b64\":\"");
    json_base64(c->out, (const unsigned char *)at, count * dtypes[type].size);
    json_puts(c->out, "\"}");
}

void call_put_array(call *c, const char *name, dtype type, const void *at, int64_t count)
{
    call_put(c, name);
    call_write_array(c, type, at, 1, &count);
}

void call_put_matrix(call *c, const char *name, dtype type, const void *at, int64_t rows, int64_t columns)
{
    int64_t shape[2];
    shape[0] = rows;
    shape[1] = columns;
    call_put(c, name);
    call_write_array(c, type, at, 2, shape);
}
