"""A step of training judged from the state before it: selections that rounding can turn, and others."""

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import Case
from conformance.judge.harness import prepared_inputs
from conformance.oracle import train_settings
from conformance.properties.anchored import Own, broken_step
from conformance.properties.draws import Counted
from conformance.properties.models import TINY
from conformance.properties.train_drawn import SETTINGS, asked, drawn_world, rounded, started, summed
from conformance.wrong.mutants.base import ENGINE, ids


def a_step(slots=2, **more):
    """The first step of a run in which new slots are all of the size lr, and an event after it."""
    settings = SETTINGS | {"preset": "no-adapt", "start": "random", "evolve_every": 1, "density": 0.125} | more
    world = drawn_world(Counted(62, 5), TINY)
    parts = started(world, settings)
    fewer = [replace(part, phi=dict(list(part.phi.items())[:slots])) for part in parts]
    fewer = [replace(x, kept={n: {p: c[p] for p in x.phi} for n, c in x.kept.items()}) for x in fewer]
    return asked(world, fewer, settings, 1)


def answer_to(given, dtype):
    return ENGINE.call("train.step", prepared_inputs(Case("", "train.step", (), "", given), dtype), dtype)


def with_slots(answer, i, columns):
    """The answer with other slots at one target; columns by the names of outputs, and by flat position."""
    eta = sorted(columns["m"])
    told = {name: np.array([held[p] for p in eta], dtype=answer[name][i].dtype) for name, held in columns.items()}
    told["delta"] = ids(eta)
    return {name: [told[name] if j == i and name in told else x for j, x in enumerate(xs)] if name != "loss" else xs
            for name, xs in answer.items()}  # fmt: skip


def slots_after(own, i, out, into):
    """What the optimizer left of a target's slots, but for those dropped, and new ones."""
    moved = own.step.moved[i]
    columns = {"delta_values": moved.phi} | moved.kept
    return {n: {p: x for p, x in c.items() if p not in out} | dict.fromkeys(into, 0) for n, c in columns.items()}


def test_another_drop_is_right_only_where_rounding_can_turn_it():
    given = a_step()
    single, double = Own(given, "float32"), Own(given, "float64")
    in_doubt = [i for i in range(len(single.parts)) if single.in_doubt(i)]
    assert in_doubt
    assert not any(double.in_doubt(i) for i in in_doubt)
    for i in in_doubt:
        (dropped,), grown = single.step.outcomes[i].dropped, single.step.outcomes[i].grown
        (other,) = single.step.moved[i].phi.keys() - {dropped}
        for dtype, own in (("float32", single), ("float64", double)):
            answer, columns = answer_to(given, dtype), slots_after(own, i, {other}, grown)
            assert not broken_step(given, answer, dtype)
            found = broken_step(given, with_slots(answer, i, columns), dtype)
            assert found == "" if dtype == "float32" else "delta: " in found
            # in doubt or not, numbers are those of the slots that are there
            spoilt = columns | {"m": {p: x + 1 for p, x in columns["m"].items()}}
            assert broken_step(given, with_slots(answer, i, spoilt), dtype)
            one_more = slots_after(own, i, set(), grown)
            assert broken_step(given, with_slots(answer, i, one_more), dtype)


def test_growth_in_doubt_takes_what_is_as_good_and_nothing_worse(monkeypatch):
    given = a_step(slots=1, drop_fraction=0.0)
    monkeypatch.setattr("conformance.properties.anchored.NOISE", 2.0**21)
    own, answer = Own(given, "float32"), answer_to(given, "float32")
    in_doubt = [i for i in range(len(own.parts)) if own.in_doubt(i)]
    assert in_doubt
    refused = 0
    for i in in_doubt:
        scores = {p: -s for p, (s, _) in own.choices(i)["grow"].scores.items()}
        best = max(scores.values())
        for p, score in scores.items():
            found = broken_step(given, with_slots(answer, i, slots_after(own, i, set(), {p})), "float32")
            assert found == "" or "GROW-002" in found
            assert bool(found) == (best - score > 2 * own.off)
            refused += bool(found)
    assert refused


@pytest.mark.parametrize(
    "more",
    [
        # its factors are smaller than a matrix, and larger: what is summed up then is one array
        {"preset": "seft", "rows": 2, "length": 6},
        {"preset": "seft", "rows": 1, "length": 3},
        {"preset": "unprotected", "rows": 2, "length": 5, "micro_batches": 2},
        # nothing is asked of the window but gradients
        {"preset": "no-adapt", "rows": 1, "length": 3},
        {"preset": "active-only", "rows": 1, "length": 3},
    ],
    ids=lambda more: " ".join(map(str, more.values())),
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_GRD_008_a_window_of_several_steps_is_told_step_by_step(more, dtype):
    settings = SETTINGS | {"start": "random", "evolve_every": 3, "gradient_window": 3, "density": 0.25} | more
    world = drawn_world(Counted(62, 5), TINY)
    parts = started(world, settings)
    earlier, told = None, 0
    for step in range(1, 7):
        before, ends = train_settings.window_of(settings, step)
        given = asked(world, parts, settings, step, (earlier if before else None) if ends else None)
        assert broken_step(given, answer_to(given, dtype), dtype) == ""
        told += "window_tokens" in given["parts"][0]
        own = Own(given, dtype)
        earlier = summed(earlier if before else None, own.step)
        parts = [rounded(part) for part in own.step.parts]
    assert told == (2 if settings["preset"] in ("seft", "unprotected", "no-adapt") else 0)


def test_GRD_008_the_tokens_of_the_last_step_alone_prune_other_weights():
    settings = SETTINGS | {"start": "random", "evolve_every": 3, "gradient_window": 3, "density": 0.25}
    world = drawn_world(Counted(62, 5), TINY)
    parts, earlier = started(world, settings), None
    for step in (1, 2):
        own = Own(asked(world, parts, settings, step), "float64")
        earlier, parts = summed(earlier, own.step), [rounded(part) for part in own.step.parts]
    given = asked(world, parts, settings, 3, earlier)
    lost = [part | {"window_tokens": part["window_tokens"] * 0} for part in given["parts"]]
    assert broken_step(given, answer_to(given, "float64"), "float64") == ""
    assert "base: " in broken_step(given, answer_to(given | {"parts": lost}, "float64"), "float64")
