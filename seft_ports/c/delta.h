/* delta.h: loads a checkpoint file into memory and applies deltas to it (SPEC.md 12.10); errors as in seft_file.h */
#ifndef SEFT_DELTA_H
#define SEFT_DELTA_H

#include "seft_file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor. Its name and texts point into the file that it came from, so keep that open as long as the model lives. */
typedef struct {
    const char *name, *name_json;
    size_t name_size, name_json_size;
    int kind;           /* index of the dtype in sf_dtypes */
    const char *dtype;
    unsigned dims, unit; /* bytes of a value in memory: one for values of 4 and 6 bits, none for a mask */
    uint64_t shape[8], nnz, numel, rows, columns;
    const uint64_t *positions; /* flat, in row-major order; NULL if the support is every position */
    const uint8_t *values;     /* nnz * unit */
    void *own[2];              /* blocks of positions and values that the tensor owns; NULL if it owns none */
    char digest[65];           /* FMT-091 */
} seft_stored;

typedef struct {
    seft_stored *tensors; /* sorted by name */
    size_t count, room;
    const uint8_t *tied, *scales; /* canonical JSON */
    size_t tied_size, scales_size;
    int is_delta; /* whether it was loaded from a delta */
    seft_memory memory;
} seft_model;

/* Loads everything of a file whose tensors have been checked, in memory from where the file has its own. Free it with
 * seft_model_free, after a failure too. */
int seft_model_load(seft_model *model, seft_file *file, seft_error *error);
void seft_model_free(seft_model *model);
void seft_model_state(const seft_model *model, char hex[65]); /* FMT-099 */

/* FMT-131, FMT-137, FMT-139: checks that the model is no delta, that the first delta starts at it, and each other delta
 * where the one before ends. */
int seft_chain(const seft_model *model, seft_file *const *deltas, size_t count, seft_error *error);

/* Applies a delta. After a failure the model must not be used (FMT-138). */
int seft_delta_apply(seft_model *model, seft_file *delta, seft_error *error);

/* Return the size of the values as a file stores them (FMT-071), and write the bytes themselves. */
uint64_t seft_packed_size(const seft_stored *tensor);
void seft_pack(const seft_stored *tensor, uint8_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
