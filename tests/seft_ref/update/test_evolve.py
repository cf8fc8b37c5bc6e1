"""Events against the dictionaries of by_hand: every outcome, every moved bit, every count."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.arrays.library import array_namespace
from seft_ref.errors import SeftError, UpdateError
from seft_ref.topology.csr import flat
from seft_ref.train.settings import settings_of
from seft_ref.update.delta import move_delta
from seft_ref.update.evolve import Part, evolve, final_adapt
from seft_ref.update.presets import PRESETS, preset_named
from seft_ref.update.rules import Rule
from tests.seft_ref.update.by_hand import (
    LIBRARIES,
    PARTS,
    RULES,
    Matrix,
    Slot,
    bits,
    event_by_hand,
    library_id,
    listed,
    part_of,
    prune_by_hand,
)
from tests.seft_ref.update.one_matrix import one_pool
from tests.seft_ref.whole_gradient import evidence_of

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
SHAPE = (5, 7)
N = 35
LEVELS = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0])
SLOTS = st.builds(Slot, LEVELS, LEVELS, st.sampled_from([0.0, 0.25, 4.0]), st.integers(0, 9))


def run(library, matrix, gradient, *, n_drop, delta_budget, budget, more=0, **choices):
    """The engine's event, with as many candidates as may grow and some more, under any choices of a rule."""
    base, delta = matrix.arrays(library)
    xp = array_namespace(library.like)
    n = n_drop + delta_budget - len(matrix.slots) + more
    whole = xp.reshape(library.floats(gradient), matrix.shape)
    rule = Rule(**choices)
    seen = evidence_of(whole, flat(base.topology), flat(delta.topology), n, rule.grow_scope)
    pools = one_pool(whole, budget, delta_budget)
    (event,) = evolve([Part(base, delta, seen)], pools, n_drop=library.ints([n_drop]), rule=rule)
    return event


def by_hand(library, matrix, gradient, *, grow_scope="anywhere", adapts="always", exempt="new", more=0, **counts):
    """The event of the dictionaries under the same choices."""
    choices = {"scope": grow_scope, "adapts": adapts == "always", "exempts": exempt == "new"}
    return event_by_hand(matrix, gradient, library.dtype, **choices, **counts)


def agree(library, event, expected):
    """Whether the event is the expected one: positions, and all arrays bit for bit."""
    for name in ("dropped", "grown", "cancelled", "pruned"):
        assert listed(getattr(event, name)) == getattr(expected, name), name
    after = expected.after
    eta, stored = sorted(after.slots), sorted(after.base)
    assert listed(flat(event.base.topology)) == stored
    assert listed(flat(event.delta.topology)) == eta
    base, delta = after.arrays(library)
    assert bits(event.base.values) == bits(base.values)
    assert set(event.delta.kept) == set(delta.kept)
    for part in PARTS:
        assert bits(part_of(event.delta, part)) == bits(part_of(delta, part)), part


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
        "adapts": draw(st.sampled_from(["always", "always", "end", "never"])),
        "exempt": draw(st.sampled_from(["new", "new", "none"])),
        "more": draw(st.integers(0, 2)),
    }
    return matrix, draw(st.lists(LEVELS, min_size=N, max_size=N)), counts


@libraries
@pytest.mark.parametrize("scope", ["anywhere", "active"])
@RULES
@given(data=st.data())
def test_EVT_001_EVT_006_any_event(library, scope, data):
    matrix, gradient, counts = data.draw(situations(scope))
    event = run(library, matrix, gradient, grow_scope=scope, **counts)
    agree(library, event, by_hand(library, matrix, gradient, grow_scope=scope, **counts))


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
    assert [listed(part_of(event.delta, part)) for part in PARTS] == [[0]] * 4


@libraries
def test_GROW_003_a_cancelled_pair_keeps_value_moments_and_age(library):
    matrix = Matrix(SHAPE, {3: 1.0}, {3: Slot(0.25, 0.5, 0.125, 9), 4: Slot(8.0, 1.0, 1.0, 3)})
    gradient = [0.0] * N
    gradient[3] = 5.0
    event = run(library, matrix, gradient, n_drop=1, delta_budget=2, budget=2)
    assert [listed(part) for part in (event.dropped, event.grown, event.cancelled)] == [[3], [], [3]]
    assert listed(flat(event.delta.topology)) == [3, 4]
    assert listed(event.delta.values) == [0.25, 8]
    assert listed(event.delta.kept["first_moment"]) == [0.5, 1]
    assert listed(event.delta.kept["second_moment"]) == [0.125, 1]
    assert listed(event.delta.kept["age"]) == [9, 3]


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
@pytest.mark.parametrize("adapts", ["always", "end", "never"])
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
@pytest.mark.parametrize("part", ["gradient", "square", "candidate_gradient", "candidate_scores", "candidate_square"])
def test_EVT_005_evidence_that_is_not_finite_changes_nothing(library, bad, part):
    matrix = Matrix(SHAPE, {3: 1.0, 9: 2.0}, {3: Slot(0.5, 1.0, 1.0, 4)})
    base, delta = matrix.arrays(library)
    xp = array_namespace(library.like)
    whole = xp.reshape(library.floats([1.0] * N), SHAPE)
    good = evidence_of(whole, flat(base.topology), flat(delta.topology), 2)
    good = replace(good, square=good.scores, candidate_square=good.candidate_scores)
    broken = replace(good, **{part: library.floats([*listed(getattr(good, part))[:-1], bad])})
    before = [bits(x) for x in (base.values, *(part_of(delta, name) for name in PARTS))]
    pools = one_pool(whole, 2, 2)
    passes = [lambda: evolve([Part(base, delta, broken)], pools, n_drop=library.ints([1]))]
    if not part.startswith("candidate"):
        passes.append(lambda: final_adapt([Part(base, delta, broken)], pools))
    for one in passes:
        with pytest.raises(UpdateError) as refused:
            one()
        # scores are looked at where they are ranked
        assert refused.value.clause == ("SEL-004" if part == "candidate_scores" else "EVT-005")
        assert [bits(x) for x in (base.values, *(part_of(delta, name) for name in PARTS))] == before


@libraries
def test_SEL_005_more_drops_than_slots_is_refused(library):
    with pytest.raises(UpdateError) as refused:
        run(library, Matrix(SHAPE, {3: 1.0}, {3: Slot(1.0)}), [1.0] * N, n_drop=2, delta_budget=1, budget=1)
    assert refused.value.clause == "SEL-005"


FINAL = [Rule(), Rule(counts="values", exempt="none"), Rule(exempt="slots"), Rule(adapts="end"), Rule(scope="model")]


@libraries
@RULES
@given(situation=situations(), over=st.integers(0, 12))
def test_EVT_004_the_final_pass_prunes_to_the_budget_with_nothing_exempt(library, situation, over):
    matrix, gradient, _ = situation
    budget = max(0, len(matrix.support()) - over)
    base, delta = matrix.arrays(library)
    whole = array_namespace(library.like).reshape(library.floats(gradient), SHAPE)
    seen = evidence_of(whole, flat(base.topology), flat(delta.topology), 0)
    after = Matrix(SHAPE, dict(matrix.base), dict(matrix.slots))
    pruned = prune_by_hand(after, gradient, library.dtype, budget, [])
    assert len(after.support()) == budget
    for rule in FINAL:
        (event,) = final_adapt([Part(base, delta, seen)], one_pool(whole, budget), rule=rule)
        assert listed(event.pruned) == pruned, rule
        assert listed(flat(event.base.topology)) == sorted(after.base), rule
        assert listed(flat(event.delta.topology)) == sorted(after.slots), rule


@libraries
@RULES
@given(slots=st.dictionaries(st.integers(0, N - 1), SLOTS), new=st.sets(st.integers(0, N - 1)))
def test_CHG_002_all_four_arrays_of_a_delta_move_together(library, slots, new):
    _, delta = Matrix(SHAPE, {}, slots).arrays(library)
    _, expected = Matrix(SHAPE, {}, {p: slots.get(p, Slot()) for p in new}).arrays(library)
    moved = move_delta(delta, library.ints(sorted(new)))
    for part in PARTS:
        assert bits(part_of(moved, part)) == bits(part_of(expected, part)), part
        assert part_of(moved, part).dtype == part_of(delta, part).dtype


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


SPIEL = {
    "adapts": "never",
    "events": "phases",
    "drop_schedule": "linear",
    "first_event": "all",
    "evolve_every": 20,
    "gradient_window": 5,
    "density": 0.01,
    "initial_positions": "random",
    "initial_scope": "anywhere",
    "max_norm": 0,
}
MOVED_WEIGHTS = {
    "drop": "weight",
    "drops": "weight",
    "adapts": "never",
    "drop_fraction": 0.3,
    "evolve_every": 100,
    "budget_by": "nnz",
    "density": 1.0,
    "initial_positions": "magnitude",
    "optimizer": "sgd",
}


def test_EVT_001_EVT_011_presets_are_these_choices():
    assert {name: dict(choices) for name, choices in PRESETS.items()} == {
        "seft": {"adapt": "token-fisher"},
        "sensitivity": {},
        "literal": {"counts": "values", "exempt": "none"},
        "unprotected": {"adapt": "token-fisher", "exempt": "none"},
        "active-only": {"grow_scope": "active"},
        "no-adapt": {"adapt": "token-fisher", "adapts": "end"},
        "magnitude": {"adapt": "magnitude"},
        "spiel-ag": SPIEL | {"candidates": "first-step", "moments": "seeded", "optimizer": "spiel-adamw"},
        "spiel-adapt": SPIEL
        | {"candidates": "first-step", "moments": "seeded", "optimizer": "spiel-adamw"}
        | {"adapts": "always", "initial_scope": "active"},
        "spiel-ma": SPIEL | {"grow": "moments", "regrow": False, "optimizer": "sm3"},
        "rigl": MOVED_WEIGHTS | {"evolve_until": 0.75, "event_replaces_step": True},
        "set": MOVED_WEIGHTS | {"grow": "random", "drop_schedule": "constant"},
        "static": {"evolves": False},
    }
    for name in PRESETS:
        assert preset_named(name) is PRESETS[name]
    rules = {name: settings_of(name).rule for name in PRESETS}
    assert {name: (r.evolves, r.grow_scope, r.adapts) for name, r in rules.items()} == {
        "seft": (True, "anywhere", "always"),
        "sensitivity": (True, "anywhere", "always"),
        "literal": (True, "anywhere", "always"),
        "unprotected": (True, "anywhere", "always"),
        "active-only": (True, "active", "always"),
        "no-adapt": (True, "anywhere", "end"),
        "magnitude": (True, "anywhere", "always"),
        "spiel-ag": (True, "anywhere", "never"),
        "spiel-adapt": (True, "anywhere", "always"),
        "spiel-ma": (True, "anywhere", "never"),
        "rigl": (True, "anywhere", "never"),
        "set": (True, "anywhere", "never"),
        "static": (False, "anywhere", "always"),
    }


@pytest.mark.parametrize("name", ["rigl2", "", "SEFT"])
def test_EVT_011_an_unknown_preset_is_refused(name):
    for ask in (preset_named, settings_of):
        with pytest.raises(SeftError, match="choose one of seft, sensitivity, literal") as refused:
            ask(name)
        assert refused.value.clause == "EVT-011"
