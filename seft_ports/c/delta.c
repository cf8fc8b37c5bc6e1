/* 12.10: applies deltas to a model in memory. The reader is compiled here, for its JSON walk and its SHA-256. */
#define SEFT_IMPLEMENTATION
#define SEFT_ZSTD /* zstd.c */
#include "delta.h"

#include <math.h>

static void *take(const seft_model *model, uint64_t count, size_t each, seft_error *error)
{
    void *block = NULL;
    if (count < SIZE_MAX / 16)
        block = model->memory.take(model->memory.user, (size_t)count * each + 1);
    if (!block)
        sf_fail(error, "", "out of memory");
    return block;
}

static void give(const seft_model *model, void *block)
{
    if (block)
        model->memory.give(model->memory.user, block);
}

/* Frees what a tensor owns. */
static void drop(const seft_model *model, seft_stored *t)
{
    give(model, t->own[0]);
    give(model, t->own[1]);
    t->own[0] = t->own[1] = NULL;
}

void seft_model_free(seft_model *model)
{
    while (model->count)
        drop(model, model->tensors + --model->count);
    free(model->tensors);
    memset(model, 0, sizeof *model);
}

/* ------------------------------------------------------------------------------------------- names, in byte order */

static int name_order(const char *a, size_t a_size, const char *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order ? order : (a_size > b_size) - (a_size < b_size);
}

/* Returns the index of a name, or the index at which to insert it; `there` says which. */
static size_t place(const seft_model *model, const char *name, size_t size, int *there)
{
    size_t low = 0, high = model->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (name_order(model->tensors[middle].name, model->tensors[middle].name_size, name, size) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *there = low < model->count && !name_order(model->tensors[low].name, model->tensors[low].name_size, name, size);
    return low;
}

/* Returns the tensor that a JSON string names, or NULL. */
static seft_stored *named(const seft_model *model, const uint8_t *string)
{
    char name[SF_NAME];
    size_t size = sf_decode(string, name, SF_NAME), at;
    int there;
    if (size > SF_NAME)
        return NULL;
    at = place(model, name, size, &there);
    return there ? model->tensors + at : NULL;
}

/* Puts a tensor into the model, which owns its blocks from then on; another of its name goes. */
static int put(seft_model *model, seft_stored *tensor, seft_error *error)
{
    int there;
    size_t at = place(model, tensor->name, tensor->name_size, &there);
    if (!there && model->count == model->room) {
        size_t more = 2 * model->room + 16;
        seft_stored *wider = (seft_stored *)realloc(model->tensors, more * sizeof *wider);
        if (!wider) {
            drop(model, tensor);
            return sf_fail(error, "", "out of memory");
        }
        model->tensors = wider;
        model->room = more;
    }
    if (there)
        drop(model, model->tensors + at);
    else
        memmove(model->tensors + at + 1, model->tensors + at, (model->count++ - at) * sizeof *tensor);
    model->tensors[at] = *tensor;
    return 1;
}

/* ------------------------------------------------------------------------------------------------------- loading */

static int load(const seft_model *model, seft_file *file, size_t index, seft_stored *t, seft_error *error)
{
    const sf_tensor *from = &file->tensors[index];
    const seft_tensor *info = &from->info;
    unsigned bits = sf_dtypes[from->dtype].bits;
    const uint8_t *values;
    uint64_t *positions, size, slot;
    uint8_t *wide;
    sf_iter it;
    memset(t, 0, sizeof *t);
    if (!seft_values(file, index, &values, &size, error))
        return 0;
    t->name = info->name;
    t->name_size = info->name_size;
    t->name_json = info->name_json;
    t->name_json_size = info->name_json_size;
    t->kind = from->dtype;
    t->dtype = info->dtype;
    t->unit = bits % 8 ? 1 : bits / 8;
    t->dims = info->dims;
    memcpy(t->shape, info->shape, sizeof t->shape);
    t->nnz = info->nnz;
    t->numel = info->numel;
    t->rows = info->rows;
    t->columns = info->columns;
    t->values = values;
    memcpy(t->digest, from->digest, 64);
    if (bits % 8) {
        wide = (uint8_t *)take(model, t->nnz, 1, error);
        if (!wide)
            return 0;
        for (slot = 0; slot < t->nnz; slot++)
            wide[slot] = (uint8_t)sf_bits(values, slot * bits, bits);
        t->values = wide;
        t->own[1] = wide;
    }
    if (t->nnz == t->numel)
        return 1;
    positions = (uint64_t *)take(model, t->nnz, sizeof *positions, error);
    if (!positions) {
        drop(model, t);
        return 0;
    }
    it = sf_begin(file, from);
    for (slot = 0; sf_next(&it); slot++)
        positions[slot] = it.row * t->columns + it.column;
    t->positions = positions;
    t->own[0] = positions;
    return 1;
}

static void keep_texts(seft_model *model, const uint8_t *tied, const uint8_t *scales)
{
    model->tied = tied;
    model->tied_size = (size_t)(sf_skip(tied) - tied);
    model->scales = scales;
    model->scales_size = (size_t)(sf_skip(scales) - scales);
}

int seft_model_load(seft_model *model, seft_file *file, seft_error *error)
{
    seft_stored tensor;
    size_t i;
    memset(model, 0, sizeof *model);
    model->memory = file->memory;
    model->is_delta = file->delta != NULL;
    keep_texts(model, file->tied, file->scales);
    for (i = 0; i < file->count; i++)
        if (!load(model, file, i, &tensor, error) || !put(model, &tensor, error))
            return 0;
    return 1;
}

static uint64_t position(const seft_stored *t, uint64_t slot)
{
    return t->positions ? t->positions[slot] : slot;
}

uint64_t seft_packed_size(const seft_stored *t)
{
    return sf_up(t->nnz * sf_dtypes[t->kind].bits, 8);
}

void seft_pack(const seft_stored *t, uint8_t *bytes)
{
    unsigned bits = sf_dtypes[t->kind].bits, bit;
    uint64_t slot;
    if (bits % 8 == 0) {
        if (t->nnz && t->unit)
            memcpy(bytes, t->values, (size_t)(t->nnz * t->unit));
        return;
    }
    memset(bytes, 0, (size_t)seft_packed_size(t));
    for (slot = 0; slot < t->nnz; slot++)
        for (bit = 0; bit < bits; bit++)
            bytes[(slot * bits + bit) / 8] |= (uint8_t)((t->values[slot] >> bit & 1u) << (slot * bits + bit) % 8);
}

/* ------------------------------------------------------------------------------------------------------- digests */

static void sha_mask(sf_sha *sha, const seft_stored *t)
{
    uint64_t width = sf_up(t->columns, 8), at = 0, slot;
    uint8_t byte = 0;
    for (slot = 0; slot < t->nnz; slot++) {
        uint64_t row = position(t, slot) / t->columns, column = position(t, slot) % t->columns;
        for (; at < row * width + column / 8; at++, byte = 0)
            sf_sha_put(sha, &byte, 1);
        byte = (uint8_t)(byte | 1u << column % 8);
    }
    for (; at < t->rows * width; at++, byte = 0)
        sf_sha_put(sha, &byte, 1);
}

static void sha_rows(sf_sha *sha, const seft_stored *t, unsigned width)
{
    uint64_t row = 0, slot;
    sf_sha_integer(sha, 0, width);
    for (slot = 0; slot < t->nnz; slot++)
        for (; row < position(t, slot) / t->columns; row++)
            sf_sha_integer(sha, slot, width);
    for (; row < t->rows; row++)
        sf_sha_integer(sha, t->nnz, width);
}

static void sha_support(sf_sha *sha, const seft_stored *t)
{
    unsigned column = t->columns <= 65536 ? 2 : 4, pointer = t->nnz >> 32 ? 8 : 4; /* FMT-065 */
    char digest[65];
    uint64_t slot;
    sf_sha one;
    sf_sha_begin(&one);
    if (t->rows * sf_up(t->columns, 8) <= t->nnz * column + (t->rows + 1) * pointer) {
        sha_mask(&one, t);
        sf_sha_end(&one, digest);
        sf_sha_text(sha, "{\"mask\":");
    } else {
        for (slot = 0; slot < t->nnz; slot++)
            sf_sha_integer(&one, position(t, slot) % t->columns, column);
        sf_sha_end(&one, digest);
        sf_sha_text(sha, "{\"col_idx\":");
        sf_sha_digest(sha, digest);
        sf_sha_begin(&one);
        sha_rows(&one, t, pointer);
        sf_sha_end(&one, digest);
        sf_sha_text(sha, ",\"row_ptr\":");
    }
    sf_sha_digest(sha, digest);
    sf_sha_text(sha, "}");
}

/* FMT-091: computes the content digest of a tensor in memory. */
static int content(const seft_model *model, seft_stored *t, seft_error *error)
{
    uint8_t *bytes = (uint8_t *)take(model, seft_packed_size(t), 1, error);
    char text[128], digest[65];
    unsigned i;
    sf_sha sha;
    if (!bytes)
        return 0;
    seft_pack(t, bytes);
    seft_sha256(bytes, (size_t)seft_packed_size(t), digest);
    give(model, bytes);
    sf_sha_begin(&sha);
    snprintf(text, sizeof text, "{\"dtype\":\"%s\",\"nnz\":%" PRIu64 ",\"shape\":[", t->dtype, t->nnz);
    sf_sha_text(&sha, text);
    for (i = 0; i < t->dims; i++) {
        snprintf(text, sizeof text, "%s%" PRIu64, i ? "," : "", t->shape[i]);
        sf_sha_text(&sha, text);
    }
    sf_sha_text(&sha, "],\"support\":");
    if (t->nnz < t->numel)
        sha_support(&sha, t);
    else
        sf_sha_digest(&sha, NULL);
    sf_sha_text(&sha, ",\"values\":");
    sf_sha_digest(&sha, t->kind == SF_NONE ? NULL : digest);
    sf_sha_text(&sha, "}");
    sf_sha_end(&sha, t->digest);
    return 1;
}

void seft_model_state(const seft_model *model, char hex[65])
{
    sf_sha sha;
    size_t i;
    sf_sha_begin(&sha);
    sf_sha_text(&sha, "{\"scales\":");
    sf_sha_put(&sha, model->scales, model->scales_size);
    sf_sha_text(&sha, ",\"tensors\":{");
    for (i = 0; i < model->count; i++) {
        sf_sha_text(&sha, i ? "," : "");
        sf_sha_put(&sha, model->tensors[i].name_json, model->tensors[i].name_json_size);
        sf_sha_text(&sha, ":");
        sf_sha_digest(&sha, model->tensors[i].digest);
    }
    sf_sha_text(&sha, "},\"tied\":");
    sf_sha_put(&sha, model->tied, model->tied_size);
    sf_sha_text(&sha, "}");
    sf_sha_end(&sha, hex);
}

/* -------------------------------------------------------------------------------------------------------- numbers */

static double float_of(const uint8_t *at, int kind)
{
    uint64_t bits = sf_load(at, sf_dtypes[kind].bits / 8);
    const char *name = sf_dtypes[kind].name;
    int exponent;
    double value, size;
    float narrow;
    if (!strcmp(name, "F64")) {
        memcpy(&value, &bits, 8);
        return value;
    }
    if (!strcmp(name, "F32") || !strcmp(name, "BF16")) {
        uint32_t half = (uint32_t)(*name == 'B' ? bits << 16 : bits);
        memcpy(&narrow, &half, 4);
        return narrow;
    }
    exponent = (int)(bits >> 10 & 31);
    size = (double)(bits & 1023);
    if (exponent == 31)
        return size != 0 ? NAN : bits >> 15 ? -INFINITY : INFINITY;
    size = exponent ? ldexp(size + 1024, exponent - 25) : ldexp(size, -24);
    return bits >> 15 ? -size : size;
}

/* FMT-135: stores a value, rounded to float unless the dtype is F64, then to the dtype, to nearest, ties to even.
 * Returns 0 if the result is not finite. */
static int put_float(double value, int kind, uint8_t *at)
{
    const char *name = sf_dtypes[kind].name;
    float narrow = (float)value;
    uint32_t bits;
    uint16_t half;
    double size;
    int exponent;
    if (!strcmp(name, "F64")) {
        memcpy(at, &value, 8);
        return isfinite(value) != 0;
    }
    memcpy(&bits, &narrow, 4);
    if (!isfinite(narrow))
        return 0;
    if (!strcmp(name, "F32")) {
        memcpy(at, &bits, 4);
        return 1;
    }
    if (!strcmp(name, "BF16")) {
        bits += 0x7fff + (bits >> 16 & 1);
        half = (uint16_t)(bits >> 16);
        memcpy(at, &half, 2);
        return (half & 0x7f80) != 0x7f80;
    }
    size = fabs((double)narrow);
    frexp(size, &exponent);
    exponent = size == 0 || exponent < -13 ? -13 : exponent; /* 2^-14 is the least normal number */
    if (exponent > 16) /* 2^16 or more, which the bits below cannot hold */
        return 0;
    size = rint(ldexp(size, 11 - exponent));
    /* a sum and not |, because a carry of the rounding then raises the exponent by one */
    half = (uint16_t)(size + (size >= 1024 || exponent > -13 ? 1024.0 * (exponent + 13) : 0.0));
    half = (uint16_t)(half | (signbit(narrow) ? 0x8000u : 0u));
    memcpy(at, &half, 2);
    return (half & 0x7c00) != 0x7c00;
}

static int is_float(int kind)
{
    const char *name = sf_dtypes[kind].name;
    return !strcmp(name, "F16") || !strcmp(name, "BF16") || !strcmp(name, "F32") || !strcmp(name, "F64");
}

/* ------------------------------------------------------------------------------------------------------- applying */

static int misfit(const seft_stored *w, seft_error *error)
{
    return sf_fail(error, "FMT-133", "the delta does not fit the tensor %.160s of its base", w->name);
}

static int same_shape(const seft_stored *a, const seft_stored *b)
{
    return a->dims == b->dims && !memcmp(a->shape, b->shape, a->dims * sizeof *a->shape);
}

/* FMT-133 to FMT-135: sets values of w to those of `change` or adds them, and removes the positions of `gone`. Both may
 * be NULL. The result goes into `positions` and `values`, which have room for both. */
static int merge(seft_stored *w, const seft_stored *change, int adds, const seft_stored *gone, uint64_t *positions,
                 uint8_t *values, seft_error *error)
{
    uint64_t i = 0, j = 0, g = 0, size = 0;
    uint8_t zero[8] = {0};
    while (i < w->nnz || (change && j < change->nnz)) {
        uint64_t old = i < w->nnz ? position(w, i) : UINT64_MAX;
        uint64_t new_ = change && j < change->nnz ? position(change, j) : UINT64_MAX;
        uint64_t at = old < new_ ? old : new_;
        const uint8_t *value = old == at ? w->values + i * w->unit : zero;
        uint8_t *to = values + size * w->unit;
        int removed = gone && g < gone->nnz && position(gone, g) == at;
        if (removed && (old != at || new_ == at))
            return misfit(w, error);
        if (new_ == at && adds) {
            double sum = float_of(value, w->kind) + float_of(change->values + j * change->unit, change->kind);
            if (!put_float(sum, w->kind, to)) /* FMT-135 */
                return sf_fail(error, "FMT-135", "a sum of the tensor %.160s is not finite", w->name);
        } else if (w->unit) {
            memcpy(to, new_ == at ? change->values + j * w->unit : value, w->unit);
        }
        positions[size] = at;
        size += !removed;
        g += (uint64_t)removed;
        i += old == at;
        j += new_ == at;
    }
    if (gone && g < gone->nnz) /* it removes a position that w does not store */
        return misfit(w, error);
    w->nnz = size;
    w->positions = size == w->numel ? NULL : positions;
    w->values = values;
    w->own[0] = positions;
    w->own[1] = values;
    return 1;
}

/* Merges into blocks of its own; w owns them if it could. */
static int merged(const seft_model *model, seft_stored *w, const seft_stored *change, int adds, const seft_stored *gone,
                  seft_error *error)
{
    uint64_t most = w->nnz + (change ? change->nnz : 0);
    uint64_t *positions = (uint64_t *)take(model, most, sizeof *positions, error);
    uint8_t *values = (uint8_t *)take(model, most, w->unit ? w->unit : 1, error);
    if (positions && values && merge(w, change, adds, gone, positions, values, error))
        return 1;
    give(model, positions);
    give(model, values);
    return 0;
}

/* Loads the tensor that a delta stores as prefix and name: 1 if it could, 0 if there is none, -1 on an error. */
static int stored(const seft_model *model, seft_file *delta, const char *prefix, const uint8_t *key, seft_stored *t,
                  seft_error *error)
{
    size_t index = sf_stored(delta, prefix, key);
    if (index == delta->count)
        return 0;
    return load(model, delta, index, t, error) ? 1 : -1;
}

/* The parts of a delta that change a tensor, and which of them there are. */
typedef struct {
    seft_stored change, amounts, gone;
    int sets, adds, goes;
} parts_of;

/* Makes a tensor of the base as it is after its parts; the result owns new blocks. */
static int altered(const seft_model *model, const seft_stored *before, const parts_of *parts, seft_stored *w,
                   seft_error *error)
{
    const seft_stored *change = &parts->change, *amounts = &parts->amounts, *gone = &parts->gone;
    int sets = parts->sets, adds = parts->adds, goes = parts->goes;
    if (!before) /* FMT-133 */
        return sf_fail(error, "FMT-133", "the delta changes a tensor that its base has not");
    *w = *before;
    if (w->kind == SF_NONE) /* FMT-133: a mask changes as a whole */
        return misfit(w, error);
    if (sets && (!same_shape(change, w) || change->kind != w->kind)) /* FMT-133 */
        return misfit(w, error);
    if (goes && (!same_shape(gone, w) || gone->kind != SF_NONE)) /* FMT-133 */
        return misfit(w, error);
    if (adds && (!same_shape(amounts, w) || !is_float(amounts->kind) || !is_float(w->kind))) /* FMT-133 */
        return misfit(w, error);
    return merged(model, w, adds ? amounts : sets ? change : NULL, adds, goes ? gone : NULL, error);
}

/* Makes the tensor of a listed name as it is after the delta; it owns blocks of its own. */
static int changed(const seft_model *model, seft_file *delta, const sf_walk *listed, seft_stored *w, seft_error *error)
{
    parts_of parts;
    size_t skip = strlen("whole:");
    int whole = stored(model, delta, "whole:", listed->key, w, error), done;
    if (whole < 0)
        return 0;
    if (whole) { /* FMT-136; the name loses its prefix, and its JSON text is taken from the list */
        w->name += skip;
        w->name_size -= skip;
        w->name_json = (const char *)listed->key - 1;
        w->name_json_size = (size_t)(listed->value - listed->key);
        return 1;
    }
    memset(&parts, 0, sizeof parts);
    parts.sets = stored(model, delta, "replace:", listed->key, &parts.change, error);
    parts.adds = stored(model, delta, "add:", listed->key, &parts.amounts, error);
    parts.goes = stored(model, delta, "remove:", listed->key, &parts.gone, error);
    done = parts.sets >= 0 && parts.adds >= 0 && parts.goes >= 0 &&
           altered(model, named(model, listed->key), &parts, w, error);
    drop(model, &parts.change);
    drop(model, &parts.amounts);
    drop(model, &parts.gone);
    return done;
}

static int is_digest(const uint8_t *value, const char *hex)
{
    return *value == '"' && !memcmp(value + 1, hex, 64);
}

/* FMT-010, FMT-016: checks the ties and scales of a delta against the tensors of its result */
static int names_hold(const seft_model *model, seft_error *error)
{
    sf_walk outer = sf_enter(model->tied), inner;
    while (sf_step(&outer))
        if (named(model, outer.key) || !named(model, outer.value + 1))
            return sf_fail(error, "FMT-010", "a tied name is stored, or stands for one that is not");
    outer = sf_enter(model->scales);
    while (sf_step(&outer)) {
        inner = sf_enter(outer.value);
        while (sf_step(&inner))
            if (!named(model, outer.key) || !named(model, inner.value + 1))
                return sf_fail(error, "FMT-016", "scales names a tensor that is not stored");
    }
    return 1;
}

int seft_chain(const seft_model *model, seft_file *const *deltas, size_t count, seft_error *error)
{
    char state[65];
    size_t i;
    if (model->is_delta) /* FMT-131 */
        return sf_fail(error, "FMT-131", "a delta is no base");
    seft_model_state(model, state);
    for (i = 0; i < count; i++)
        if (!deltas[i]->delta) /* FMT-131 */
            return sf_fail(error, "FMT-131", "a file that is to be applied is no delta");
    if (count && !is_digest(sf_find(deltas[0]->delta, "base_sha256"), state)) /* FMT-137 */
        return sf_fail(error, "FMT-137", "the delta is for another base");
    for (i = 1; i < count; i++)
        if (memcmp(sf_find(deltas[i]->delta, "base_sha256"), sf_find(deltas[i - 1]->delta, "target_sha256"), 65))
            return sf_fail(error, "FMT-139", "a delta does not start where the one before ends"); /* FMT-139 */
    return 1;
}

int seft_delta_apply(seft_model *model, seft_file *delta, seft_error *error)
{
    char state[65];
    sf_walk listed;
    if (!seft_chain(model, &delta, 1, error))
        return 0;
    listed = sf_enter(sf_find(delta->delta, "tensors"));
    while (sf_step(&listed)) {
        const uint8_t *base = sf_find(listed.value, "base"), *target = sf_find(listed.value, "target");
        seft_stored *before = named(model, listed.key), after;
        if (before ? !is_digest(base, before->digest) : *base == '"') /* FMT-137 */
            return sf_fail(error, "FMT-137", "a listed tensor is another one in the base");
        if (*target != '"') {
            if (before) {
                drop(model, before);
                memmove(before, before + 1, (size_t)(model->tensors + model->count-- - before - 1) * sizeof *before);
            }
            continue;
        }
        if (!changed(model, delta, &listed, &after, error))
            return 0;
        if (!content(model, &after, error)) {
            drop(model, &after);
            return 0;
        }
        if (!is_digest(target, after.digest)) { /* FMT-138 */
            drop(model, &after);
            return sf_fail(error, "FMT-138", "tensor %.160s: the result is not what the delta says", after.name);
        }
        if (!put(model, &after, error))
            return 0;
    }
    keep_texts(model, sf_find(delta->delta, "tied"), sf_find(delta->delta, "scales"));
    seft_model_state(model, state);
    if (!is_digest(sf_find(delta->delta, "target_sha256"), state)) /* FMT-138 */
        return sf_fail(error, "FMT-138", "the result is not what the delta leads to");
    return names_hold(model, error);
}
