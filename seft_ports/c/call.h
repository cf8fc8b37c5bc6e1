/* call.h: one call of the protocol (SPEC.md, chapter 16): its inputs by name, its outputs, its memory. */
#ifndef SEFT_CALL_H
#define SEFT_CALL_H

#include "json.h"
#include "seft.h"

/* PRT-003 */
typedef enum { F64, F32, I64, U64, U8, BOOL, DTYPES } dtype;

typedef struct {
    dtype type;
    unsigned dims;
    int64_t shape[8];
    int64_t count; /* entries */
    void *at;
} array;

/* One call. `failed` is set at the first error: `error` has a clause if the inputs break one, else only a message.
 * After that every input is returned as zero or NULL, so an operation checks `failed` only once, before it computes. */
typedef struct {
    const json_tree *tree;
    const json *in;
    dtype real; /* the dtype of float arrays */
    seft_error error;
    int failed;
    void **blocks;
    size_t block_count, block_room;
    uint64_t taken; /* bytes allocated */
    json_out *out;
    int outputs;
} call;

/* The bytes that a call may allocate; an input that needs more is refused before the allocation. */
#define MOST_BYTES (UINT64_C(1) << 30)
/* The longest side of a matrix. */
#define MOST_SIDE INT64_C(0x7fffffff)

int call_fail(call *c, const char *format, ...);                     /* an error that breaks no clause; returns 0 */
int call_refuse(call *c, const char *clause, const char *message);   /* returns 0 */
int call_did(call *c, int done);                                     /* marks the call as failed if done is 0 */
void *call_room(call *c, int64_t count, size_t each);                /* zeroed memory, or NULL */
void call_end(call *c);                                              /* frees all memory of the call */

int call_has(const call *c, const char *name); /* whether it is present and not null */
int64_t call_integer(call *c, const char *name);
int64_t call_side(call *c, const char *name); /* an integer from 0 to MOST_SIDE */
uint64_t call_word(call *c, const char *name);
uint64_t call_seed(call *c); /* the input `seed`, refused by RNG-002 */
double call_number(call *c, const char *name);
array call_value(call *c, const json *value, const char *name);
array call_array(call *c, const char *name);
int64_t *call_integers(call *c, const char *name, int64_t *count);
int64_t *call_positions(call *c, const char *name, int64_t out, int64_t in, int64_t *count); /* TOP-003 */
/* A float array of the call's dtype with `dims` dimensions; `told` gets its shape and count. */
void *call_reals(call *c, const char *name, unsigned dims, array *told);
/* The same for an operand of a product: a wrong number of dimensions breaks KRN-009. */
void *call_operand(call *c, const char *name, unsigned dims, array *told);
/* A float vector of `count` entries; any other array is an error. */
void *call_reals_of(call *c, const char *name, int64_t count);

void call_put(call *c, const char *name); /* begins an output */
void call_put_text(call *c, const char *name, const char *bytes, size_t size);
void call_put_integer(call *c, const char *name, int64_t value);
void call_put_number(call *c, const char *name, double value);
void call_write_array(call *c, dtype type, const void *at, unsigned dims, const int64_t *shape);
void call_put_array(call *c, const char *name, dtype type, const void *at, int64_t count);
void call_put_matrix(call *c, const char *name, dtype type, const void *at, int64_t rows, int64_t columns);

typedef struct {
    const char *name;
    void (*run[2])(call *); /* for float64, for float32 */
} operation;

extern const operation rule_operations[], number_operations[], file_operations[]; /* each ends with a NULL name */

#endif
