/* Operations of the protocol on checkpoint files. */
#include "call.h"
#include "delta.h"

#include <stdlib.h>
#include <string.h>

/* Writes a tensor; one with full support has null for row pointers and columns. */
static int put_tensor(call *c, const seft_stored *t)
{
    int64_t dims = t->dims, shape[8], rows = (int64_t)t->rows + 1, nnz = (int64_t)t->nnz, slot;
    int64_t size = (int64_t)seft_packed_size(t);
    uint8_t *bytes = (uint8_t *)call_room(c, size, 1);
    unsigned i;
    for (i = 0; i < t->dims; i++)
        shape[i] = (int64_t)t->shape[i];
    json_put(c->out, t->name_json, t->name_json_size);
    json_puts(c->out, ":{\"dict\":{\"dtype\":\"");
    json_puts(c->out, t->dtype);
    json_puts(c->out, "\",\"shape\":");
    call_write_array(c, I64, shape, 1, &dims);
    json_puts(c->out, ",\"row_pointers\":");
    if (!t->positions) {
        json_puts(c->out, "null,\"columns\":null");
    } else {
        int64_t *pointers = (int64_t *)call_room(c, rows, sizeof *pointers);
        int64_t *columns = (int64_t *)call_room(c, nnz, sizeof *columns);
        int64_t *positions = (int64_t *)call_room(c, nnz, sizeof *positions);
        if (c->failed)
            return 0;
        for (slot = 0; slot < nnz; slot++)
            positions[slot] = (int64_t)t->positions[slot];
        seft_rows_of((int64_t)t->rows, (int64_t)t->columns, positions, nnz, pointers, columns);
        call_write_array(c, I64, pointers, 1, &rows);
        json_puts(c->out, ",\"columns\":");
        call_write_array(c, I64, columns, 1, &nnz);
    }
    if (c->failed)
        return 0;
    seft_pack(t, bytes);
    json_puts(c->out, ",\"bits\":");
    call_write_array(c, U8, bytes, 1, &size);
    json_puts(c->out, "}}");
    return 1;
}

/* Writes the outputs that file.read and delta.apply share. */
static void put_model(call *c, const seft_model *model)
{
    char state[65];
    size_t i;
    call_put_text(c, "scales", (const char *)model->scales, model->scales_size);
    call_put(c, "tied");
    json_puts(c->out, "{\"dict\":");
    json_put(c->out, (const char *)model->tied, model->tied_size);
    json_puts(c->out, "}");
    seft_model_state(model, state);
    call_put_text(c, "state", state, 64);
    call_put(c, "tensors");
    json_puts(c->out, "{\"dict\":{");
    for (i = 0; !c->failed && i < model->count; i++) {
        json_puts(c->out, i ? "," : "");
        put_tensor(c, model->tensors + i);
    }
    json_puts(c->out, "}}");
}

/* Memory of a call for the reader of files; a block begins with its size. */
typedef union {
    size_t size;
    uint64_t number;
    void *pointer;
    double real;
} prefix;

static void *file_take(void *user, size_t size)
{
    call *c = (call *)user;
    prefix *block = NULL;
    if (size <= MOST_BYTES - c->taken)
        block = (prefix *)malloc(sizeof *block + size);
    if (!block)
        return NULL;
    block->size = size;
    c->taken += size;
    return block + 1;
}

static void file_give(void *user, void *block)
{
    prefix *own = (prefix *)block - 1;
    ((call *)user)->taken -= own->size;
    free(own);
}

/* FMT-095: opens a file and checks every tensor before anything is returned. */
static seft_file *verified(call *c, const array *raw)
{
    seft_memory memory = {file_take, file_give, NULL};
    seft_file *file = NULL;
    size_t i;
    memory.user = c;
    if (!c->failed && raw->type != U8)
        call_fail(c, "a file is an array of u8");
    if (!c->failed) {
        file = seft_open_in((const uint8_t *)raw->at, (size_t)raw->count, &memory, &c->error);
        call_did(c, file != NULL);
    }
    for (i = 0; !c->failed && i < seft_count(file); i++)
        call_did(c, seft_check(file, i, &c->error));
    return file;
}

static void file_read(call *c)
{
    static const char *const texts[] = {"attributes", "delta"};
    array raw = call_array(c, "raw");
    seft_file *file = verified(c, &raw);
    seft_model model;
    size_t size, i;
    memset(&model, 0, sizeof model);
    if (!c->failed && call_did(c, seft_model_load(&model, file, &c->error))) {
        call_put_text(c, "kind", seft_kind(file), strlen(seft_kind(file)));
        for (i = 0; i < 2; i++) {
            const char *text = seft_text(file, texts[i], &size);
            call_put_text(c, texts[i], text ? text : "null", text ? size : 4);
        }
        put_model(c, &model);
    }
    seft_model_free(&model);
    seft_close(file);
}

/* A delta: the input that holds it, whose key is its number, and the opened file. */
typedef struct {
    const json *value;
    seft_file *file;
} numbered;

static int by_number(const void *a, const void *b)
{
    const json *x = ((const numbered *)a)->value, *y = ((const numbered *)b)->value;
    int order = memcmp(x->key, y->key, x->key_size < y->key_size ? x->key_size : y->key_size);
    return order ? order : (x->key_size > y->key_size) - (x->key_size < y->key_size);
}

static void delta_apply(call *c)
{
    array raw = call_array(c, "base");
    const json *list = json_member(c->tree, json_member(c->tree, c->in, "deltas"), "dict"), *one;
    int64_t count = 0, i;
    numbered *deltas;
    seft_file **files, *base = NULL;
    seft_model model;
    memset(&model, 0, sizeof model);
    if (!list)
        call_fail(c, "the input deltas is no dict of files");
    for (one = json_first(c->tree, list); one; one = json_next(c->tree, one))
        count++;
    deltas = (numbered *)call_room(c, count, sizeof *deltas);
    files = (seft_file **)call_room(c, count, sizeof *files);
    if (c->failed)
        return;
    for (one = json_first(c->tree, list), i = 0; one; one = json_next(c->tree, one))
        deltas[i++].value = one;
    qsort(deltas, (size_t)count, sizeof *deltas, by_number);
    base = verified(c, &raw);
    for (i = 0; !c->failed && i < count; i++) {
        array bytes = call_value(c, deltas[i].value, "deltas");
        files[i] = verified(c, &bytes);
    }
    /* FMT-139: check the whole chain before applying any delta */
    if (!c->failed && call_did(c, seft_model_load(&model, base, &c->error)) &&
        call_did(c, seft_chain(&model, files, (size_t)count, &c->error))) {
        for (i = 0; !c->failed && i < count; i++)
            call_did(c, seft_delta_apply(&model, files[i], &c->error));
        if (!c->failed)
            put_model(c, &model);
    }
    seft_model_free(&model);
    for (i = 0; i < count; i++)
        seft_close(files[i]);
    seft_close(base);
}

const operation file_operations[] = {{"file.read", {file_read, file_read}},
                                     {"delta.apply", {delta_apply, delta_apply}},
                                     {NULL, {NULL, NULL}}};
