"""A step of training judged from the state before it: selections that rounding can turn, and others."""

from dataclasses import replace

import numpy as np

from conformance.cases.case import Case
from conformance.gen import tiny
from conformance.gen.numbers import Numbers
from conformance.gen.train_steps import SETTINGS, asked, rounded
from conformance.judge.harness import prepared_inputs
from conformance.oracle import train
from conformance.properties.anchored import Own, broken_step
from conformance.wrong.mutants.base import ENGINE, ids


def a_step(slots=2, **more):
    """The first step of a run in which new slots are all of the size lr, and an event after it."""
    settings = SETTINGS | {"preset": "no-adapt", "start": "random", "evolve_every": 1, "density": 0.125} | more
    world = tiny.world(Numbers(62, 5), tiny.CONFIG)
    parts = [rounded(part) for part in train.Trainer(tiny.CONFIG, *world, settings).parts]
    fewer = [replace(part, phi=dict(list(part.phi.items())[:slots])) for part in parts]
    fewer = [replace(x, kept={n: {p: c[p] for p in x.phi} for n, c in x.kept.items()}) for x in fewer]
    return asked(tiny.CONFIG, world, fewer, settings, 1)


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
