/* Chapter 8: drop, grow, adapt, and the event that runs them. The file includes itself for double and for float. */
#ifndef REAL

#include "seft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *room(int64_t count, size_t each, seft_error *error)
{
    void *block = count >= 0 && (uint64_t)count < SIZE_MAX / each - 1 ? malloc((size_t)count * each + 1) : NULL;
    if (!block)
        seft_refuse(error, "", "out of memory");
    return block;
}

static int has(const int64_t *positions, int64_t count, int64_t position)
{
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (positions[middle] < position)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && positions[low] == position;
}

typedef struct {
    uint64_t draw;
    int64_t position;
} drawn;

static int earlier(const void *a, const void *b)
{
    const drawn *x = (const drawn *)a, *y = (const drawn *)b;
    if (x->draw != y->draw)
        return x->draw < y->draw ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

static int upwards(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* DLT-004, random */
int seft_initial_random(const int64_t *base, int64_t count, int64_t n, uint64_t seed, uint64_t matrix,
                        int64_t *positions, seft_error *error)
{
    uint64_t words[3], key;
    drawn *all;
    int64_t i;
    if (n < 0 || n > count)
        return seft_refuse(error, "SEL-005", "the base has not as many positions");
    words[0] = seed;
    words[1] = 1;
    words[2] = matrix;
    key = seft_key(words, 3);
    all = (drawn *)room(count, sizeof *all, error);
    if (!all)
        return 0;
    for (i = 0; i < count; i++) {
        all[i].draw = seft_draw(key, (uint64_t)base[i]);
        all[i].position = base[i];
    }
    qsort(all, (size_t)count, sizeof *all, earlier);
    for (i = 0; i < n; i++)
        positions[i] = all[i].position;
    free(all);
    if (n)
        qsort(positions, (size_t)n, sizeof *positions, upwards);
    return 1;
}

#define REAL double
#define OF(name) name##_f64
#include "update.c"
#undef REAL
#undef OF
#define REAL float
#define OF(name) name##_f32
#include "update.c"

#else

typedef OF(seft_matrix) OF(matrix);

/* DLT-003, TOP-004: one rounded addition at the positions of the delta, b bit for bit elsewhere; zeros stay stored */
int64_t OF(seft_effective)(const OF(matrix) * w, int64_t *support, REAL *weights)
{
    int64_t i = 0, j = 0, size = 0;
    while (i < w->base_count || j < w->delta_count) {
        if (j == w->delta_count || (i < w->base_count && w->base[i] < w->delta[j])) {
            support[size] = w->base[i];
            weights[size++] = w->base_values[i++];
        } else {
            REAL b = i < w->base_count && w->base[i] == w->delta[j] ? w->base_values[i++] : (REAL)0;
            support[size] = w->delta[j];
            weights[size++] = b + w->delta_values[j++];
        }
    }
    return size;
}

int OF(seft_drop)(const int64_t *delta, const REAL *values, int64_t count, int64_t n, int64_t *dropped,
                  seft_error *error)
{
    double *scores = (double *)room(count, sizeof *scores, error);
    int64_t s;
    int done;
    if (!scores)
        return 0;
    /* DROP-003, magnitude */
    for (s = 0; s < count; s++)
        scores[s] = fabs((double)values[s]);
    /* DROP-001 */
    done = seft_smallest(scores, delta, count, n, dropped, error);
    free(scores);
    return done;
}

int OF(seft_grow)(const OF(matrix) * w, const int64_t *dropped, int64_t dropped_count, const REAL *gradient, int64_t n,
                  seft_scope scope, int64_t *grown, int64_t *count, seft_error *error)
{
    int64_t all = w->out * w->in, p, candidates = 0;
    double *scores = (double *)room(all, sizeof *scores, error);
    int64_t *ids = (int64_t *)room(all, sizeof *ids, error);
    double norm = 0;
    int done = scores && ids;
    for (p = 0; done && p < all; p++) {
        /* EVT-005, GRD-009 */
        int is_read = scope != SEFT_ACTIVE || has(w->base, w->base_count, p) || has(w->delta, w->delta_count, p);
        if (is_read && !isfinite(gradient[p]))
            done = seft_refuse(error, "EVT-005", "the gradient has a NaN or infinite entry");
        /* EVT-005.2 */
        if (scope != SEFT_ACTIVE)
            norm = hypot(norm, (double)gradient[p]);
        /* GROW-001 */
        if (has(w->delta, w->delta_count, p) && !has(dropped, dropped_count, p))
            continue;
        /* EVT-007: a base with an N:M pattern must use this scope, because only then it keeps the pattern */
        if (scope == SEFT_ACTIVE && !has(w->base, w->base_count, p))
            continue;
        /* GROW-004, gradient */
        ids[candidates] = p;
        scores[candidates++] = fabs((double)gradient[p]);
    }
    if (done && !isfinite(norm))
        done = seft_refuse(error, "EVT-005", "the norm of the gradient is too large");
    /* GROW-002, GRD-003 */
    *count = n < 0 ? 0 : n > candidates ? candidates : n;
    done = done && seft_largest(scores, ids, candidates, *count, grown, error);
    free(scores);
    free(ids);
    return done;
}

int OF(seft_adapt)(const OF(matrix) * w, const int64_t *exempt, int64_t exempt_count, const REAL *gradient,
                   int64_t budget, int64_t *pruned, int64_t *count, seft_error *error)
{
    int64_t most = w->base_count + w->delta_count, size, i, left = 0;
    int64_t *support = (int64_t *)room(most, sizeof *support, error);
    REAL *weights = (REAL *)room(most, sizeof *weights, error);
    double *scores = (double *)room(most, sizeof *scores, error);
    int done = support && weights && scores;
    *count = 0;
    if (done) {
        size = OF(seft_effective)(w, support, weights);
        /* ADPT-001 */
        *count = size > budget ? size - budget : 0;
        for (i = 0; i < size; i++) {
            /* ADPT-002: one multiplication, rounded in the compute dtype */
            REAL product = gradient[support[i]] * weights[i];
            if (!isfinite(gradient[support[i]]))
                done = seft_refuse(error, "EVT-005", "the gradient has a NaN or infinite entry");
            /* ADPT-003 */
            if (has(exempt, exempt_count, support[i]))
                continue;
            scores[left] = fabs((double)product);
            support[left++] = support[i];
        }
        /* EVT-005.3: without an excess nothing is ranked */
        done = done && (!*count || seft_smallest(scores, support, left, *count, pruned, error));
    }
    free(support);
    free(weights);
    free(scores);
    return done;
}

/* CHG-002, DLT-005, GROW-003: a slot that stays, or is dropped and grown at once, keeps its state; the rest are new */
static int OF(move)(const OF(matrix) * before, const int64_t *delta, int64_t count, OF(matrix) * after,
                    seft_error *error)
{
    int64_t *source = (int64_t *)room(count, sizeof *source, error);
    if (!source)
        return 0;
    seft_change(before->delta, before->delta_count, delta, count, source);
    memmove(after->delta, delta, (size_t)count * sizeof *delta);
    after->delta_count = count;
    OF(seft_realign)(before->delta_values, source, count, 0, after->delta_values);
    OF(seft_realign)(before->m, source, count, 0, after->m);
    OF(seft_realign)(before->v, source, count, 0, after->v);
    seft_realign_i64(before->age, source, count, 0, after->age);
    free(source);
    return 1;
}

/* ADPT-004, EVT-006: pruned positions leave the base, the others keep their bits */
static void OF(keep)(const OF(matrix) * before, const int64_t *pruned, int64_t count, OF(matrix) * after)
{
    int64_t s, kept = 0;
    for (s = 0; s < before->base_count; s++)
        if (!has(pruned, count, before->base[s])) {
            after->base[kept] = before->base[s];
            memcpy(after->base_values + kept++, before->base_values + s, sizeof *before->base_values);
        }
    after->base_count = kept;
}

/* EVT-001, EVT-002, EVT-003: drop, grow, adapt, with one gradient. `delta` is scratch memory for positions, `fresh` for
 * the new slots. */
static int OF(change)(const OF(matrix) * before, const REAL *gradient, int64_t n_drop, int64_t delta_budget,
                      int64_t budget, seft_scope scope, int adapts, int64_t *delta, int64_t *fresh, OF(matrix) * after,
                      seft_event *event, seft_error *error)
{
    OF(matrix) grew = *before;
    int64_t fresh_count, room_left = delta_budget - before->delta_count;
    if (!OF(seft_drop)(before->delta, before->delta_values, before->delta_count, n_drop, event->dropped, error))
        return 0;
    event->dropped_count = n_drop;
    /* GROW-002 */
    if (!OF(seft_grow)(before, event->dropped, n_drop, gradient, n_drop + room_left, scope, event->grown,
                       &event->grown_count, error))
        return 0;
    fresh_count = seft_without(event->grown, event->grown_count, event->dropped, n_drop, fresh);
    grew.delta = after->delta;
    grew.delta_values = after->delta_values;
    grew.m = after->m;
    grew.v = after->v;
    grew.age = after->age;
    /* DROP-002: a dropped position has its base value again, because the base was never changed */
    grew.delta_count = seft_without(before->delta, before->delta_count, event->dropped, n_drop, delta);
    grew.delta_count =
        seft_union(delta, grew.delta_count, event->grown, event->grown_count, delta + before->delta_count);
    if (!OF(move)(before, delta + before->delta_count, grew.delta_count, &grew, error))
        return 0;
    event->pruned_count = 0;
    /* EVT-008 */
    if (adapts && !OF(seft_adapt)(&grew, fresh, fresh_count, gradient, budget, event->pruned, &event->pruned_count,
                                  error))
        return 0;
    OF(keep)(before, event->pruned, event->pruned_count, after);
    grew.delta_count = seft_without(grew.delta, grew.delta_count, event->pruned, event->pruned_count, delta);
    return OF(move)(before, delta, grew.delta_count, after, error);
}

int OF(seft_evolve)(const OF(matrix) * before, const REAL *gradient, int64_t n_drop, int64_t delta_budget,
                    int64_t budget, seft_scope scope, int adapts, OF(matrix) * after, seft_event *event,
                    seft_error *error)
{
    int64_t all = before->out * before->in;
    int64_t *delta = (int64_t *)room(2 * before->delta_count + all, sizeof *delta, error);
    int64_t *fresh = (int64_t *)room(all, sizeof *fresh, error);
    int done = delta && fresh &&
               OF(change)(before, gradient, n_drop, delta_budget, budget, scope, adapts, delta, fresh, after, event,
                          error);
    after->out = before->out;
    after->in = before->in;
    free(delta);
    free(fresh);
    return done;
}

#endif
