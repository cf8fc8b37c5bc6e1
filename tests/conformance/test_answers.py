"""The answers: frozen ones are recomputed, the judge finds them conformant, and new cases are frozen with them."""

import json

import numpy as np
import pytest

from conformance import answers
from conformance.answers import AnswersPort, answer, freeze, offered
from conformance.answers.answer import ids, reals
from conformance.answers.files_content import raw_array
from conformance.answers.files_libraries import LIBRARIES
from conformance.answers.train import of_steps, run_of
from conformance.cases import case as cases
from conformance.cases.case import load, load_all
from conformance.cases.inputs import same_values
from conformance.fuzz import operations
from conformance.judge.harness import Variant, run
from conformance.oracle import select, update_choices
from conformance.oracle.files_versions import MAGIC

CASES = load_all()
ONE_LESS = {
    "file-broken.fmt-050-1": {"FMT-049"},
    "file-refused.pointers-wrap": {"FMT-069"},
    "hole-file.refuse-gaps-509": {"FMT-059"},
}
"""Refusals and the clause of them that a case and its answer do not both list: a case of the same fault differs."""


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_frozen_answer_is_the_answer(dtype):
    results = run(CASES, [Variant(AnswersPort(), dtype)])
    assert [(case.id, r.failures) for case, r in zip(CASES, results, strict=True) if r.failures] == []
    assert {case.op for case in CASES} == offered()


def test_every_frozen_refusal_and_bound_is_that_of_the_answer():
    for case in CASES:
        made = answer(case.op, case.inputs, case.dtypes[0])
        assert set(made.refused) ^ set(case.refused) == ONE_LESS.get(case.id, set()), case.id
        assert made.bounds.keys() == case.bounds.keys(), case.id
        for name, bound in case.bounds.items():
            # a gauge of 0 allows no difference, whatever the number of terms
            assert made.bounds[name].terms == bound.terms or not bound.gauge.any(), case.id
            gauges = (made.bounds[name].gauge.astype(np.float32), bound.gauge)
            assert np.array_equal(*np.broadcast_arrays(*gauges)), case.id


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


WRONG = {
    "literal": [{"counts": "support"}],
    "unprotected": [{"exempt": "new"}, {"adapts": "end"}],
    "magnitude": [{"adapt": "sensitivity"}, {"adapts": "never"}],
    "spiel-ag": [
        *({"candidates": "all"}, {"moments": "zero"}, {"events": "period"}, {"drop_schedule": "cosine"}),
        *({"first_event": "fraction"}, {"initial_scope": "active"}, {"optimizer": "adamw"}, {"gradient_window": 1}),
    ],
    "spiel-adapt": [{"adapts": "end"}, {"adapt": "magnitude"}, {"candidates": "all"}, {"gradient_window": 1}],
    "spiel-ma": [{"regrow": 1}, {"grow": "gradient"}, {"adapts": "end"}],
    "rigl": [
        *({"event_replaces_step": 0}, {"evolve_until": 1.0}, {"drops": "slot"}, {"drop": "magnitude"}),
        *({"momentum": 0.0}, {"budget_by": "numel"}, {"start": "gradient"}),
    ],
    "set": [{"grow": "gradient"}, {"drop_schedule": "cosine"}],
    "seft-row": [{"scope": "matrix"}],
    "seft-model": [{"scope": "matrix"}, {"budget_by": "numel"}],
    "seft-group": [{"scope": "matrix"}, {"budget_by": "nnz"}],
    "adapt-token-fisher": [{"adapt": "sensitivity"}, {"adapt": "fisher"}, {"gradient_window": 1}],
    "adapt-absolute": [{"adapt": "sensitivity"}, {"grow": "gradient"}, {"gradient_window": 1}],
    "evidence": [{"drop": "magnitude"}, {"grow": "gradient"}, {"adapt": "sensitivity"}, {"gradient_window": 1}],
}
"""Name of a case -> wrong choices and settings, each of which must give another run."""


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in WRONG for wrong in WRONG[name]])
def test_a_run_by_another_rule_or_setting_fails_its_case(name, wrong):
    case = next(case for case in CASES if case.id == f"train-rule.{name}")
    settings, choices = case.inputs["settings"], {k: v for k, v in wrong.items() if k in update_choices.RULE}
    settings = settings | wrong | {"rule": settings["rule"] | choices}
    run = run_of(case.inputs | {"settings": settings})
    made = {"delta_budgets": ids(run.trainer.delta_budgets)} | of_steps(run)
    losses, want = made.pop("losses"), case.expected
    same = all(same_values(made[key], want[key]) for key in ("delta_budgets", "slots", "support"))
    assert not same or not np.allclose(losses, want["losses"], rtol=1e-3, atol=0)


def of_case(name, **changed):
    """Return the operation of a stored case, and its inputs with one of its files or other inputs changed."""
    (case,) = (case for case in CASES if case.id == name)
    inputs = dict(case.inputs)
    for key, value in changed.items():
        if key in inputs:
            inputs[key] = inputs[key] | value if key == "files" else value
            continue
        (file,) = (file for file in inputs["files"] if file.startswith(key))
        raw = inputs["files"][file].tobytes()
        new = value if isinstance(value, bytes) else raw.replace(*value)
        assert new != raw
        inputs["files"] = inputs["files"] | {file: raw_array(new)}
    return case.op, inputs


LORA = b'{"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q"], %s}'
TWICE = b'{"quantization_config": 0, "quantization_config": {"quant_method": "gptq"}}'
FOUND = {
    "FMT-128: the last of equal keys counts": of_case(
        "convert.from-kinds-auto", files={"config.json": raw_array(TWICE)}
    ),
    "FMT-152: the number is that of a pattern alone": of_case(
        "convert-adapter.lora-dense", adapter_config=b'{"peft_type": "LORA", "r": 2, "alpha_pattern": {"q": 7}}'
    ),
    "FMT-082: dense cannot store a support": of_case("codes.mask", encoding="dense"),
    "FMT-009: a name of no bytes": of_case("codes.unasked-none", model=(b'"b.scales"', b'""        ')),
    "FMT-175.4: sparsity that is dense goes": of_case(
        "codes.unasked-none", config=b'{"sparsity_config":{"format":"dense"}}'
    ),
    "FMT-172: a part of no module": of_case(
        "codes.unasked-none", expand_quantised=1, model=(b'"a.weight"', b'"qweight" ')
    ),
    "FMT-152: an option is 1": of_case("convert-adapter.lora-turned", adapter_config=LORA % b'"fan_in_fan_out": 1'),
    "FMT-152: a start is 1": of_case("convert-adapter.lora-dense", adapter_config=LORA % b'"init_lora_weights": 1'),
    "FMT-152.5: an empty ending": of_case(
        "convert-adapter.lora-dense", adapter_config=LORA % b'"alpha_pattern": {"": 7}'
    ),
    "FMT-152: a large integer": of_case(
        "convert-adapter.lora-dense", adapter_config=LORA % b'"runtime_config": 9007199254740993'
    ),
}


@pytest.mark.parametrize("found", FOUND)
def test_the_answer_is_that_of_the_engine_where_the_fuzzer_found_another(found):
    op, inputs = FOUND[found]
    operations.OperationJudge(op)(inputs)


def test_FMT_168_a_frame_that_states_no_bytes_and_has_some_is_refused():
    # the library looks into no frame of this size, so the answer accepted it
    frame = MAGIC + b"\x20\0" + (1 | 1 << 1 | 9 << 3).to_bytes(3, "little") + b"\7"
    with pytest.raises(ValueError, match="zstd"):
        LIBRARIES.content(frame, 100)
