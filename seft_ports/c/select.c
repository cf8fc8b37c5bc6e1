/* Chapter 7: exact selection, and draws from a counter. */
#include "seft.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    double score;
    int64_t id;
} ranked;

/* SEL-001, SEL-002: order by the score, then by the id; -0.0 and +0.0 are equal (SEL-004) */
static int before(const void *a, const void *b)
{
    const ranked *x = (const ranked *)a, *y = (const ranked *)b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
#ifdef SEFT_BROKEN_TIES /* a wrong build, for the test that the kit refuses it */
    return x->id > y->id ? -1 : x->id < y->id;
#else
    return x->id < y->id ? -1 : x->id > y->id;
#endif
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Selects the first k in the order of sign * score. */
static int select_first(const double *scores, double sign, const int64_t *ids, int64_t count, int64_t k,
                        int64_t *chosen, seft_error *error)
{
    ranked *all;
    int64_t i;
    /* SEL-005 */
    if (k < 0 || k > count)
        return seft_refuse(error, "SEL-005", "as many as that are not there to be selected");
    /* SEL-004 */
    for (i = 0; i < count; i++)
        if (!isfinite(scores[i]))
            return seft_refuse(error, "SEL-004", "a score is NaN or infinite");
    all = (uint64_t)count < SIZE_MAX / sizeof *all ? (ranked *)malloc((size_t)count * sizeof *all + 1) : NULL;
    if (!all)
        return seft_refuse(error, "", "out of memory");
    for (i = 0; i < count; i++) {
        all[i].score = sign * scores[i];
        all[i].id = ids[i];
    }
    qsort(all, (size_t)count, sizeof *all, before);
    for (i = 0; i < k; i++)
        chosen[i] = all[i].id;
    free(all);
    /* SEL-003 */
    if (k)
        qsort(chosen, (size_t)k, sizeof *chosen, by_id);
    return 1;
}

int seft_largest(const double *scores, const int64_t *ids, int64_t count, int64_t k, int64_t *chosen, seft_error *error)
{
    return select_first(scores, -1.0, ids, count, k, chosen, error);
}

int seft_smallest(const double *scores, const int64_t *ids, int64_t count, int64_t k, int64_t *chosen,
                  seft_error *error)
{
    return select_first(scores, 1.0, ids, count, k, chosen, error);
}

/* SEL-006 */
int seft_count_of(double x, int64_t *count, seft_error *error)
{
    double n = floor(x + ldexp(1.0, -20));
    if (!(fabs(n) <= ldexp(1.0, 53)))
        return seft_refuse(error, "", "a count beyond 2^53");
    *count = (int64_t)n;
    return 1;
}

int seft_keep_n_of_m(int64_t rows, int64_t columns, const double *scores, int64_t n, int64_t m, int64_t *kept,
                     seft_error *error)
{
    int64_t *group, at, i;
    int done = 1;
    /* PRN-004 */
    if (m < 1 || n < 0 || n > m || columns % m)
        return seft_refuse(error, "PRN-004", "the row length is no multiple of m, or this is no pattern");
    if (!rows || !columns)
        return 1;
    group = (int64_t *)malloc((size_t)m * sizeof *group);
    if (!group)
        return seft_refuse(error, "", "out of memory");
    for (at = 0; done && at < rows * columns; at += m, kept += n) {
        for (i = 0; i < m; i++)
            group[i] = at + i;
        done = seft_largest(scores + at, group, m, n, kept, error);
    }
    free(group);
    return done;
}

/* RNG-001 */
static const uint64_t GAMMA = UINT64_C(0x9E3779B97F4A7C15);

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

uint64_t seft_draw(uint64_t key, uint64_t number)
{
    return mix(key + (number + 1) * GAMMA);
}

/* RNG-002 */
uint64_t seft_key(const uint64_t *words, int64_t count)
{
    uint64_t key = 0;
    int64_t i;
    for (i = 0; i < count; i++)
        key = mix((key + GAMMA) ^ words[i]);
    return key;
}

/* RNG-003 */
double seft_random_score(uint64_t seed, uint64_t matrix, uint64_t step, uint64_t use, uint64_t position)
{
    uint64_t words[5];
    words[0] = seed;
    words[1] = 3;
    words[2] = matrix;
    words[3] = step;
    words[4] = use;
    return ldexp((double)(seft_draw(seft_key(words, 5), position) >> 11), -53);
}
