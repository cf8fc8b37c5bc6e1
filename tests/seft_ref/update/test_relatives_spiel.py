"""The preset `spiel-ag` against SpIEL's own selection, in loops written from notes on its source."""

import numpy as np
import pytest

from seft_ref.errors import ConfigError
from seft_ref.kernels import reference
from seft_ref.matrix.window import Window
from seft_ref.topology.csr import flat
from seft_ref.train.gradients import loss_and_gradients
from seft_ref.train.loop import step_batches
from seft_ref.train.settings import settings_of
from tests.seft_ref.rule_events import watch
from tests.seft_ref.rule_runs import TOKENS, begin, short, walk


def whole_gradients(run, state):
    """The gradient of every target at the next step's data, flat."""
    windows = {n: Window(t.base.topology.shape) for n, t in state.targets.items()}
    batches = step_batches(run.settings, TOKENS, state.step + 1, state.weights)
    kept = loss_and_gradients(state.weights, run.config, batches, reference, {}, windows).kept
    return {n: w.latest.whole().reshape(-1) for n, w in kept.items()}


def spiel_selection(phi, steps, rate):
    """SpIEL's `select_rigl` on one matrix {position: value} and the gradients of the steps of its phase: the positions
    that leave and those that come, and of these mean g and mean g².
    """
    k, samples = len(phi), len(steps)
    candidates = sorted(range(len(steps[0])), key=lambda p: (-abs(steps[0][p]), p))[:k]
    total = {p: sum(float(g[p]) for g in steps) for p in candidates}
    square = {p: sum(float(g[p]) ** 2 for g in steps) for p in candidates}
    outgoing = sorted(phi, key=lambda p: (abs(phi[p]), p))[: int(k * rate + 2.0**-20)]
    valid = [p for p in candidates if p not in phi or p in outgoing]
    incoming = sorted(valid, key=lambda p: (-abs(total[p]), p))[: len(outgoing)]
    come = [p for p in incoming if p not in outgoing]
    # fewer may come than leave: only those of the smallest values make room
    gone = [p for p in outgoing if p not in incoming][: len(come)]
    return gone, {p: (total[p] / samples, square[p] / samples) for p in come}, candidates


def spiel_run(monkeypatch, density):
    """A run of the preset: for each event the state after it, its record, the matrices as it met them, and the whole
    gradients of the steps of its phase.
    """
    settings = settings_of("spiel-ag", steps=50, batch=3, length=9, lr=0.02, density=density)
    assert (settings.evolve_every, settings.gradient_window, settings.max_norm) == (20, 5, 0)
    events, phase, found, windows = watch(monkeypatch), [], [], {}
    run = begin(settings, dtype=np.float64)
    for before, after, record in walk(run):
        # SpIEL's own words: hooks are on at the start and when (c + 1) mod R is 0, until c mod R is A
        if phase or before.step == 0 or (before.step + 1) % 20 == 0:
            phase.append(whole_gradients(run, before))
        windows[after.step] = {w.steps for w in after.window.values()}
        if after.step % 20 == 5:
            found.append((after, record, events[-1].matrices, phase))
            phase = []
    assert len(events) == len(found)
    return found, windows


def rate_at(step):
    return 1.0 if step == 5 else 0.2 * (1 - step / 50)


def test_SCH_005_SCH_008_a_run_of_spiel_ag_selects_after_5_25_and_45(monkeypatch):
    found, windows = spiel_run(monkeypatch, 0.2)
    assert [(after.step, len(phase)) for after, _, _, phase in found] == [(5, 5), (25, 6), (45, 6)]
    assert {step for step, sizes in windows.items() if sizes} == {*range(1, 5), *range(20, 25), *range(40, 45)}
    assert [windows[s] for s in (1, 4, 20, 24, 40, 44)] == [{1}, {4}, {1}, {5}, {1}, {5}]
    later = 0
    for after, record, matrices, phase in found:
        for (name, target), m in zip(after.targets.items(), matrices, strict=True):
            k = target.delta_budget
            assert len(m.phi) == target.delta.topology.nnz == k
            _, _, candidates = spiel_selection(m.phi, [g[name] for g in phase], 1.0)
            told = record.matrices[name]
            # GROW-006: everything is up for dropping; as many leave as come, and those that come back stay
            assert told.dropped - told.cancelled == told.grown
            if after.step == 5:
                assert told.grown == len(set(candidates) - set(m.phi))
                assert set(flat(target.delta.topology).tolist()) == set(candidates)
            else:
                assert told.dropped <= int(rate_at(after.step) * k + 2.0**-20)
                later += told.dropped
    assert later > 0


def agrees_with_spiel(target, m, steps, rate):
    """Fail unless an event left the slots that SpIEL's selection leaves, and seeded the new ones as it does."""
    gone, come, _ = spiel_selection(m.phi, steps, rate)
    delta = target.delta
    eta = flat(delta.topology).tolist()
    assert eta == sorted((set(m.phi) - set(gone)) | set(come))
    for slot, p in enumerate(eta):
        now = [delta.values[slot], *(delta.kept[n][slot] for n in ("first_moment", "second_moment", "age"))]
        if p not in come:
            assert now == [m.phi[p], *(m.kept[n][p] for n in ("first_moment", "second_moment", "age"))]
            continue
        mean, square = come[p]
        a = len(steps)
        np.testing.assert_allclose(now[:3], [0, mean * (1 - 0.9**a), square * (1 - 0.999**a)], rtol=1e-12)
        assert now[3] == a - 1
    return len(come)


def selections(found):
    for after, _, matrices, phase in found:
        for (name, target), m in zip(after.targets.items(), matrices, strict=True):
            steps = [g[name] for g in phase]
            wanted = int(rate_at(after.step) * len(m.phi) + 2.0**-20)
            _, _, candidates = spiel_selection(m.phi, steps, 1.0)
            yield target, m, steps, rate_at(after.step), len(set(candidates) - set(m.phi)) < wanted


def test_GRD_007_GROW_006_spiel_ag_selects_and_seeds_as_spiel_does_where_candidates_suffice(monkeypatch):
    found, _ = spiel_run(monkeypatch, 0.1)
    done = [
        agrees_with_spiel(target, m, steps, rate) for target, m, steps, rate, scarce in selections(found) if not scarce
    ]
    assert len(done) > 10
    assert sum(done) > 8


def test_GROW_006_spiel_ag_selects_as_spiel_does_where_candidates_lie_in_the_delta(monkeypatch):
    found, _ = spiel_run(monkeypatch, 0.1)
    scarce = [of for of in selections(found) if of[-1]]
    assert scarce
    for target, m, steps, rate, _ in scarce:
        agrees_with_spiel(target, m, steps, rate)


@pytest.mark.parametrize("adapt", ["activation", "curvature"])
def test_EVT_012_first_step_candidates_beside_adaptation_by_inputs_are_refused(adapt):
    with pytest.raises(ConfigError, match="EVT-012"):
        short(candidates="first-step", adapt=adapt, gradient_window=2, steps=5)
