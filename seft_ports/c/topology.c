/* Chapter 2: row pointers and flat positions, changes of a topology, and sets of positions. */
#include "seft.h"

#include <stdio.h>
#include <string.h>

int seft_refuse(seft_error *error, const char *clause, const char *message)
{
    if (error) {
        snprintf(error->clause, sizeof error->clause, "%s", clause);
        snprintf(error->message, sizeof error->message, "%s", message);
    }
    return 0;
}

int seft_topology_check(int64_t out, int64_t in, const int64_t *indptr, int64_t pointers, const int64_t *indices,
                        int64_t columns, seft_error *error)
{
    int64_t row, slot;
    /* TOP-001 */
    if (pointers != out + 1)
        return seft_refuse(error, "TOP-001", "indptr has not out + 1 entries");
    if (indptr[0] != 0 || indptr[out] != columns)
        return seft_refuse(error, "TOP-001", "indptr does not go from 0 to the number of columns stored");
    for (row = 0; row < out; row++)
        if (indptr[row + 1] < indptr[row])
            return seft_refuse(error, "TOP-001", "indptr decreases");
    /* TOP-002 */
    for (row = 0; row < out; row++)
        for (slot = indptr[row]; slot < indptr[row + 1]; slot++) {
            if (indices[slot] < 0 || indices[slot] >= in)
                return seft_refuse(error, "TOP-002", "a column is outside of the matrix");
            if (slot > indptr[row] && indices[slot] <= indices[slot - 1])
                return seft_refuse(error, "TOP-002", "the columns of a row do not increase");
        }
    return 1;
}

void seft_flat(const seft_topology *topology, int64_t *positions)
{
    int64_t row, slot;
    for (row = 0; row < topology->out; row++)
        for (slot = topology->indptr[row]; slot < topology->indptr[row + 1]; slot++)
            /* TOP-003 */
            positions[slot] = row * topology->in + topology->indices[slot];
}

int seft_positions_check(int64_t out, int64_t in, const int64_t *positions, int64_t count, seft_error *error)
{
    int64_t i;
    /* TOP-003 */
    for (i = 0; i < count; i++) {
        if (positions[i] < 0 || positions[i] >= out * in)
            return seft_refuse(error, "TOP-003", "a position is outside of the matrix");
        if (i && positions[i] <= positions[i - 1])
            return seft_refuse(error, "TOP-003", "the positions do not increase");
    }
    return 1;
}

/* TOP-005 */
int seft_groups_check(int64_t in, const int64_t *positions, int64_t count, int64_t most, int64_t group,
                      seft_error *error)
{
    int64_t i;
    if (in % group)
        return seft_refuse(error, "TOP-005", "the width of a group does not divide the rows");
    for (i = most; i < count; i++) {
        if (positions[i] / group == positions[i - most] / group)
            return seft_refuse(error, "TOP-005", "a group stores more than its pattern allows");
    }
    return 1;
}

void seft_rows_of(int64_t out, int64_t in, const int64_t *positions, int64_t count, int64_t *indptr, int64_t *indices)
{
    int64_t row = 0, slot;
    indptr[0] = 0;
    for (slot = 0; slot < count; slot++) {
        for (; row < positions[slot] / in; row++)
            indptr[row + 1] = slot;
        indices[slot] = positions[slot] % in;
    }
    for (; row < out; row++)
        indptr[row + 1] = count;
}

/* CHG-001 */
void seft_change(const int64_t *old, int64_t old_count, const int64_t *new_, int64_t new_count, int64_t *source)
{
    int64_t at = 0, slot;
    for (slot = 0; slot < new_count; slot++) {
        while (at < old_count && old[at] < new_[slot])
            at++;
        source[slot] = at < old_count && old[at] == new_[slot] ? at : -1;
    }
}

/* CHG-002: bit for bit, whatever the type; memcpy keeps the payload of a NaN */
#define REALIGN(type, name)                                                                                            \
    void name(const type *values, const int64_t *source, int64_t count, type fill, type *moved)                        \
    {                                                                                                                  \
        int64_t slot;                                                                                                  \
        for (slot = 0; slot < count; slot++)                                                                           \
            memcpy(moved + slot, source[slot] < 0 ? &fill : values + source[slot], sizeof *moved);                     \
    }

REALIGN(double, seft_realign_f64)
REALIGN(float, seft_realign_f32)
REALIGN(int64_t, seft_realign_i64)

int64_t seft_union(const int64_t *a, int64_t a_count, const int64_t *b, int64_t b_count, int64_t *both)
{
    int64_t i = 0, j = 0, size = 0;
    while (i < a_count || j < b_count) {
        if (j == b_count || (i < a_count && a[i] < b[j]))
            both[size++] = a[i++];
        else {
            i += i < a_count && a[i] == b[j];
            both[size++] = b[j++];
        }
    }
    return size;
}

int64_t seft_without(const int64_t *a, int64_t a_count, const int64_t *b, int64_t b_count, int64_t *rest)
{
    int64_t i, j = 0, size = 0;
    for (i = 0; i < a_count; i++) {
        while (j < b_count && b[j] < a[i])
            j++;
        if (j == b_count || b[j] != a[i])
            rest[size++] = a[i];
    }
    return size;
}

int seft_groups_of(int64_t out, int64_t in, int64_t n, int64_t m, const int64_t *positions, int64_t count,
                   uint64_t *masks, seft_error *error)
{
    int64_t slot, held = 0, group, before = -1;
    /* TOP-005 */
    if (m < 1 || m > 64 || n < 0 || n > m || in % m)
        return seft_refuse(error, "TOP-005", "no pattern for rows of this length");
    for (group = 0; group < out * (in / m); group++)
        masks[group] = 0;
    for (slot = 0; slot < count; slot++) {
        /* m divides the row length, so a group of columns is also a group of flat positions */
        group = positions[slot] / m;
        held = group == before ? held + 1 : 1;
        before = group;
        if (held > n)
            return seft_refuse(error, "TOP-005", "a group stores more than the pattern allows");
        masks[group] |= UINT64_C(1) << positions[slot] % m;
    }
    return 1;
}
