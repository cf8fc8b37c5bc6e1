/* Operations of the protocol on numbers alone, and on index arrays. */
#include "call.h"

#include <math.h>
#include <string.h>

static void rng_draws(call *c)
{
    array words = call_array(c, "words");
    int64_t count, i, *numbers = call_integers(c, "numbers", &count);
    uint64_t *draws = (uint64_t *)call_room(c, count, sizeof *draws), key;
    if (!c->failed && (words.type != U64 || words.dims != 1))
        call_fail(c, "the input words is no vector of u64");
    if (c->failed)
        return;
    key = seft_key((const uint64_t *)words.at, words.count);
    for (i = 0; i < count; i++)
        draws[i] = seft_draw(key, (uint64_t)numbers[i]);
    call_put_array(c, "draws", U64, draws, count);
}

static void topology_positions(call *c)
{
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), pointers, columns, *positions;
    int64_t *indptr = call_integers(c, "indptr", &pointers), *indices = call_integers(c, "indices", &columns);
    seft_topology topology;
    positions = (int64_t *)call_room(c, columns, sizeof *positions);
    if (c->failed ||
        !call_did(c, seft_topology_check(out, in, indptr, pointers, indices, columns, &c->error)))
        return;
    topology.out = out;
    topology.in = in;
    topology.nnz = columns;
    topology.indptr = indptr;
    topology.indices = indices;
    seft_flat(&topology, positions);
    call_put_array(c, "positions", I64, positions, columns);
}

static void topology_of(call *c)
{
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), count;
    int64_t *positions = call_positions(c, "positions", out, in, &count);
    int64_t *indptr = (int64_t *)call_room(c, out + 1, sizeof *indptr);
    int64_t *indices = (int64_t *)call_room(c, count, sizeof *indices);
    if (call_has(c, "pattern")) {
        int64_t sides, *pattern = call_integers(c, "pattern", &sides);
        if (!c->failed && (sides != 2 || pattern[0] < 1 || pattern[1] < 1))
            call_fail(c, "`pattern` is no pair of positive integers");
        if (!c->failed)
            call_did(c, seft_groups_check(in, positions, count, pattern[0], pattern[1], &c->error));
    }
    if (c->failed)
        return;
    seft_rows_of(out, in, positions, count, indptr, indices);
    call_put_array(c, "indptr", I64, indptr, out + 1);
    call_put_array(c, "indices", I64, indices, count);
}

static void change_source(call *c)
{
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), old_count, new_count;
    int64_t *old = call_positions(c, "old", out, in, &old_count), *new_ = call_positions(c, "new", out, in, &new_count);
    int64_t *source = (int64_t *)call_room(c, new_count, sizeof *source);
    if (c->failed)
        return;
    seft_change(old, old_count, new_, new_count, source);
    call_put_array(c, "source", I64, source, new_count);
}

static void initial_random(call *c)
{
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), count, n = call_integer(c, "n");
    int64_t *base = call_positions(c, "base", out, in, &count), *chosen;
    uint64_t seed = call_seed(c), matrix = call_word(c, "matrix");
    chosen = (int64_t *)call_room(c, count, sizeof *chosen);
    if (!c->failed && call_did(c, seft_initial_random(base, count, n, seed, matrix, chosen, &c->error)))
        call_put_array(c, "positions", I64, chosen, n);
}

static void count_budget(call *c)
{
    double density = call_number(c, "density");
    int64_t out = call_side(c, "out"), in = call_side(c, "in"), stored = call_integer(c, "stored"), n;
    if (!c->failed && call_did(c, seft_budget(density, out, in, stored, &n, &c->error)))
        call_put_integer(c, "n", n);
}

static double fraction(call *c)
{
    double drop_fraction = call_number(c, "drop_fraction");
    int64_t step = call_integer(c, "step"), steps = call_integer(c, "steps");
    if (!c->failed && steps < 1)
        call_fail(c, "a run has steps");
    return c->failed ? 0 : seft_drop_fraction(drop_fraction, step, steps);
}

static void count_drop(call *c)
{
    double rate = fraction(c);
    int64_t slots = call_integer(c, "slots"), n;
    if (!c->failed && call_did(c, seft_drop_count(rate, slots, &n, &c->error)))
        call_put_integer(c, "n", n);
}

static void schedule_fraction(call *c)
{
    double rate = fraction(c);
    if (!c->failed)
        call_put_number(c, "value", rate);
}

static void schedule_events(call *c)
{
    int64_t steps = call_integer(c, "steps"), every = call_integer(c, "evolve_every"), t, count = 0, *at;
    if (!c->failed && (every < 1 || steps < 0))
        call_fail(c, "steps and evolve_every are no schedule");
    at = (int64_t *)call_room(c, c->failed ? 0 : steps / every, sizeof *at);
    if (c->failed)
        return;
    for (t = every; t <= steps; t += every)
        if (seft_is_event(t, steps, every))
            at[count++] = t;
    call_put_array(c, "at", I64, at, count);
}

static void learning_rate(call *c)
{
    static const char *const kinds[] = {"constant", "linear", "cosine"};
    const json *kind = json_member(c->tree, c->in, "kind");
    double lr = call_number(c, "lr");
    int64_t step = call_integer(c, "step"), steps = call_integer(c, "steps"), warmup = call_integer(c, "warmup");
    int i;
    for (i = 0; i < 3 && !json_is(kind, kinds[i]);)
        i++;
    if (i == 3)
        call_refuse(c, "SCH-004", "a schedule is constant, linear or cosine");
    if (step < 1)
        call_fail(c, "the first step is 1");
    if (!c->failed)
        call_put_number(c, "value", seft_learning_rate((seft_rate)i, lr, step, steps, warmup));
}

static void adamw_clip(call *c)
{
    double norm = call_number(c, "norm"), most = call_number(c, "max_norm");
    if (!c->failed)
        call_put_number(c, "factor", seft_clip_factor(norm, most));
}

const operation number_operations[] = {{"rng.draws", {rng_draws, rng_draws}},
                                       {"topology.positions", {topology_positions, topology_positions}},
                                       {"topology.of", {topology_of, topology_of}},
                                       {"change.source", {change_source, change_source}},
                                       {"delta.initial_random", {initial_random, initial_random}},
                                       {"count.budget", {count_budget, count_budget}},
                                       {"count.drop", {count_drop, count_drop}},
                                       {"schedule.fraction", {schedule_fraction, schedule_fraction}},
                                       {"schedule.events", {schedule_events, schedule_events}},
                                       {"schedule.learning_rate", {learning_rate, learning_rate}},
                                       {"adamw.clip", {adamw_clip, adamw_clip}},
                                       {NULL, {NULL, NULL}}};
