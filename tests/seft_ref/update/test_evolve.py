"""Events against the dictionaries of by_hand: every outcome, every moved bit, every count."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.arrays import array_namespace
from seft_ref.errors import UpdateError
from seft_ref.topology import flat
from seft_ref.update.evolve import evolve, final_adapt, move_delta
from seft_ref.update.grow import snapshot_of
from seft_ref.update.presets import PRESETS, preset_named
from tests.seft_ref.update.by_hand import (
    LIBRARIES,
    RULES,
    Matrix,
    Slot,
    bits,
    event_by_hand,
    library_id,
    listed,
    prune_by_hand,
)

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
SHAPE = (5, 7)
N = 35
LEVELS = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0])
SLOTS = st.builds(Slot, LEVELS, LEVELS, st.sampled_from([0.0, 0.25, 4.0]), st.integers(0, 9))


def run(library, matrix, gradient, *, scope="anywhere", **counts):
    """The engine's event."""
    base, delta = matrix.arrays(library)
    xp = array_namespace(library.like)
    n = counts["n_drop"] + counts["delta_budget"] - len(matrix.slots)
    whole = xp.reshape(library.floats(gradient), matrix.shape)
    snapshot = snapshot_of(whole, flat(base.topology), flat(delta.topology), n, scope)
    return evolve(base, delta, snapshot, **counts)


def agree(library, event, before, expected):
    """Whether the event is the expected one: positions, sources, and all arrays bit for bit."""
    for name in ("dropped", "grown", "cancelled", "pruned"):
        assert listed(getattr(event, name)) == getattr(expected, name), name
    after = expected.after
    eta, stored = sorted(after.slots), sorted(after.base)
    assert listed(flat(event.base.topology)) == stored
    assert listed(flat(event.delta.topology)) == eta
    base, delta = after.arrays(library)
    assert bits(event.base.values) == bits(base.values)
    for part in ("values", "first_moment", "second_moment", "age"):
        assert bits(getattr(event.delta, part)) == bits(getattr(delta, part)), part
    old_base, old_eta = sorted(before.base), sorted(before.slots)
    fresh = set(expected.grown)
    assert listed(event.base_change.source) == [old_base.index(p) for p in stored]
    assert listed(event.delta_change.source) == [-1 if p in fresh else old_eta.index(p) for p in eta]


@st.composite
def situations(draw, scope="anywhere"):
    """A state that a run can reach, a gradient, an event's counts. Growth in B alone keeps η in B."""
    base = draw(st.dictionaries(st.integers(0, N - 1), LEVELS))
    slots = draw(st.dictionaries(st.integers(0, N - 1), SLOTS))
    if scope == "active":
        slots = {p: slot for p, slot in slots.items() if p in base}
    matrix = Matrix(SHAPE, base, slots)
    budget = draw(st.integers(len(matrix.support()), N))
    counts = {
        "n_drop": draw(st.integers(0, len(slots))),
        "delta_budget": draw(st.integers(len(slots), budget)),
        "budget": budget,
        "adapts": draw(st.sampled_from([True, True, False])),
    }
    return matrix, draw(st.lists(LEVELS, min_size=N, max_size=N)), counts


@libraries
@pytest.mark.parametrize("scope", ["anywhere", "active"])
@RULES
@given(data=st.data())
def test_EVT_001_EVT_006_any_event(library, scope, data):
    matrix, gradient, counts = data.draw(situations(scope))
    event = run(library, matrix, gradient, scope=scope, **counts)
    agree(library, event, matrix, event_by_hand(matrix, gradient, library.dtype, scope=scope, **counts))


@libraries
def test_EVT_001_worked_example(library):
    matrix = Matrix((1, 4), {0: 5.0, 1: 1.0, 2: 2.0}, {2: Slot(0.5, 0.1, 0.2, 7)})
    event = run(library, matrix, [1, 1, 0.1, 9], n_drop=1, delta_budget=1, budget=3)
    assert [listed(part) for part in (event.dropped, event.grown, event.cancelled, event.pruned)] == [
        [2],
        [3],
        [],
        [2],
    ]
    assert listed(flat(event.base.topology)) == [0, 1]
    assert listed(event.base.values) == [5, 1]
    assert listed(flat(event.delta.topology)) == [3]
    assert [listed(part)[0] for part in (event.delta.values, event.delta.first_moment, event.delta.age)] == [
        0,
        0,
        0,
    ]


@libraries
def test_GROW_003_a_cancelled_pair_keeps_value_moments_and_age(library):
    matrix = Matrix(SHAPE, {3: 1.0}, {3: Slot(0.25, 0.5, 0.125, 9), 4: Slot(8.0, 1.0, 1.0, 3)})
    gradient = [0.0] * N
    gradient[3] = 5.0
    event = run(library, matrix, gradient, n_drop=1, delta_budget=2, budget=2)
    assert [listed(part) for part in (event.dropped, event.grown, event.cancelled)] == [[3], [], [3]]
    assert listed(event.delta_change.source) == [0, 1]
    assert listed(event.delta.values) == [0.25, 8]
    assert listed(event.delta.first_moment) == [0.5, 1]
    assert listed(event.delta.second_moment) == [0.125, 1]
    assert listed(event.delta.age) == [9, 3]


@libraries
def test_ADPT_003_new_slots_are_exempt_and_cancelled_ones_are_not(library):
    # η {0}: dropped and grown back, so it may be pruned; 5 is grown on a pruned position and may not
    matrix = Matrix((1, 6), {1: 3.0, 2: 3.0}, {0: Slot(0.5)})
    event = run(library, matrix, [1.0, 1.0, 1.0, 0, 0, 9.0], n_drop=1, delta_budget=2, budget=3)
    assert [listed(part) for part in (event.grown, event.cancelled, event.pruned)] == [[5], [0], [0]]
    assert listed(flat(event.delta.topology)) == [5]


@libraries
def test_ADPT_003_a_new_slot_on_an_active_base_weight_is_exempt_too(library):
    # 1 has the least sensitivity of all but is a new slot; its base weight stays with it
    matrix = Matrix((1, 4), {0: 2.0, 1: 0.25, 2: 2.0}, {})
    event = run(library, matrix, [0.5, 1.0, 0.5, 9.0], n_drop=0, delta_budget=2, budget=3)
    assert [listed(part) for part in (event.grown, event.pruned)] == [[1, 3], [0]]
    assert listed(flat(event.base.topology)) == [1, 2]


@libraries
def test_ADPT_002_the_sensitivity_is_that_of_base_and_delta_together(library):
    # alone, base 0 is the weakest; with its delta it is the strongest
    matrix = Matrix((1, 4), {0: 0.1, 1: 2.0, 2: 1.0}, {0: Slot(8.0)})
    event = run(library, matrix, [1.0, 1.0, 1.0, 9.0], n_drop=0, delta_budget=2, budget=3)
    assert listed(event.pruned) == [2]
    # and the other way round: a delta that cancels its base makes it the weakest
    matrix = Matrix((1, 4), {0: 8.0, 1: 2.0, 2: 1.0}, {0: Slot(-8.0)})
    event = run(library, matrix, [1.0, 1.0, 1.0, 9.0], n_drop=0, delta_budget=2, budget=3)
    assert listed(event.pruned) == [0]
    assert listed(flat(event.delta.topology)) == [3]


@libraries
def test_ADPT_004_a_pruned_position_that_grows_again_starts_from_zero(library):
    matrix = Matrix((1, 4), {0: 5.0, 1: 1.0, 2: 2.0}, {2: Slot(0.5)})
    first = run(library, matrix, [1, 1, 0.1, 9], n_drop=1, delta_budget=1, budget=3)
    values = dict(zip(listed(flat(first.base.topology)), listed(first.base.values), strict=True))
    now = Matrix((1, 4), values, {3: Slot()})
    second = run(library, now, [1, 1, 9, 0.1], n_drop=1, delta_budget=1, budget=3)
    assert listed(flat(second.delta.topology)) == [2]
    assert listed(second.delta.values) == [0]
    assert 2 not in listed(flat(second.base.topology))


@libraries
def test_GROW_002_growth_refills_what_adaptation_had_taken(library):
    matrix = Matrix(SHAPE, dict.fromkeys(range(10), 1.0), {0: Slot(1.0)})
    event = run(library, matrix, [0.0] * N, n_drop=1, delta_budget=4, budget=10)
    assert event.delta.topology.nnz == 4


@libraries
@pytest.mark.parametrize("ties", [0.0, 1.0])
def test_SEL_001_SEL_002_one_value_everywhere_moves_the_lowest_positions(library, ties):
    shape, stored = (9, 15), range(40, 120)
    matrix = Matrix(shape, dict.fromkeys(stored, 1.0), {p: Slot(0.5) for p in range(40, 110)})
    event = run(library, matrix, [ties] * 135, n_drop=66, delta_budget=70, budget=80)
    assert listed(event.dropped) == list(range(40, 106))
    assert listed(event.cancelled) == list(range(40, 66))
    assert listed(event.grown) == list(range(40))
    # S gained 0..39: 40 positions of 40..119 must go, those with the smallest |g·W|
    strong = set(range(40, 66)) | set(range(106, 110)) if ties else set()
    order = [p for p in range(40, 120) if p not in strong] + sorted(strong)
    assert listed(event.pruned) == sorted(order[:40])


@libraries
@pytest.mark.parametrize("adapts", [True, False])
def test_EVT_001_an_empty_matrix_and_empty_deltas(library, adapts):
    zero = {"n_drop": 0, "delta_budget": 0, "adapts": adapts}
    event = run(library, Matrix(SHAPE, {}), [1.0] * N, budget=0, **zero)
    assert event.base.topology.nnz == event.delta.topology.nnz == 0
    event = run(library, Matrix(SHAPE, {4: 1.0, 20: 2.0}), [1.0] * N, budget=2, **zero)
    assert listed(event.base.values) == [1, 2]
    assert event.delta.topology.nnz == 0


@libraries
def test_GROW_002_a_delta_on_every_stored_position_of_a_full_matrix(library):
    matrix = Matrix((1, 3), {0: 1.0, 1: 2.0, 2: 3.0}, {0: Slot(0.5), 1: Slot(-0.25), 2: Slot(1.0)})
    event = run(library, matrix, [1, 2, 3], n_drop=3, delta_budget=3, budget=3)
    assert listed(event.cancelled) == [0, 1, 2]
    assert listed(event.delta.values) == [0.5, -0.25, 1]


@libraries
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["support_gradient", "candidate_gradient"])
def test_EVT_005_a_snapshot_that_is_not_finite_changes_nothing(library, bad, part):
    from dataclasses import replace

    matrix = Matrix(SHAPE, {3: 1.0, 9: 2.0}, {3: Slot(0.5, 1.0, 1.0, 4)})
    base, delta = matrix.arrays(library)
    xp = array_namespace(library.like)
    whole = xp.reshape(library.floats([1.0] * N), SHAPE)
    good = snapshot_of(whole, flat(base.topology), flat(delta.topology), 2)
    broken = replace(good, **{part: library.floats([*listed(getattr(good, part))[:-1], bad])})
    before = [bits(x) for x in (base.values, delta.values, delta.first_moment, delta.second_moment, delta.age)]
    with pytest.raises(UpdateError) as refused:
        evolve(base, delta, broken, n_drop=1, delta_budget=2, budget=2)
    assert refused.value.clause == "EVT-005"
    after = [bits(x) for x in (base.values, delta.values, delta.first_moment, delta.second_moment, delta.age)]
    assert after == before


@libraries
def test_SEL_005_more_drops_than_slots_is_refused(library):
    with pytest.raises(UpdateError) as refused:
        run(library, Matrix(SHAPE, {3: 1.0}, {3: Slot(1.0)}), [1.0] * N, n_drop=2, delta_budget=1, budget=1)
    assert refused.value.clause == "SEL-005"


@libraries
@RULES
@given(situation=situations(), over=st.integers(0, 12))
def test_EVT_004_the_final_pass_prunes_to_the_budget_with_nothing_exempt(library, situation, over):
    matrix, gradient, _ = situation
    budget = max(0, len(matrix.support()) - over)
    base, delta = matrix.arrays(library)
    whole = array_namespace(library.like).reshape(library.floats(gradient), SHAPE)
    event = final_adapt(base, delta, snapshot_of(whole, flat(base.topology), flat(delta.topology), 0), budget=budget)
    after = Matrix(SHAPE, dict(matrix.base), dict(matrix.slots))
    pruned = prune_by_hand(after, gradient, library.dtype, budget, [])
    assert listed(event.pruned) == pruned
    assert listed(flat(event.base.topology)) == sorted(after.base)
    assert listed(flat(event.delta.topology)) == sorted(after.slots)
    assert len(after.support()) == budget


@libraries
@RULES
@given(slots=st.dictionaries(st.integers(0, N - 1), SLOTS), new=st.sets(st.integers(0, N - 1)))
def test_CHG_002_all_four_arrays_of_a_delta_move_together(library, slots, new):
    _, delta = Matrix(SHAPE, {}, slots).arrays(library)
    _, expected = Matrix(SHAPE, {}, {p: slots.get(p, Slot()) for p in new}).arrays(library)
    moved = move_delta(delta, library.ints(sorted(new)))
    for part in ("values", "first_moment", "second_moment", "age"):
        assert bits(getattr(moved, part)) == bits(getattr(expected, part)), part
        assert getattr(moved, part).dtype == getattr(delta, part).dtype


def persistent_training(*, exempts, events=8):
    """Sizes of the delta and reactivations alive after each event, where the gradient pulls at the pruned."""
    rng = np.random.default_rng(5)
    size, stored = 12 * 17, 60
    base = {int(p): float(x) for p, x in zip(rng.permutation(size)[:stored], rng.normal(size=stored), strict=True)}
    first = set(base)
    pull = rng.normal(size=size) * np.asarray([1.0 if p in base else 4.0 for p in range(size)])
    now = Matrix((12, 17), base, {p: Slot() for p in sorted(base)[::3]})
    sizes, alive = [], []
    for _ in range(events):
        gradient = pull + rng.normal(size=size)
        for p, slot in now.slots.items():
            slot.phi -= 0.1 * gradient[p]
        counts = {"n_drop": len(now.slots) // 5, "delta_budget": 20, "budget": stored, "exempts": exempts}
        outcome = event_by_hand(now, list(gradient), np.float64, **counts)
        assert set(outcome.grown) - set(now.base), "the gradient asks for pruned positions at every event"
        now = outcome.after
        sizes.append(len(now.slots))
        alive.append(len(set(now.slots) - first))
    return sizes, alive


def test_ADPT_003_without_the_exemption_no_reactivation_survives_and_the_delta_decays():
    sizes, alive = persistent_training(exempts=False)
    assert alive == [0] * len(alive)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 20 / 2
    sizes, alive = persistent_training(exempts=True)
    assert min(alive) > 0
    assert min(sizes) > 20 * 3 / 4


def test_EVT_001_presets_are_these_choices():
    assert {name: (p.evolves, p.grow_scope, p.adapts) for name, p in PRESETS.items()} == {
        "seft": (True, "anywhere", True),
        "active-only": (True, "active", True),
        "no-adapt": (True, "anywhere", False),
        "static": (False, "anywhere", True),
    }
    assert preset_named("static") is PRESETS["static"]
