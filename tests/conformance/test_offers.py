"""PRT-007, PRT-010, PRT-015: what a port offers, what it declines, how it ends, and what that does to a claim."""

import json
import sys

import pytest

from conformance.cases.case import load_all
from conformance.cases.ops import PROFILES
from conformance.cases.profiles import CLASSES, classes_offered, offered_in
from conformance.command.runner import Options, Target, judge
from conformance.judge import conduct
from conformance.judge.harness import can_ask
from conformance.judge.judgement import Status
from conformance.report import write
from conformance.report.summary import badge

PORT = """
import functools, os, sys
from conformance.protocol.port import Unsupported
from conformance.cases.ops import PROFILES
from conformance.protocol.serve import serve

@functools.cache
def right():
    # most starts of this port end without an answer of the engine, which takes longer to import than all else
    from conformance.engine.port import reference_numpy
    return reference_numpy()

class Port:
    name = "narrow"
    ops = {OPS}

    def describe(self):
        return {"port": {"name": self.name}, "ops": self.ops, "flags": {}}

    def call(self, op, inputs, dtype):
        named = self.ops.get(op, ())
        if {"float64": "exact64", "float32": "fp32"}.get(dtype) not in named:
            {DECLINE}
        return right().call(op, inputs, dtype)

serve(Port())
sys.exit({CODE})
"""
DECLINE = "raise Unsupported(op)"
KERNELS = '{op: ["fp32"] for op in PROFILES["kernels"]}'


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Judge a port that offers some operations and declines the rest in some way."""
    monkeypatch.chdir(tmp_path)

    def make(ops=KERNELS, decline=DECLINE, code="0", **options):
        path = tmp_path / "port.py"
        text = PORT.replace("{OPS}", ops).replace("{DECLINE}", decline).replace("{CODE}", code)
        path.write_text(f"import sys; sys.path[:0] = {sys.path!r}\n{text}", encoding="utf-8")
        return judge(Target.of_command(f"{sys.executable} {path}"), Options(**({"examples": 1} | options)))

    return make


@pytest.mark.parametrize(
    ("decline", "code", "check"),
    [
        ("os._exit(7)", "0", "protocol.unsupported"),
        ("return {}", "0", "protocol.unsupported"),
        (DECLINE, "3", "protocol.stop"),
    ],
)
def test_PRT_010_a_failure_outside_of_the_claim_withholds_it_everywhere(judged, tmp_path, decline, code, check):
    run = judged(decline=decline, code=code)
    assert all(result.outcome == "pass" for result in run.results)
    verdict = run.verdict()
    assert f"{check} fails (PRT-00" in verdict.line
    assert verdict.line.startswith("not conformant: ")
    assert (verdict.conformant, verdict.met, verdict.claimable, verdict.status) == (False, False, (), Status.NOT_MET)
    assert verdict.failed >= 1
    write(run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "badge.json").read_text()) == badge(run)
    assert badge(run)["message"] == "not conformant"
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (told["failed"], told["status"], told["conformant"]) == (verdict.failed, 1, False)


def test_PRT_010_whoever_does_all_of_that_is_conformant_and_its_report_needs_the_checks(judged, tmp_path):
    run = judged()
    assert run.verdict().line.startswith("conformant: kernels in fp32")
    assert {held.name for held in run.properties} >= set(conduct.CHECKS)
    assert badge(run)["message"] == "1.0 kernels fp32, not deterministic"
    # a filtered run tells of them only where they fail, and claims nothing
    part = judged(only=("exceeding.*",), examples=0)
    assert part.properties == []
    assert (part.verdict().status, badge(part)["message"]) == (Status.MET, "no claim")
    assert part.verdict().line.startswith("no claim: cases were left out by --only")
    broken = judged(only=("exceeding.*",), examples=0, decline="os._exit(7)")
    assert [held.name for held in broken.properties] == ["protocol.unsupported"]
    assert broken.verdict().status == Status.NOT_MET


def test_PRT_007_what_is_offered_in_one_class_is_declined_in_the_other(judged):
    ops = '{op: ["exact64", "fp32"] for op in PROFILES["kernels"]} | {"kernel.store_dense": ["fp32"]}'
    right = judged(ops, only=("exceeding.*",))
    assert right.properties == []
    # by operation alone, which was enough once
    held = judged(ops, "if not named: raise Unsupported(op)", only=("exceeding.*",)).properties
    assert [one.name for one in held] == ["protocol.unsupported"]
    assert "kernel.store_dense in exact64, which its hello does not offer: it answers" in held[0].failure


CRASHING = """
import json, os, sys
for text in sys.stdin:
    m = json.loads(text)
    if m["type"] == "stop": break
    if m["type"] == "call": os._exit(7)
    answer = {"type": "hello", "protocol": 1, "port": {"name": "it"}, "ops": {"select.largest": ["fp32"]}}
    print(json.dumps(answer), flush=True)
"""


def test_PRT_007_one_mistake_in_declining_is_told_once(tmp_path):
    (tmp_path / "port.py").write_text(CRASHING, encoding="utf-8")
    run = judge(Target.of_command(f"{sys.executable} {tmp_path / 'port.py'}"), Options(profiles=("core",), examples=0))
    told = [result for result in run.results if result.failures and result.case.op != "select.largest"]
    # the first case of each operation, and no other
    assert len({result.case.op for result in told}) == len(told)
    assert run.properties[0].failure.count("exit status 7") == conduct._TOLD


@pytest.mark.parametrize("named", ["fp32", "exact64"])
def test_PRT_015_a_port_of_float32_only_is_conformant_in_fp32(judged, named):
    from conformance.cases.ops import OPS

    scalar = [op for op in PROFILES["core"] if OPS[op].kind == "scalar"]
    ops = f'{{op: ["fp32"] for op in PROFILES["core"]}} | {{op: ["{named}"] for op in {scalar!r}}}'
    decline = f"if op not in {scalar!r}: {DECLINE}"
    run = judged(ops, decline, only=("count.*", "rng.*", "select.*", "gradient.at"))
    assert run.classes == ("fp32",)
    assert {result.outcome for result in run.results} == {"pass"}
    assert run.verdict().failed == 0


def test_PRT_015_scalar_operations_have_no_class_of_their_own():
    ops = {"kernel.dense": ["fp32"], "count.drop": ["exact64"], "count.budget": []}
    assert classes_offered(ops) == {"fp32"}
    assert offered_in("fp32", ops) == {"kernel.dense", "count.drop"}
    assert offered_in("exact64", ops) == {"count.drop"}
    # who offers nothing else has the classes that it names
    assert classes_offered({"file.read": ["exact64"]}) == {"exact64"}
    assert classes_offered({}) == set()


def test_PRT_007_an_operation_is_asked_for_with_its_smallest_case():
    smallest = conduct._smallest(load_all())
    assert ("kernel.sparse", "bf16") in smallest
    assert ("update.drop", "bf16") not in smallest
    good = [case for case in load_all() if not case.refused]
    sizes = {case.id: conduct._bytes(case.inputs) for case in good}
    for (op, name), found in smallest.items():
        asked = [sizes[case.id] for case in good if case.op == op and can_ask(case, CLASSES[name])]
        assert sizes[found.id] == min(asked)
    # a training state, sections of 64 bytes and a header, is the largest of them
    assert {case.op for case in smallest.values() if sizes[case.id] >= 1 << 16} <= {"state.resume"}
