/* Chapter 3: products with a sparse matrix, and their gradients. The file includes itself for double and for float;
 * sums are in double for both. */
#ifndef REAL

#include "seft.h"
#include "sum.h"

#include <stdlib.h>

#define REAL double
#define OF(name) name##_f64
#include "kernels.c"
#undef REAL
#undef OF
#define REAL float
#define OF(name) name##_f32
#include "kernels.c"

#else

/* KRN-001, KRN-004, KRN-005, PRT-019: only stored positions take part, whatever their values; there may be none */
void OF(seft_matmul)(int64_t n, const REAL *x, const seft_topology *w, const REAL *values, REAL *y)
{
    int64_t t, row, slot;
    for (t = 0; t < n; t++)
        for (row = 0; row < w->out; row++) {
            seft_sum s = {0, 0};
            for (slot = w->indptr[row]; slot < w->indptr[row + 1]; slot++)
                seft_add(&s, (double)x[t * w->in + w->indices[slot]] * (double)values[slot]);
            y[t * w->out + row] = (REAL)(s.sum + s.lost);
        }
}

/* Allocates one sum for each column. */
static seft_sum *OF(columns)(int64_t in, seft_error *error)
{
    seft_sum *sums = (uint64_t)in < SIZE_MAX / sizeof *sums ? (seft_sum *)malloc((size_t)in * sizeof *sums + 1) : NULL;
    if (!sums)
        seft_refuse(error, "", "out of memory");
    return sums;
}

static void OF(clear)(seft_sum *sums, int64_t in)
{
    int64_t column;
    for (column = 0; column < in; column++)
        sums[column].sum = sums[column].lost = 0;
}

static void OF(put)(const seft_sum *sums, int64_t in, REAL *to)
{
    int64_t column;
    for (column = 0; column < in; column++)
        to[column] = (REAL)(sums[column].sum + sums[column].lost);
}

/* KRN-002, KRN-005 */
int OF(seft_matmul_transposed)(int64_t n, const REAL *dy, const seft_topology *w, const REAL *values, REAL *dx,
                               seft_error *error)
{
    int64_t t, row, slot;
    seft_sum *sums = OF(columns)(w->in, error);
    if (!sums)
        return 0;
    for (t = 0; t < n; t++) {
        OF(clear)(sums, w->in);
        for (row = 0; row < w->out; row++)
            for (slot = w->indptr[row]; slot < w->indptr[row + 1]; slot++)
                seft_add(sums + w->indices[slot], (double)dy[t * w->out + row] * (double)values[slot]);
        OF(put)(sums, w->in, dx + t * w->in);
    }
    free(sums);
    return 1;
}

/* KRN-003, GRD-002 */
void OF(seft_sample)(int64_t n, const REAL *dy, const REAL *x, const seft_topology *w, REAL *gradient)
{
    int64_t t, row, slot;
    for (row = 0; row < w->out; row++)
        for (slot = w->indptr[row]; slot < w->indptr[row + 1]; slot++) {
            seft_sum s = {0, 0};
            for (t = 0; t < n; t++)
                seft_add(&s, (double)dy[t * w->out + row] * (double)x[t * w->in + w->indices[slot]]);
            gradient[slot] = (REAL)(s.sum + s.lost);
        }
}

/* TOP-005, KRN-001: the bits of a mask, from the lowest, are the slots in their order */
void OF(seft_group_matmul)(int64_t n, const REAL *x, const seft_groups *w, const REAL *values, REAL *y)
{
    int64_t t, row, column;
    for (t = 0; t < n; t++) {
        const uint64_t *mask = w->masks;
        const REAL *value = values;
        for (row = 0; row < w->out; row++) {
            seft_sum s = {0, 0};
            for (column = 0; column < w->in; column += w->m) {
                uint64_t left = *mask++;
                int64_t at = t * w->in + column;
                for (; left; left >>= 1, at++)
                    if (left & 1)
                        seft_add(&s, (double)x[at] * (double)*value++);
            }
            y[t * w->out + row] = (REAL)(s.sum + s.lost);
        }
    }
}

/* TOP-005, KRN-002 */
int OF(seft_group_matmul_transposed)(int64_t n, const REAL *dy, const seft_groups *w, const REAL *values, REAL *dx,
                                     seft_error *error)
{
    int64_t t, row, column;
    seft_sum *sums = OF(columns)(w->in, error);
    if (!sums)
        return 0;
    for (t = 0; t < n; t++) {
        const uint64_t *mask = w->masks;
        const REAL *value = values;
        OF(clear)(sums, w->in);
        for (row = 0; row < w->out; row++)
            for (column = 0; column < w->in; column += w->m) {
                uint64_t left = *mask++;
                int64_t at = column;
                for (; left; left >>= 1, at++)
                    if (left & 1)
                        seft_add(sums + at, (double)dy[t * w->out + row] * (double)*value++);
            }
        OF(put)(sums, w->in, dx + t * w->in);
    }
    free(sums);
    return 1;
}

int OF(seft_store)(REAL *values, int64_t nnz, const int64_t *slots, int64_t count, const REAL *new_, seft_error *error)
{
    int64_t i;
    /* KRN-012, KRN-013: check every slot before changing a value */
    for (i = 0; i < count; i++)
        if (slots[i] < 0 || slots[i] >= nnz)
            return seft_refuse(error, "KRN-012", "a slot is out of range");
    for (i = 0; i < count; i++)
        values[slots[i]] = new_[i];
    return 1;
}

/* KRN-014 */
int64_t OF(seft_exceeding)(const REAL *values, int64_t count, REAL least, int64_t *indices)
{
    int64_t i, found = 0;
    for (i = 0; i < count; i++) {
        REAL size = values[i] < 0 ? -values[i] : values[i];
        /* the second test, because NaN > least is false, and so is infinity > infinity */
        if (size > least || !(size - size == 0))
            indices[found++] = i;
    }
    return found;
}

/* GRD-001, GRD-004, TRN-005: the sum over all rows of all micro-batches, and its mean over the steps of the window */
void OF(seft_gradient)(int64_t out, int64_t in, int64_t batches, const int64_t *n, const REAL *const *dy,
                       const REAL *const *x, int64_t steps, REAL *gradient)
{
    int64_t row, column, batch, t;
    for (row = 0; row < out; row++)
        for (column = 0; column < in; column++) {
            seft_sum s = {0, 0};
            for (batch = 0; batch < batches; batch++)
                for (t = 0; t < n[batch]; t++)
                    seft_add(&s, (double)dy[batch][t * out + row] * (double)x[batch][t * in + column]);
            gradient[row * in + column] = (REAL)((s.sum + s.lost) / (double)steps);
        }
}

#endif
