"""A run of any rule, saved and loaded after any step, goes on as if nothing had happened (TRN-004, CKP-006)."""

import numpy as np
import pytest

from seft_ref.errors import CheckpointError
from seft_ref.files.state import load_state
from seft_ref.kernels import reference
from seft_ref.update.presets import PRESETS
from tests.seft_ref.rule_runs import ORIGIN, arrays_of, begin, content, digest, end, one_step, short, through_file, walk

# two events and a step behind the second
TWO = {"steps": 7, "evolve_every": 3}
LATER = {"steps": 9, "evolve_every": 4}
RULES = {
    **{name: {"preset": name, **({"evolve_every": 4} if name.startswith("spiel") else {})} for name in PRESETS},
    # its events end after three quarters of a run
    "rigl": {"preset": "rigl", "evolve_every": 2},
    "window": {"gradient_window": 3},
    "absolute": {"grow": "absolute", "gradient_window": 3},
    "fisher": {"grow": "fisher", "drop": "fisher", "gradient_window": 3},
    "curvature": {"grow": "curvature", "adapt": "curvature", "gradient_window": 3},
    "activation": {"adapt": "activation", "gradient_window": 3},
    "tokens": {"adapt": "token-fisher", "gradient_window": 3},
    "mean-magnitude": {"adapt": "absolute", "gradient_window": 2},
    "random": {"drop": "random", "grow": "random", "adapt": "random", "seed": 5},
    "change": {"drop": "change", "initial_positions": "random"},
    "change-sgd": {"drop": "change", "optimizer": "sgd", "lr": 0.5, "gradient_window": 4, **LATER},
    "row": {"scope": "row", "gradient_window": 3},
    "row-change": {"scope": "row", "drop": "change", "grow": "absolute", "gradient_window": 2},
    "model": {"scope": "model", "gradient_window": 3},
    "group": {"scope": "group", "pattern": (2, 4), "gradient_window": 3, "density": 0.2},
    "active-pattern": {"pattern": (2, 4), "gradient_window": 3, "density": 0.2},
    "seeded-adamw": {"moments": "seeded", "gradient_window": 3},
    "seeded-sgd": {"moments": "seeded", "gradient_window": 3, "optimizer": "sgd", "lr": 0.5},
    "sm3": {"optimizer": "sm3", "grow": "moments"},
    "first-step": {"preset": "sensitivity", "candidates": "first-step", "gradient_window": 3},
    "spiel-ag-empty-first-phase": {"preset": "spiel-ag", "gradient_window": 0, **LATER},
    "schedules": {"lr_schedule": "cosine", "warmup_steps": 3, "drop_schedule": "linear", "evolve_until": 0.9},
    "looks": {"event_batches": 3, "start_batches": 2, "initial_positions": "gradient"},
    "looks-in-a-window": {"event_batches": 2, "gradient_window": 3, "adapt": "fisher"},
    "long-window": {"gradient_window": 4, "weight_decay": 0.5, **LATER},
    "count": {"budget_by": "count", "slots": 90, "gradient_window": 2},
    "first-event-all": {"first_event": "all", "counts": "values", "exempt": "none", "gradient_window": 2},
}


def told(record):
    """All that a record says, to be compared with ==."""
    return (record.step, record.loss, record.lr, record.gradient_norm, record.event, record.matrices)


@pytest.mark.parametrize("name", RULES)
def test_TRN_004_a_run_of_any_rule_resumed_after_any_step_equals_the_uninterrupted_one(name, tmp_path):
    settings = short(**{"micro_batches": 2, **TWO, **RULES[name]})
    run = begin(settings)
    states = [run.state, *(after for _, after, _ in walk(run))]
    whole, final = [digest(state) for state in states], content(end(run))
    records = [told(record) for record in run.records]
    assert len(whole) == settings.steps + 1
    if settings.rule.evolves:
        assert sum(record.event is not None for record in run.records) >= 2
    # some states are inside a window, unless the window is the event's own step
    assert any(state.window for state in states) == (
        settings.rule.evolves
        and bool(settings.rule.asks())
        and settings.gradient_window != 1
        and not (settings.rule.events == "phases" and settings.gradient_window == 0)
    )

    for after in range(settings.steps + 1):
        state = through_file(run, states[after], tmp_path / f"{after}.state")
        assert digest(state) == whole[after], after
        # one step suffices, because the whole state after it is that of the first run; one goes on from the middle
        # to the end
        last = settings.steps if after == settings.steps // 2 else min(after + 1, settings.steps)
        while state.step < last:
            state, record = one_step(run, state)
            assert told(record) == records[record.step - 1], (after, record.step)
        assert digest(state) == whole[last], (after, last)
        if last == settings.steps:
            run.state = state
            assert content(end(run)) == final, after


def test_TRN_004_a_loaded_state_has_its_matrices_in_their_order(tmp_path):
    run = begin(short())
    assert list(through_file(run, run.state, tmp_path / "state").targets) == list(run.state.targets)


@pytest.mark.parametrize("name", ["seft", "group", "spiel-ag", "seeded-sgd", "row"])
def test_CKP_006_float64_states_keep_their_dtype(name, tmp_path):
    settings = short(**RULES[name] | {"steps": 10})
    run = begin(settings, dtype=np.float64)
    states = [run.state, *(after for _, after, _ in walk(run))]
    chained = states[0]
    for state in states[1:]:
        chained, _ = one_step(run, through_file(run, chained, tmp_path / "state"))
        assert digest(chained) == digest(state)
    floats = [a.dtype for n, a in arrays_of(chained).items() if a.dtype.kind == "f"]
    assert set(floats) == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    ("saved", "loaded", "said"),
    [
        ({}, {"drop": "change"}, "drop was magnitude, is change"),
        ({"scope": "row"}, {}, "scope was row, is matrix"),
        ({"gradient_window": 3}, {"gradient_window": 2}, "gradient_window was 3, is 2"),
        ({}, {"optimizer": "sgd"}, "optimizer was adamw, is sgd"),
        ({"preset": "literal"}, {}, "counts was values, is support, exempt was none, is new"),
        ({}, {"beta2": 0.99}, "beta2 was 0.999, is 0.99"),
    ],
)
def test_CKP_006_a_state_of_another_rule_is_refused_by_name(saved, loaded, said, tmp_path):
    run = begin(short(**saved))
    through_file(run, run.state, tmp_path / "state")
    other = begin(short(**loaded))
    with pytest.raises(CheckpointError, match="CKP-006") as caught:
        load_state(tmp_path / "state", other.weights, other.settings, ORIGIN, reference)
    assert said in str(caught.value)
