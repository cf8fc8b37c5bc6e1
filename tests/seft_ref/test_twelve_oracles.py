"""Twelve things that must hold of the rules whatever the numbers, each on real runs and beside dictionaries.

The numbers are those of the project's notes on algorithms. Oracle 5, Wanda, is in test_prune.py (PRN-003), oracle 6,
SparseGPT, in test_sparsegpt.py (PRN-010); oracles 7 and 8 concern SPP and LoRA, which are not here. Oracle 4 is in
test_reactivation.py.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from seft_ref.kernels import reference
from seft_ref.matrix.window import Window
from seft_ref.model.weights import assemble, matrix_of
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.gradients import every_gradient, loss_and_gradients
from seft_ref.train.loop import evolve_all, step_batches
from seft_ref.train.settings import settings_of
from seft_ref.update.rules import Rule
from seft_ref.update.schedule import Timetable, spiel_phases
from tests.seft_ref.rule_events import Seen, check_event, hand_event, hand_matrix, same, watch
from tests.seft_ref.rule_runs import (
    TOKENS,
    begin,
    content,
    digest,
    end,
    one_step,
    packed_weights,
    parameters,
    short,
    support_of,
    through_file,
    walk,
)
from tests.seft_ref.update.by_hand import Slot, adamw_by_hand

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def gradients_at(run, weights, step, at):
    """Loss and gradients at the positions of topologies, of a step's data at some weights."""
    return loss_and_gradients(weights, run.config, step_batches(run.settings, TOKENS, step, weights), reference, at)


def model_of(run, matrices, dtype):
    """The model whose targets are the dictionaries, packed afresh."""
    at = {}
    for name, m in matrices.items():
        support = m.support()
        values = np.asarray([m.weight(p) for p in support], dtype=dtype)
        at[name] = from_flat(m.shape, np.asarray(support, dtype=np.int64)), values
    return packed_weights(run.config, parameters(run.config, dtype), at)


def loop_of_adamw(run, dtype, steps):
    """Masked AdamW: the matrices of a run as dictionaries, slot by slot, and the loss, after every step."""
    matrices = {name: hand_matrix(target) for name, target in run.state.targets.items()}
    ages = dict.fromkeys(matrices, 0)
    for step in range(1, steps + 1):
        at = {n: from_flat(m.shape, np.asarray(sorted(m.phi), dtype=np.int64)) for n, m in matrices.items()}
        found = gradients_at(run, model_of(run, matrices, dtype), step, at)
        for name, m in matrices.items():
            ages[name] += 1
            first, second = m.kept["first_moment"], m.kept["second_moment"]
            for p, g in zip(sorted(m.phi), found.at[name], strict=True):
                held = Slot(m.phi[p], first[p], second[p], ages[name] - 1)
                decay = run.settings.optimizer.weight_decay
                new = adamw_by_hand(held, g, run.settings.lr, dtype, decay=decay)
                m.phi[p], first[p], second[p], m.kept["age"][p] = new.phi, new.m, new.v, np.int32(new.age)
        yield matrices, found.loss


@dtypes
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_oracle_1_OPT_001_nothing_dropped_and_nothing_adapted_is_masked_adamw_bit_for_bit(dtype, decay):
    common = {"max_norm": 0.0, "weight_decay": decay, "initial_positions": "random", "steps": 9}
    run = begin(short(drop_fraction=0.0, adapts="never", **common), dtype=dtype)
    beside = loop_of_adamw(begin(run.settings, dtype=dtype), dtype, 9)
    events = 0
    for (_, after, record), (matrices, loss) in zip(walk(run), beside, strict=True):
        assert record.loss == loss
        events += record.event is not None
        for name, target in after.targets.items():
            same(target, matrices[name])
    assert events == 2
    # and so is the preset that has no events
    static = begin(short("static", **common), dtype=dtype)
    *_, (_, after, _) = walk(static)
    assert digest(after) == digest(run.state)


@dtypes
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_oracle_2_a_delta_on_the_whole_base_is_dense_fine_tuning_with_masked_gradients(dtype, decay):
    steps, lr = 10, 0.02
    settings = short(
        "static", budget_by="nnz", density=1.0, steps=steps, lr=lr, max_norm=0.0, weight_decay=decay, micro_batches=2
    )
    run = begin(settings, dtype=dtype)
    assert all(support_of(t) == set(flat(t.delta.topology).tolist()) for t in run.state.targets.values())
    # Wanda's dense_ft: whole matrices; the gradient is zero where the weight was zero before the step
    dense = parameters(run.config, dtype)
    pruned = {}
    for name, base in run.bases.items():
        pruned[name] = np.zeros(base.topology.shape, dtype)
        pruned[name].reshape(-1)[flat(base.topology)] = base.values
    tuned = {name: w.copy() for name, w in pruned.items()}
    m = {name: np.zeros_like(w) for name, w in tuned.items()}
    v = {name: np.zeros_like(w) for name, w in tuned.items()}
    losses = []
    for t in range(1, steps + 1):
        packed = {name: reference.pack_dense(w) for name, w in tuned.items()}
        packed["lm_head.weight"] = reference.pack_dense(dense["lm_head.weight"])
        weights = assemble(run.config, dense, packed)
        loss, whole = every_gradient(weights, run.config, step_batches(settings, TOKENS, t, weights), reference)
        losses.append(loss)
        for name, w in tuned.items():
            g = np.where(w == 0, 0, whole[name])
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            change = (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            # decay pulls to the base, not to zero (OPT-003)
            tuned[name] = (pruned[name] + (w - pruned[name]) * (1 - lr * decay) - lr * change).astype(dtype)
    for _ in walk(run):
        pass
    # AdamW divides a gradient by its own size: where it nearly vanishes its rounding is all there is
    loose = 1e-9 if dtype is np.float64 else 2e-3
    np.testing.assert_allclose([record.loss for record in run.records], losses, rtol=loose)
    for name, (topology, values) in end(run).items():
        assert topology.nnz == run.state.targets[name].budget
        np.testing.assert_allclose(values, tuned[name].reshape(-1)[flat(topology)], rtol=0, atol=loose)
        assert np.count_nonzero(tuned[name]) <= topology.nnz


@pytest.mark.parametrize("seed", [0, 1])
@dtypes
def test_oracle_2_and_is_a_loop_over_slots(dtype, seed):
    settings = short("static", budget_by="nnz", density=1.0, steps=4, max_norm=0.0, seed=seed)
    run = begin(settings, dtype=dtype)
    for (_, after, record), (matrices, loss) in zip(
        walk(run), loop_of_adamw(begin(settings, dtype=dtype), dtype, 4), strict=True
    ):
        assert record.loss == loss
        for name, target in after.targets.items():
            same(target, matrices[name])


@dtypes
@pytest.mark.parametrize(
    "changes",
    [{}, {"drop": "random", "grow": "random"}, {"scope": "row"}, {"scope": "model"}, {"optimizer": "sgd", "lr": 0.5}],
    ids=str,
)
def test_oracle_3_EVT_006_growth_in_the_base_never_leaves_it(changes, dtype, monkeypatch):
    settings = short("active-only", **{"evolve_every": 2, **changes})
    events, run = watch(monkeypatch), begin(settings, dtype=dtype)
    start = {name: support_of(target) for name, target in run.state.targets.items()}
    for _, after, record in walk(run):
        if record.event is not None:
            check_event(events[-1], after, record, settings)
            assert record.event["reactivated"] == record.event["pruned"] == 0
        for name, target in after.targets.items():
            assert support_of(target) <= start[name]
            packed = matrix_of(after.weights, name)
            multiplied = reference.matmul(np.eye(packed.shape[1], dtype=dtype), packed).T
            assert set(np.flatnonzero(multiplied).tolist()) <= start[name]
    assert sum(record.event["grown"] for record in run.records if record.event) > 0
    assert all(set(flat(topology).tolist()) <= start[name] for name, (topology, _) in end(run).items())


@pytest.mark.parametrize("scope", ["group", "matrix"])
@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (3, 5)], ids="{0[0]}:{0[1]}".format)
@pytest.mark.parametrize("seed", [0, 1])
def test_oracle_3_EVT_007_n_of_m_outlives_any_sequence_of_events(pattern, scope, seed, monkeypatch):
    n, width = pattern
    changes = {"scope": "group"} if scope == "group" else {}
    settings = short(
        pattern=pattern, density=0.3 * n / width, evolve_every=1, drop="random", grow="random", adapt="random",
        drop_schedule="constant", seed=seed, steps=8, **changes,
    )  # fmt: skip
    events, run = watch(monkeypatch), begin(settings)
    for _, after, record in walk(run):
        if record.event is not None:
            check_event(events[-1], after, record, settings)
        for target in after.targets.values():
            held = {}
            for p in support_of(target):
                held[p // width] = held.get(p // width, 0) + 1
            assert max(held.values()) <= n
    assert sum(record.event is not None for record in run.records) == 7
    moved = sum(record.event["pruned"] for record in run.records if record.event)
    assert (moved > 0) == (scope == "group")


def spiel_by_its_hooks(total, every, sums):
    """SpIEL's `step` once more: hooks are on at the start and when (c + 1) mod R is 0, which clears; selection is when
    c mod R is A and takes them off.
    """
    on, n, found = True, 0, []
    for c in range(1, total + 1):
        n += on
        if (c + 1) % every == 0:
            on, n = True, 0
        if c % every == sums:
            found.append((c, n))
            on, n = False, 0
    return found


def test_oracle_9_SCH_005_selections_and_sums_of_spiel_are_those_of_its_hooks():
    rule = Rule(events="phases", drop_schedule="linear", first_event="all")
    for every in range(2, 13):
        for sums in range(every - 1):
            for total in (1, every, 3 * every, 41):
                wanted = spiel_by_its_hooks(total, every, sums)
                assert spiel_phases(total, every, sums) == wanted, (every, sums, total)
                table = Timetable(rule, total, every, sums, 0.2)
                events = [s for s in range(1, total + 1) if table.is_event(s)]
                assert events == [c for c, _ in wanted]
                inside = [s for s in range(1, total + 1) if table.in_window(s)]
                assert set(inside) == {s for c, n in wanted for s in range(c - n + 1, c + 1)}
                if events:
                    assert table.fraction(events[0]) == 1.0
                    assert [table.fraction(c) for c in events[1:]] == [0.2 * (1.0 - c / total) for c in events[1:]]
    assert spiel_by_its_hooks(50, 20, 5) == [(5, 5), (25, 6), (45, 6)]


def fresh_slots(before, after):
    """Positions that an event has just brought in: age 0, or absent from the slots before it."""
    for name, target in after.targets.items():
        old = set(flat(before.targets[name].delta.topology).tolist())
        yield name, [p for p in flat(target.delta.topology).tolist() if p not in old]


FIRST_STEP = {
    # −lr · g / (|g| + eps')
    "adamw": lambda g, lr, eps: -lr * g / (abs(g) + eps),
    "spiel-adamw": lambda g, lr, eps: -lr * g / (abs(g) + eps / math.sqrt(1 - 0.999)),
    "sgd": lambda g, lr, eps: -lr * g,
}


@dtypes
@pytest.mark.parametrize("optimizer", ["adamw", "spiel-adamw", "sgd"])
@pytest.mark.parametrize("scope", ["matrix", "row", "model"])
def test_oracle_10_OPT_005_the_first_step_of_a_new_slot_does_not_know_the_number_of_the_step(scope, optimizer, dtype):
    more = {} if optimizer == "sgd" else {"eps": 1e-3}
    settings = short(
        steps=14, evolve_every=3, max_norm=0.0, optimizer=optimizer, scope=scope, lr=0.01, weight_decay=0.2, **more
    )
    run, last, checked = begin(settings, dtype=dtype), None, {}
    for before, after, record in walk(run):
        if last is not None:
            at = {name: target.delta.topology for name, target in before.targets.items()}
            found = gradients_at(run, before.weights, after.step, at)
            for name, fresh in last:
                now = hand_matrix(after.targets[name]).phi if record.event is None else {}
                for p, g in zip(flat(at[name]).tolist(), found.at[name].tolist(), strict=True):
                    if p not in fresh or p not in now:
                        continue
                    # decay: AdamW's and SGD's act on φ = 0, SpIEL's on the new φ
                    late = 1 - 0.01 * 0.2 if optimizer == "spiel-adamw" else 1.0
                    wanted = late * FIRST_STEP[optimizer](g, 0.01, 1e-3)
                    assert now[p] == pytest.approx(wanted, rel=64 * float(np.finfo(dtype).eps), abs=1e-30), (
                        after.step,
                        p,
                    )
                    if optimizer == "adamw":
                        by_hand = adamw_by_hand(Slot(), g, 0.01, dtype, eps=1e-3, decay=0.2)
                        assert now[p] == by_hand.phi
                    checked[after.step] = checked.get(after.step, 0) + 1
        last = list(fresh_slots(before, after)) if record.event is not None else None
    assert sorted(checked)[:3] == [4, 7, 10]


@dtypes
@pytest.mark.parametrize("scope", ["matrix", "row", "model"])
@pytest.mark.parametrize("steps", [1, 3])
def test_oracle_11_SEL_001_with_no_gradient_the_lowest_positions_move(scope, steps, dtype):
    settings = short(
        "sensitivity", scope=scope, gradient_window=steps, initial_positions="magnitude", drop_fraction=0.5
    )
    run = begin(settings, dtype=dtype)
    targets = run.state.targets
    shapes = {name: target.base.topology.shape for name, target in targets.items()}
    zeros = {name: np.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
    windows = {n: Window(shapes[n], settings.rule.asks(), settled_steps=steps, gradient=zeros[n]) for n in zeros}
    given = dict(targets), dict(windows)
    after, _, records = evolve_all(*given, 4, settings, reference)
    assert given == ({}, {})  # so that their memory is free before the last matrix is finished
    matrices = [hand_matrix(target) for target in targets.values()]
    seen = [Seen(mean=z.reshape(-1)) for z in zeros.values()]
    moved = hand_event(matrices, seen, settings, 4, settings.timetable().fraction(4))
    for (name, target), m, did in zip(after.items(), matrices, moved, strict=True):
        same(target, m)
        noted = records[name]
        assert [noted.dropped, noted.grown, noted.pruned] == [len(did.dropped), len(did.grown), len(did.pruned)]
    if scope == "row":
        return
    # in words: all scores are equal, so the first slots leave, the first free positions come, the first weights go
    first = next(iter(targets))
    eta = flat(targets[first].delta.topology).tolist()
    n = math.floor(settings.timetable().fraction(4) * len(eta) + 2.0**-20)
    if scope == "model":
        n = len(eta)  # half of all slots are more than the first matrix has
    assert moved[0].dropped == set(eta[:n])
    free = [p for p in range(shapes[first][0] * shapes[first][1]) if p not in eta[n:]]
    assert moved[0].grown | moved[0].cancelled == set(free[: len(moved[0].grown | moved[0].cancelled)])
    assert len(moved[0].grown) > 0
    # nothing is left to chance: again
    again, _, _ = evolve_all(dict(targets), dict(windows), 4, settings, reference)
    for name, target in again.items():
        assert flat(target.delta.topology).tolist() == flat(after[name].delta.topology).tolist()
        assert flat(target.base.topology).tolist() == flat(after[name].base.topology).tolist()


@dtypes
@pytest.mark.parametrize("preset", ["seft", "spiel-ag"])
def test_oracle_12_TRN_004_a_run_cut_inside_a_window_sums_what_the_whole_one_sums(preset, dtype, tmp_path):
    changes = {"gradient_window": 3} if preset == "seft" else {"gradient_window": 2, "density": 0.2}
    run = begin(short(preset, steps=9, **changes), dtype=dtype)
    sums, cut, whole = {}, {}, {}
    for before, after, _ in walk(run):
        names = list(after.targets)
        windows = {n: Window(t.base.topology.shape) for n, t in before.targets.items()}
        batches = step_batches(run.settings, TOKENS, after.step, before.weights)
        found = loss_and_gradients(before.weights, run.config, batches, reference, {}, windows).kept
        for name in names:
            g = found[name].latest.whole()
            # by hand: position by position, in the order of steps
            sums[name] = (
                [a + b for a, b in zip(sums[name], g.reshape(-1), strict=True)] if before.window else g.reshape(-1)
            )
        if after.window:
            cut[after.step] = through_file(run, after, tmp_path / f"{after.step}.state")
            for name, window in cut[after.step].window.items():
                kept = window if preset == "seft" else window.window
                at = range(len(sums[name])) if preset == "seft" else flat(kept.kept_at()).tolist()
                held = kept.gradient.reshape(-1)
                if preset == "seft":
                    assert held.tolist() == [float(sums[name][p]) for p in at]
                else:
                    # `sample` sums over the rows in another order than the whole product
                    np.testing.assert_allclose(
                        held, [sums[name][p] for p in at], atol=1e-5 if dtype is np.float32 else 1e-12
                    )
        whole[after.step] = digest(after)
    final = content(end(run))
    assert len(cut) >= 2
    for state in cut.values():
        while state.step < run.settings.steps:
            state, _ = one_step(run, state)
            assert digest(state) == whole[state.step]
        run.state = state
        assert content(end(run)) == final


def test_oracle_12_TRN_004_a_window_begun_anew_would_not(tmp_path):
    # what SpIEL does on resuming: the phase starts again
    run = begin(short(gradient_window=4, steps=9))
    states = [after for _, after, _ in walk(run)]
    inside = states[1]
    assert inside.window
    lost = replace(through_file(run, inside, tmp_path / "state"), window={})
    while lost.step < 4:
        lost, _ = one_step(run, lost)
    assert digest(lost) != digest(states[3])


def test_SCH_008_settings_of_the_oracles_are_those_of_the_presets():
    assert settings_of("unprotected").rule == Rule(adapt="token-fisher", exempt="none")
    assert settings_of("literal").rule == Rule(exempt="none", counts="values")
    assert settings_of("no-adapt").rule == Rule(adapt="token-fisher", adapts="end")
    assert settings_of("active-only").rule == Rule(grow_scope="active")
