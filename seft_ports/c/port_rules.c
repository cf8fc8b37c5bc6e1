/* Operations of the protocol on arrays of floats. The file includes itself for double and for float. */
#ifndef REAL

#include "call.h"

#include <string.h>

static seft_topology topology_in(call *c, int64_t out, int64_t in, const int64_t *positions, int64_t count)
{
    seft_topology w;
    int64_t *indptr = (int64_t *)call_room(c, out + 1, sizeof *indptr);
    int64_t *indices = (int64_t *)call_room(c, count, sizeof *indices);
    if (!c->failed)
        seft_rows_of(out, in, positions, count, indptr, indices);
    w.out = out;
    w.in = in;
    w.nnz = count;
    w.indptr = indptr;
    w.indices = indices;
    return w;
}

static seft_topology topology_named(call *c, const char *name, int64_t **positions)
{
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), count;
    *positions = call_positions(c, name, out, in, &count);
    return topology_in(c, out, in, *positions, count);
}

static seft_scope scope_in(call *c)
{
    const json *scope = json_member(c->tree, c->in, "scope");
    if (!json_is(scope, "all") && !json_is(scope, "active"))
        call_fail(c, "the input scope is neither all nor active");
    return json_is(scope, "active") ? SEFT_ACTIVE : SEFT_ANYWHERE;
}

/* KRN-010: `odd` names inputs that must be passed in another dtype. Returns whether the dtypes then agree. */
static int same_dtypes(call *c, const char *const *names)
{
    const json *odd = json_member(c->tree, c->in, "odd"), *first, *one;
    if (!odd || odd->kind == JSON_NULL)
        return 1;
    odd = json_member(c->tree, odd, "dict");
    first = json_member(c->tree, odd, names[0]);
    for (; *names; names++) {
        one = json_member(c->tree, odd, *names);
        if (json_is(one, "int64") || json_is(first, "other") != json_is(one, "other"))
            return call_refuse(c, "KRN-010", "arrays of integers, or of two dtypes");
    }
    return first ? call_fail(c, "all arrays are to come in a dtype that the call has not") : 1;
}

/* KRN-009: x (n, in) and dy (m, out) */
static void sides_fit(call *c, const array *x, const array *dy, int64_t out, int64_t in)
{
    if (!c->failed && (x->shape[1] != in || dy->shape[1] != out))
        call_refuse(c, "KRN-009", "the last axis of x or dy is not a side of the matrix");
}

#define REAL double
#define REAL_TYPE F64
#define OF(name) name##_f64
#include "port_rules.c"
#undef REAL
#undef REAL_TYPE
#undef OF
#define REAL float
#define REAL_TYPE F32
#define OF(name) name##_f32
#include "port_rules.c"

#define BOTH(name) {name##_f64, name##_f32}

const operation rule_operations[] = {{"select.largest", BOTH(select_largest)},
                                     {"select.smallest", BOTH(select_smallest)},
                                     {"change.realign", BOTH(change_realign)},
                                     {"delta.effective", BOTH(delta_effective)},
                                     {"update.drop", BOTH(update_drop)},
                                     {"update.grow", BOTH(update_grow)},
                                     {"update.adapt", BOTH(update_adapt)},
                                     {"update.evolve", BOTH(update_evolve)},
                                     {"adamw.step", BOTH(adamw_step)},
                                     {"kernel.sparse", BOTH(kernel_sparse)},
                                     {"kernel.dense", BOTH(kernel_dense)},
                                     {"kernel.store", BOTH(kernel_store)},
                                     {"kernel.store_dense", BOTH(kernel_store_dense)},
                                     {"kernel.exceeding", BOTH(kernel_exceeding)},
                                     {"gradient.whole", BOTH(gradient_whole)},
                                     {"gradient.at", BOTH(gradient_at)},
                                     {"gradient.candidates", BOTH(gradient_candidates)},
                                     {"prune.pattern", BOTH(prune_pattern)},
                                     {NULL, {NULL, NULL}}};

#else

/* Returns the input scores as doubles, which represent every float exactly. */
static double *OF(scores_in)(call *c, unsigned dims, array *told)
{
    const REAL *given = (const REAL *)call_reals(c, "scores", dims, told);
    double *scores = (double *)call_room(c, told->count, sizeof *scores);
    int64_t i;
    for (i = 0; !c->failed && i < told->count; i++)
        scores[i] = given[i];
    return scores;
}

typedef int (*OF(selection))(const double *, const int64_t *, int64_t, int64_t, int64_t *, seft_error *);

static void OF(select)(call *c, OF(selection) selection)
{
    array told;
    double *scores = OF(scores_in)(c, 1, &told);
    int64_t count, *ids = call_integers(c, "ids", &count), k = call_integer(c, "k");
    int64_t *chosen = (int64_t *)call_room(c, count, sizeof *chosen);
    if (!c->failed && count != told.count)
        call_fail(c, "there are not as many ids as scores");
    if (!c->failed && call_did(c, selection(scores, ids, count, k, chosen, &c->error)))
        call_put_array(c, "chosen", I64, chosen, k);
}

static void OF(select_largest)(call *c)
{
    OF(select)(c, seft_largest);
}

static void OF(select_smallest)(call *c)
{
    OF(select)(c, seft_smallest);
}

static void OF(change_realign)(call *c)
{
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), old_count, new_count;
    int64_t *old = call_positions(c, "old", out, in, &old_count), *new_ = call_positions(c, "new", out, in, &new_count);
    int64_t *source = (int64_t *)call_room(c, new_count, sizeof *source);
    REAL *moved = (REAL *)call_room(c, new_count, sizeof *moved);
    const REAL *values = (const REAL *)call_reals_of(c, "values", old_count);
    REAL fill = (REAL)call_number(c, "fill");
    if (c->failed)
        return;
    seft_change(old, old_count, new_, new_count, source);
    OF(seft_realign)(values, source, new_count, fill, moved);
    call_put_array(c, "values", REAL_TYPE, moved, new_count);
}

/* Returns the matrix that the inputs describe; an array that is not among the inputs stays NULL. */
static OF(seft_matrix) OF(matrix_in)(call *c, int values)
{
    OF(seft_matrix) w;
    memset(&w, 0, sizeof w);
    w.out = call_side(c, "out");
    w.in = call_side(c, "in");
    w.base = call_positions(c, "base", w.out, w.in, &w.base_count);
    w.delta = call_positions(c, "delta", w.out, w.in, &w.delta_count);
    if (values) {
        w.base_values = (REAL *)call_reals_of(c, "base_values", w.base_count);
        w.delta_values = (REAL *)call_reals_of(c, "delta_values", w.delta_count);
    }
    return w;
}

/* Returns the input gradient, which must have the shape of the matrix. */
static const REAL *OF(gradient_in)(call *c, int64_t out, int64_t in)
{
    array told;
    const REAL *gradient = (const REAL *)call_reals(c, "gradient", 2, &told);
    if (!c->failed && (told.shape[0] != out || told.shape[1] != in))
        call_fail(c, "the gradient has not the shape of the matrix");
    return gradient;
}

static void OF(put_effective)(call *c, const OF(seft_matrix) * w)
{
    int64_t most = w->base_count + w->delta_count, *support = (int64_t *)call_room(c, most, sizeof *support);
    REAL *weights = (REAL *)call_room(c, most, sizeof *weights);
    if (c->failed)
        return;
    most = OF(seft_effective)(w, support, weights);
    call_put_array(c, "support", I64, support, most);
    call_put_array(c, "weights", REAL_TYPE, weights, most);
}

static void OF(delta_effective)(call *c)
{
    OF(seft_matrix) w = OF(matrix_in)(c, 1);
    OF(put_effective)(c, &w);
}

static void OF(update_drop)(call *c)
{
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), n = call_integer(c, "n"), count;
    int64_t *delta = call_positions(c, "delta", out, in, &count);
    int64_t *dropped = (int64_t *)call_room(c, count, sizeof *dropped);
    const REAL *values = (const REAL *)call_reals_of(c, "delta_values", count);
    if (!c->failed && call_did(c, OF(seft_drop)(delta, values, count, n, dropped, &c->error)))
        call_put_array(c, "dropped", I64, dropped, n);
}

static void OF(update_grow)(call *c)
{
    OF(seft_matrix) w = OF(matrix_in)(c, 0);
    const REAL *gradient = OF(gradient_in)(c, w.out, w.in);
    int64_t dropped_count, count, *dropped = call_positions(c, "dropped", w.out, w.in, &dropped_count);
    int64_t n = call_integer(c, "n"), *grown;
    seft_scope scope = scope_in(c);
    grown = (int64_t *)call_room(c, c->failed ? 0 : w.out * w.in, sizeof *grown);
    if (!c->failed && call_did(c, OF(seft_grow)(&w, dropped, dropped_count, gradient, n, scope, grown, &count,
                                                &c->error)))
        call_put_array(c, "grown", I64, grown, count);
}

static void OF(update_adapt)(call *c)
{
    OF(seft_matrix) w = OF(matrix_in)(c, 1);
    const REAL *gradient = OF(gradient_in)(c, w.out, w.in);
    int64_t budget = call_integer(c, "budget"), count;
    int64_t *pruned = (int64_t *)call_room(c, w.base_count + w.delta_count, sizeof *pruned);
    /* EVT-004: nothing is exempt */
    if (!c->failed && call_did(c, OF(seft_adapt)(&w, NULL, 0, gradient, budget, pruned, &count, &c->error)))
        call_put_array(c, "pruned", I64, pruned, count);
}

static void OF(update_evolve)(call *c)
{
    OF(seft_matrix) w = OF(matrix_in)(c, 1), after = w;
    const REAL *gradient = OF(gradient_in)(c, w.out, w.in);
    int64_t n_drop = call_integer(c, "n_drop"), delta_budget = call_integer(c, "delta_budget"), ages, most = 0;
    int64_t budget = call_integer(c, "budget"), adapts = call_integer(c, "adapts"), all = c->failed ? 0 : w.out * w.in;
    seft_scope scope = scope_in(c);
    seft_event event;
    memset(&event, 0, sizeof event);
    w.m = (REAL *)call_reals_of(c, "m", w.delta_count);
    w.v = (REAL *)call_reals_of(c, "v", w.delta_count);
    w.age = call_integers(c, "age", &ages);
    if (!c->failed && ages != w.delta_count)
        call_fail(c, "there are not as many ages as slots");
    most = delta_budget < all ? delta_budget : all;
    most = most > w.delta_count ? most : w.delta_count;
    after.base = (int64_t *)call_room(c, w.base_count, sizeof *after.base);
    after.base_values = (REAL *)call_room(c, w.base_count, sizeof *after.base_values);
    after.delta = (int64_t *)call_room(c, most, sizeof *after.delta);
    after.delta_values = (REAL *)call_room(c, most, sizeof *after.delta_values);
    after.m = (REAL *)call_room(c, most, sizeof *after.m);
    after.v = (REAL *)call_room(c, most, sizeof *after.v);
    after.age = (int64_t *)call_room(c, most, sizeof *after.age);
    event.dropped = (int64_t *)call_room(c, w.delta_count, sizeof *event.dropped);
    event.grown = (int64_t *)call_room(c, all, sizeof *event.grown);
    event.pruned = (int64_t *)call_room(c, w.base_count + all, sizeof *event.pruned);
    if (c->failed || !call_did(c, OF(seft_evolve)(&w, gradient, n_drop, delta_budget, budget, scope, adapts != 0,
                                                  &after, &event, &c->error)))
        return;
    call_put_array(c, "base", I64, after.base, after.base_count);
    call_put_array(c, "base_values", REAL_TYPE, after.base_values, after.base_count);
    call_put_array(c, "delta", I64, after.delta, after.delta_count);
    call_put_array(c, "delta_values", REAL_TYPE, after.delta_values, after.delta_count);
    call_put_array(c, "m", REAL_TYPE, after.m, after.delta_count);
    call_put_array(c, "v", REAL_TYPE, after.v, after.delta_count);
    call_put_array(c, "age", I64, after.age, after.delta_count);
    OF(put_effective)(c, &after);
}

static void OF(adamw_step)(call *c)
{
    array told;
    REAL *values = (REAL *)call_reals(c, "values", 1, &told);
    int64_t n = told.count, ages, *age = call_integers(c, "age", &ages);
    REAL *m = (REAL *)call_reals_of(c, "m", n), *v = (REAL *)call_reals_of(c, "v", n);
    const REAL *gradient = (const REAL *)call_reals_of(c, "gradient", n);
    double lr = call_number(c, "lr");
    seft_adamw adamw = seft_adamw_defaults;
    if (call_has(c, "beta1"))
        adamw.beta1 = call_number(c, "beta1");
    if (call_has(c, "beta2"))
        adamw.beta2 = call_number(c, "beta2");
    if (call_has(c, "eps"))
        adamw.eps = call_number(c, "eps");
    if (call_has(c, "weight_decay"))
        adamw.weight_decay = call_number(c, "weight_decay");
    if (!c->failed && ages != n)
        call_fail(c, "there are not as many ages as slots");
    if (c->failed)
        return;
    OF(seft_adamw_step)(&adamw, lr, n, gradient, values, m, v, age);
    call_put_array(c, "values", REAL_TYPE, values, n);
    call_put_array(c, "m", REAL_TYPE, m, n);
    call_put_array(c, "v", REAL_TYPE, v, n);
    call_put_array(c, "age", I64, age, n);
}

static void OF(put_shape)(call *c, int64_t out, int64_t in)
{
    int64_t shape[2];
    shape[0] = out;
    shape[1] = in;
    call_put_array(c, "shape", I64, shape, 2);
}

/* KRN-011: a matrix with at most two of every four columns is multiplied group by group, which gives equal results. */
static void OF(products)(call *c, const seft_topology *w, const int64_t *positions, const REAL *values, const array *x,
                         const array *dy)
{
    REAL *y = (REAL *)call_room(c, x->shape[0], (size_t)w->out * sizeof *y + 1);
    REAL *dx = (REAL *)call_room(c, dy->shape[0], (size_t)w->in * sizeof *dx + 1);
    seft_groups groups;
    uint64_t *masks = NULL;
    groups.out = w->out;
    groups.in = w->in;
    groups.m = 4;
    if (w->in % 4 == 0)
        masks = (uint64_t *)call_room(c, w->in / 4, (size_t)w->out * sizeof *masks + 1);
    if (c->failed)
        return;
    groups.masks = masks;
    if (masks && seft_groups_of(w->out, w->in, 2, 4, positions, w->nnz, masks, NULL)) {
        OF(seft_group_matmul)(x->shape[0], (const REAL *)x->at, &groups, values, y);
        call_did(c, OF(seft_group_matmul_transposed)(dy->shape[0], (const REAL *)dy->at, &groups, values, dx,
                                                     &c->error));
    } else {
        OF(seft_matmul)(x->shape[0], (const REAL *)x->at, w, values, y);
        call_did(c, OF(seft_matmul_transposed)(dy->shape[0], (const REAL *)dy->at, w, values, dx, &c->error));
    }
    if (c->failed)
        return;
    call_put_matrix(c, "y", REAL_TYPE, y, x->shape[0], w->out);
    call_put_matrix(c, "dx", REAL_TYPE, dx, dy->shape[0], w->in);
    OF(put_shape)(c, w->out, w->in);
}

static void OF(kernel_sparse)(call *c)
{
    static const char *const operands[] = {"values", "x", "dy", NULL};
    array x, dy, values;
    int64_t *positions;
    REAL *gradient;
    seft_topology w = topology_named(c, "positions", &positions);
    call_operand(c, "x", 2, &x);
    call_operand(c, "dy", 2, &dy);
    call_operand(c, "values", 1, &values);
    gradient = (REAL *)call_room(c, w.nnz, sizeof *gradient);
    if (c->failed || !same_dtypes(c, operands))
        return;
    /* KRN-009 */
    if (values.count != w.nnz || x.shape[0] != dy.shape[0])
        call_refuse(c, "KRN-009", "there are not as many values as slots, or x and dy have different rows");
    sides_fit(c, &x, &dy, w.out, w.in);
    if (!c->failed)
        OF(products)(c, &w, positions, (const REAL *)values.at, &x, &dy);
    if (c->failed)
        return;
    OF(seft_sample)(x.shape[0], (const REAL *)dy.at, (const REAL *)x.at, &w, gradient);
    call_put_array(c, "dvalues", REAL_TYPE, gradient, w.nnz);
}

/* KRN-011, pack_dense: returns the topology of all positions of a matrix, in row-major order. */
static seft_topology OF(full)(call *c, const array *weight, int64_t **positions)
{
    int64_t i;
    *positions = (int64_t *)call_room(c, weight->count, sizeof **positions);
    for (i = 0; !c->failed && i < weight->count; i++)
        (*positions)[i] = i;
    return topology_in(c, c->failed ? 0 : weight->shape[0], c->failed ? 0 : weight->shape[1], *positions,
                       c->failed ? 0 : weight->count);
}

static void OF(kernel_dense)(call *c)
{
    static const char *const operands[] = {"weight", "x", "dy", NULL};
    array x, dy, weight;
    int64_t *positions;
    seft_topology w;
    call_operand(c, "x", 2, &x);
    call_operand(c, "dy", 2, &dy);
    call_operand(c, "weight", 2, &weight);
    if (c->failed || !same_dtypes(c, operands))
        return;
    w = OF(full)(c, &weight, &positions);
    sides_fit(c, &x, &dy, w.out, w.in);
    if (!c->failed)
        OF(products)(c, &w, positions, (const REAL *)weight.at, &x, &dy);
}

static void OF(put_product)(call *c, const seft_topology *w, const REAL *values)
{
    array x;
    REAL *y;
    call_operand(c, "x", 2, &x);
    if (!c->failed && x.shape[1] != w->in)
        call_refuse(c, "KRN-009", "the last axis of x is not a side of the matrix");
    y = (REAL *)call_room(c, c->failed ? 0 : x.shape[0], (size_t)w->out * sizeof *y + 1);
    if (c->failed)
        return;
    OF(seft_matmul)(x.shape[0], (const REAL *)x.at, w, values, y);
    call_put_matrix(c, "y", REAL_TYPE, y, x.shape[0], w->out);
}

/* Returns the values of the input new, and sets `slots` to the input slots. */
static const REAL *OF(new_in)(call *c, int64_t **slots, int64_t *count)
{
    array told;
    const REAL *new_ = (const REAL *)call_operand(c, "new", 1, &told);
    *slots = call_integers(c, "slots", count);
    if (!c->failed && told.count != *count)
        call_refuse(c, "KRN-009", "there are not as many new values as slots");
    return new_;
}

static void OF(kernel_store)(call *c)
{
    int64_t *positions, *slots, count;
    seft_topology w = topology_named(c, "positions", &positions);
    REAL *values = (REAL *)call_reals_of(c, "values", w.nnz);
    const REAL *new_ = OF(new_in)(c, &slots, &count);
    if (!c->failed && call_did(c, OF(seft_store)(values, w.nnz, slots, count, new_, &c->error)))
        OF(put_product)(c, &w, values);
}

static void OF(kernel_store_dense)(call *c)
{
    array weight;
    int64_t *positions, *all, *slots, count, i;
    const REAL *new_ = OF(new_in)(c, &slots, &count);
    seft_topology stored = topology_named(c, "positions", &positions), w;
    call_operand(c, "weight", 2, &weight);
    if (c->failed)
        return;
    if (weight.shape[0] != stored.out || weight.shape[1] != stored.in)
        call_refuse(c, "KRN-009", "the topology is of another matrix");
    w = OF(full)(c, &weight, &all);
    /* KRN-012: a slot of a dense matrix is its flat position */
    for (i = 0; !c->failed && i < count; i++) {
        if (slots[i] < 0 || slots[i] >= stored.nnz)
            call_refuse(c, "KRN-012", "a slot is out of range");
        else
            slots[i] = positions[slots[i]];
    }
    if (!c->failed && call_did(c, OF(seft_store)((REAL *)weight.at, w.nnz, slots, count, new_, &c->error)))
        OF(put_product)(c, &w, (const REAL *)weight.at);
}

static void OF(kernel_exceeding)(call *c)
{
    array values;
    REAL least = (REAL)call_number(c, "least");
    int64_t *indices;
    call_operand(c, "values", 1, &values);
    indices = (int64_t *)call_room(c, values.count, sizeof *indices);
    if (!c->failed)
        call_put_array(c, "indices", I64, indices,
                       OF(seft_exceeding)((const REAL *)values.at, values.count, least, indices));
}

static void OF(gradient_whole)(call *c)
{
    array x, dy;
    const REAL *xs = (const REAL *)call_operand(c, "x", 2, &x), *dys = (const REAL *)call_operand(c, "dy", 2, &dy);
    REAL *gradient;
    if (!c->failed && x.shape[0] != dy.shape[0])
        call_refuse(c, "KRN-009", "x and dy have different rows");
    gradient = (REAL *)call_room(c, dy.shape[1], (size_t)x.shape[1] * sizeof *gradient + 1);
    if (c->failed)
        return;
    OF(seft_gradient)(dy.shape[1], x.shape[1], 1, &x.shape[0], &dys, &xs, 1, gradient);
    call_put_matrix(c, "gradient", REAL_TYPE, gradient, dy.shape[1], x.shape[1]);
}

static void OF(gradient_at)(call *c)
{
    array x, dy;
    int64_t *positions;
    seft_topology w = topology_named(c, "positions", &positions);
    REAL *gradient = (REAL *)call_room(c, w.nnz, sizeof *gradient);
    call_operand(c, "x", 2, &x);
    call_operand(c, "dy", 2, &dy);
    sides_fit(c, &x, &dy, w.out, w.in);
    if (!c->failed && x.shape[0] != dy.shape[0])
        call_refuse(c, "KRN-009", "x and dy have different rows");
    if (c->failed)
        return;
    OF(seft_sample)(x.shape[0], (const REAL *)dy.at, (const REAL *)x.at, &w, gradient);
    call_put_array(c, "values", REAL_TYPE, gradient, w.nnz);
}

/* Reads the micro-batches of an input: returns their number, and gets the rows and entries of each. */
static int64_t OF(batches_in)(call *c, const char *name, int64_t side, int64_t **rows, const REAL ***entries)
{
    const json *list = json_member(c->tree, c->in, name), *one;
    int64_t count = 0;
    for (one = json_first(c->tree, list); one; one = json_next(c->tree, one))
        count++;
    *rows = (int64_t *)call_room(c, count, sizeof **rows);
    *entries = (const REAL **)call_room(c, count, sizeof **entries);
    count = 0;
    for (one = json_first(c->tree, list); !c->failed && one; one = json_next(c->tree, one)) {
        array told = call_value(c, one, name);
        if (!c->failed && (told.type != REAL_TYPE || told.dims != 2 || told.shape[1] != side))
            call_fail(c, "the input %s holds no matrices of the call's dtype", name);
        (*entries)[count] = (const REAL *)told.at;
        (*rows)[count++] = told.shape[0];
    }
    if (!list || list->kind != JSON_LIST)
        call_fail(c, "the input %s is no list", name);
    return c->failed ? 0 : count;
}

static void OF(gradient_candidates)(call *c)
{
    OF(seft_matrix) w = OF(matrix_in)(c, 0);
    int64_t steps = call_integer(c, "steps"), n = call_integer(c, "n"), all = c->failed ? 0 : w.out * w.in;
    int64_t *x_rows, *dy_rows, *found, count, i;
    const REAL **x, **dy;
    int64_t batches = OF(batches_in)(c, "x", w.in, &x_rows, &x), others = OF(batches_in)(c, "dy", w.out, &dy_rows, &dy);
    REAL *gradient = (REAL *)call_room(c, all, sizeof *gradient), *values = (REAL *)call_room(c, all, sizeof *values);
    seft_scope scope = scope_in(c);
    found = (int64_t *)call_room(c, all, sizeof *found);
    for (i = 0; !c->failed && i < batches; i++)
        if (batches != others || x_rows[i] != dy_rows[i])
            call_fail(c, "x and dy are not of the same micro-batches");
    if (!c->failed && steps < 1)
        call_fail(c, "a window has steps");
    if (c->failed)
        return;
    OF(seft_gradient)(w.out, w.in, batches, x_rows, dy, x, steps, gradient);
    if (!call_did(c, OF(seft_grow)(&w, NULL, 0, gradient, n, scope, found, &count, &c->error)))
        return;
    for (i = 0; i < count; i++)
        values[i] = gradient[found[i]];
    call_put_array(c, "candidates", I64, found, count);
    call_put_array(c, "values", REAL_TYPE, values, count);
}

static void OF(prune_pattern)(call *c)
{
    array told;
    double *scores = OF(scores_in)(c, 2, &told);
    int64_t n = call_integer(c, "n"), m = call_integer(c, "m"), *kept;
    kept = (int64_t *)call_room(c, told.count, sizeof *kept);
    if (!c->failed && call_did(c, seft_keep_n_of_m(told.shape[0], told.shape[1], scores, n, m, kept, &c->error)))
        call_put_array(c, "kept", I64, kept, told.count / m * n);
}

#endif
