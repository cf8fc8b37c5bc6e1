"""The answers: frozen ones are recomputed, the judge finds them conformant, and new cases are frozen with them."""

import json

import numpy as np
import pytest

from conformance import answers
from conformance.answers import AnswersPort, answer, freeze, offered
from conformance.answers.answer import ids, reals
from conformance.cases import case as cases
from conformance.cases.case import VECTORS, load, load_all
from conformance.judge.harness import Variant, run
from conformance.oracle import select

CASES = [case for case in load_all() if case.op in offered()]
MADE = {
    *("adamw", "adapt", "budget", "choices", "delta", "drop", "event", "evolve", "grow", "hole", "hole-event"),
    *("initial", "kept", "pools", "ratios", "rng", "schedule", "score-adapt", "score-drop", "score-grow", "select"),
    *("text", "topology"),
    *("examples", "measured", "task-answers", "task-filter", "task-items", "task-metrics", "task-score"),
    "train-measured",
}
"""Vector files that no generator makes any more: they are their own source."""


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_frozen_answer_is_the_answer(dtype):
    results = run(CASES, [Variant(AnswersPort(), dtype)])
    assert [(case.id, r.failures) for case, r in zip(CASES, results, strict=True) if r.failures] == []
    assert {case.op for case in CASES} == offered()


def test_every_frozen_refusal_and_bound_is_that_of_the_answer():
    for case in CASES:
        made = answer(case.op, case.inputs, case.dtypes[0])
        assert set(made.refused) == set(case.refused), case.id
        assert made.bounds.keys() == case.bounds.keys(), case.id
        for name, bound in case.bounds.items():
            assert made.bounds[name].terms == bound.terms, case.id
            assert np.array_equal(made.bounds[name].gauge.astype(np.float32), bound.gauge), case.id


def test_what_no_generator_makes_has_an_answer():
    assert {case.op for name in MADE for case in load(VECTORS / f"{name}.json")} <= offered()


def test_a_wrong_answer_is_seen(monkeypatch):
    monkeypatch.setattr(select, "largest", select.smallest)
    results = run(CASES, [Variant(AnswersPort(), "float64")])
    assert {case.op for case, result in zip(CASES, results, strict=True) if result.failures} == {"select.largest"}


def test_a_case_is_frozen_once_with_its_answer_or_refusal(tmp_path, monkeypatch):
    for module in (cases, freeze):
        monkeypatch.setattr(module, "VECTORS", tmp_path)
    inputs = {"scores": reals([1, 1, 0]), "ids": ids([4, 2, 9]), "k": 1}
    made = freeze.freeze("new", "tie", "select.largest", "SEL-001 SEL-003", "ties to a higher id", inputs)
    refused = freeze.freeze("new", "many", "select.largest", "SEL-005", "a count", inputs | {"k": 4})
    again = load(tmp_path / "new.json")
    assert [case.id for case in again] == ["new.tie", "new.many"]
    assert np.array_equal(again[0].expected["chosen"], [2])
    assert (made.clauses, refused.refused, again[1].refused) == (("SEL-001", "SEL-003"), ("SEL-005",), ("SEL-005",))
    before = (tmp_path / "new.json").read_bytes()
    with pytest.raises(ValueError, match=r"new\.tie exists, and a case never changes"):
        freeze.freeze("new", "tie", "select.largest", "SEL-001", "another", inputs | {"k": 2})
    assert (tmp_path / "new.json").read_bytes() == before
    assert json.loads(before)[0]["id"] == "new.tie"


def test_a_port_is_refused_by_any_of_the_clauses_that_it_broke():
    inputs = {"scores": reals([np.nan]), "ids": ids([0]), "k": 2}
    assert answers.answer("select.largest", inputs).refused == ("SEL-004", "SEL-005")
