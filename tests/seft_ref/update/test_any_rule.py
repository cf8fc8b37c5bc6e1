"""Any sequence of steps and events under any rule that chapter 8 allows: what must hold whatever the choices are."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from seft_ref.arrays.library import to_numpy
from seft_ref.errors import ConfigError, UpdateError
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix import evidence as evidence_module
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import FirstStepWindow, Window, opened
from seft_ref.topology.csr import from_flat
from seft_ref.update.delta import Base, new_delta
from seft_ref.update.evolve import Part, evolve
from seft_ref.update.pools import together
from seft_ref.update.rules import Adapt, Rule
from tests.seft_ref.update.any_event import every_bit
from tests.seft_ref.update.any_rule import FRACTIONS, SEEDS, AnyRun
from tests.seft_ref.update.by_hand import F32, F64, LIBRARIES, library_id, listed
from tests.seft_ref.update.one_matrix import one_pool


class AnyRefusal(AnyRun):
    """The same runs, with events in between that cannot be."""

    @rule(seed=SEEDS, fraction=FRACTIONS, bad=st.sampled_from([np.nan, np.inf, -np.inf, "large"]))
    def evidence_is_not_finite(self, seed, fraction, bad):
        """EVT-005: the event is refused, or nothing of it was looked at; either way no state ever holds it."""
        scale = bad if bad != "large" else (1e25 if self.library.dtype is np.float32 else 1e200)
        held = every_bit([self.bases, self.deltas])
        events, clause = [], ""
        try:
            with np.errstate(all="ignore"):
                parts, drops = self.look(seed, fraction, 2, scale)
                events = self.evolved(parts, drops)
        except UpdateError as error:
            clause = error.clause
        # sums of a window are refused before an event sees them (TRN-007)
        assert clause in ("", "EVT-005", "SEL-004", "TRN-007")
        if events:
            for event in events:
                for values in (event.base.values, event.delta.values, *event.delta.kept.values()):
                    assert np.isfinite(to_numpy(values)).all()
        assert every_bit([self.bases, self.deltas]) == held

    @rule(seed=SEEDS, more=st.integers(1, 3))
    def more_drops_than_slots_are_refused(self, seed, more):
        """SEL-005. With candidates first-step n_drop is cut (GROW-006)."""
        if self.rule.candidates == "first-step":
            return
        parts, drops = self.look(seed, 1.0, 1)
        drops = [d + more for d in drops]
        before = every_bit(parts)
        with pytest.raises(UpdateError) as refused:
            self.evolved(parts, drops)
        assert refused.value.clause == "SEL-005"
        assert every_bit(parts) == before


def machine(library, kind):
    """Run a machine on a library."""
    # the property update.event of the kit draws rules, too, and compares what comes out with an oracle
    examples = 40 if library.name.startswith("numpy") else 10
    run_state_machine_as_test(
        type("TinyAnyRun", (kind,), {"library": library}),
        settings=settings(
            derandomize=True, deadline=None, database=None, max_examples=examples, stateful_step_count=10
        ),
    )


# how many rows of a gradient are formed at once is the same code in every library; a library that checks every call
# takes most of the time, and makes these runs with the refusals below
@pytest.mark.parametrize(("library", "rows"), [(F64, 2), (F32, 2), (F64, 256)])
def test_EVT_003_EVT_006_EVT_009_hold_through_any_run_of_any_rule(monkeypatch, library, rows):
    monkeypatch.setattr(evidence_module, "ROWS", rows)
    machine(library, AnyRun)


@pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
def test_EVT_005_SEL_005_a_refused_event_of_any_rule_changes_nothing(monkeypatch, library):
    monkeypatch.setattr(evidence_module, "ROWS", 2)
    machine(library, AnyRefusal)


@pytest.mark.parametrize("adapts", ["always", "end"])
@pytest.mark.parametrize("adapt", get_args(Adapt))
def test_GROW_006_EVT_012_first_step_candidates_with_every_adapt_run_or_are_refused(adapt, adapts):
    rule, clause = None, ""
    try:
        rule = Rule(candidates="first-step", adapt=adapt, adapts=adapts)
    except ConfigError as refused:
        clause = refused.clause
    if rule is None:
        assert clause == "EVT-012"
        return
    base = Base(from_flat((1, 4), F64.ints([0, 1, 2])), F64.floats([5, 1, 2]))
    delta = new_delta((1, 4), F64.ints([2]), base.values)
    window = FirstStepWindow(2, opened(base, delta.topology, rule.asks()))
    window = window.plus(WeightGradient(F64.floats([1]).reshape(1, 1), F64.floats([1, 1, 0.1, 9]).reshape(1, 4)))
    (seen,) = evidence([View(window, base, delta)], rule, F64.ints([1]))
    pools = one_pool(base.values, 3, 1)
    (event,) = evolve([Part(base, delta, seen)], pools, n_drop=F64.ints([1]), rule=rule)
    assert listed(event.grown) == [3]
    assert len(listed(event.pruned)) == (1 if adapts == "always" else 0)


def test_EVT_004_no_matrix_is_no_pool():
    # what finish asks for when no matrix is over its budget
    for scope in ("matrix", "row", "model"):
        assert together(Rule(scope=scope), []) == []


@pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
def test_GROW_002_a_delta_with_no_position_outside_it_drops_and_grows_back(library):
    base = Base(from_flat((1, 2), library.ints([0, 1])), library.floats([1, 2]))
    delta = new_delta((1, 2), library.ints([0, 1]), base.values)
    window = Window((1, 2), settled_steps=1, gradient=library.floats([1, 2])[None, :])
    (seen,) = evidence([View(window, base, delta)], Rule(), library.ints([1]))
    assert seen.candidate_scores.dtype == base.values.dtype
    (event,) = evolve([Part(base, delta, seen)], one_pool(base.values, 2, 2), n_drop=library.ints([1]))
    assert listed(event.cancelled) == [0]
