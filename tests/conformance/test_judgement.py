"""PRT-010, PRT-011: what may be claimed on the strength of a run."""

import ml_dtypes
import numpy as np
import pytest

from conformance.cases.case import Bound, Case, load_all
from conformance.cases.compare import compare, holds
from conformance.cases.ops import OPS, PROFILES
from conformance.cases.profiles import in_order, profiles_of_case
from conformance.engine.port import EnginePort
from conformance.judge.harness import Failure, Result, Variant
from conformance.judge.judgement import PropertyResult, Run
from tests.conformance.report_runs import whole

CASES = {case.id: case for case in load_all()}
KERNELS = [case for case in CASES.values() if profiles_of_case(case) == {"kernels"}]


def a_run(**changes):
    results = [Result(case, ran=1) for case in KERNELS]
    chosen = {one.name: 1 for one in [*results, *changes.get("properties", ())]}
    return Run({"name": "it"}, ("kernels",), ("fp32",), results, [], {}, chosen, **changes)


def test_PRT_010_a_claim_needs_everything():
    assert a_run().verdict().conformant
    assert a_run().verdict().claimable == ("kernels",)
    for outcome in ("unsupported", "blocked", "notrun"):
        run = a_run()
        run.results[3].ran, run.results[3].reason = 0, outcome
        assert not run.verdict().conformant
        assert f"kernels: 1 {outcome} of {len(KERNELS)}" in run.verdict().line
        assert run.verdict().claimable == ()
    for status in ("fail", "error", "crash", "timeout", "protocol"):
        run = a_run()
        run.results[0].failures.append(Failure("it", "y", "wrong", status=status))
        assert f"1 {status}" in run.verdict().line
        assert not run.verdict().met


def test_PRT_010_nothing_left_out_filtered_or_forgiven():
    assert not a_run(filtered="--quick").verdict().conformant
    assert not a_run(fresh=False).verdict().conformant
    assert not a_run(complaints=["an expected failure passes"]).verdict().met
    run = a_run()
    run.results.clear()
    assert not run.verdict().conformant
    run = a_run()
    run.results[0].failures.append(Failure("it", "y", "wrong"))
    run.results[0].waived = "https://example.org/1"
    assert (run.verdict().conformant, run.verdict().met) == (False, True)
    assert run.verdict().line.startswith("not conformant: 1 known failures were forgiven, nothing else failed: kernels")
    assert not Run({"name": "it"}, (), (), [], [], {}).verdict().conformant


def lose(run):
    run.results.pop()


def repeat(run):
    run.results.append(run.results[0])


def swap(run):
    run.results[0] = run.results[1]


def skip_a_class(run):
    run.chosen = run.chosen | {run.results[2].name: 2}


def lose_a_property(run):
    run.properties.clear()


@pytest.mark.parametrize("spoil", [lose, repeat, swap, skip_a_class, lose_a_property])
def test_PRT_010_a_run_that_is_not_whole_claims_nothing_and_blames_the_kit(spoil):
    run = a_run(properties=[PropertyResult("kernel.p", (), "kernels", examples=9)])
    assert run.fault == ""
    spoil(run)
    assert run.fault
    verdict = run.verdict()
    assert (verdict.conformant, verdict.met, run.verdict().claimable) == (False, False, ())
    assert verdict.line.startswith("no verdict, the kit is at fault: ")


def test_PRT_010_what_failed_need_not_have_answered_in_each_class():
    run = a_run()
    run.chosen = dict.fromkeys(run.chosen, 2)
    for result in run.results:
        result.failures.append(Failure("it", "y", "wrong"))
    assert run.fault == ""
    assert "fail" in run.verdict().line


def test_PRT_013_a_claim_says_that_a_port_is_not_deterministic():
    assert "not deterministic" not in a_run().verdict().line
    assert (
        a_run(deterministic=False).verdict().line.startswith("conformant: kernels in fp32, not deterministic, frozen")
    )


def test_PRT_010_properties_count():
    for held, conformant in (
        (PropertyResult("kernel.p", (), "kernels", examples=9), True),
        (PropertyResult("kernel.p", (), "kernels", failure="it fails"), False),
        (PropertyResult("kernel.p", (), "kernels", skipped="no hypothesis"), False),
    ):
        assert a_run(properties=[held]).verdict().conformant == conformant


def test_PRT_012_operations_come_after_what_they_rest_on():
    groups = in_order(OPS)
    place = {op: i for i, group in enumerate(groups) for op in group}
    assert all(place[need] < place[op] for op, one in OPS.items() for need in one.rests_on)
    assert sorted(place) == sorted(op for ops in PROFILES.values() for op in ops)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_PRT_011_a_result_of_16_bits_may_be_rounded_once(dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    want = np.array([1.0, 3.0 * (1 + 0.6 * unit)])
    bound = Bound(want, 4)
    far = np.array([1.0 + 4 * unit, 3.0]).astype(kind)
    assert np.any(want.astype(kind).astype(float) != want)
    assert compare(want.astype(kind), want, "gauge", dtype, bound).passed
    assert not compare(far, want, "gauge", dtype, bound).passed
    assert not compare(want.astype(np.float32), want, "gauge", dtype, bound).passed
    # exact is the nearest number of the type, and no other
    third = np.array([1 / 3])
    assert compare(third.astype(kind), third, "value", dtype).passed
    assert not compare(np.nextafter(third.astype(kind), kind(1)), third, "value", dtype).passed
    assert not compare(np.array([np.nan]).astype(kind), third, "gauge", dtype, Bound(third, 1)).passed


def test_PRT_011_cases_of_16_bits_are_those_that_the_type_holds():
    class Half(EnginePort):
        pass

    taken = [case for case in CASES.values() if Variant(Half(), "bfloat16").takes(case)]
    assert len(taken) > 20
    assert {case.op for case in taken} >= {"kernel.sparse", "gradient.at", "layer.linear"}
    for case in taken:
        for x in case.inputs.values():
            if isinstance(x, np.ndarray) and x.dtype.kind == "f":
                assert np.array_equal(x.astype(ml_dtypes.bfloat16).astype(float), x)
    third = Case("a.b", "kernel.exceeding", (), "", {"values": np.array([1 / 3]), "least": 0.0})
    assert not holds(third, "bfloat16")


def test_PRT_011_a_profile_is_judged_in_the_classes_in_which_its_operations_on_arrays_have_cases():
    run = whole(("core", "train", "ckpt-read"), classes=("exact64", "fp32", "bf16"))
    assert run.classes_of("core") == ("exact64", "fp32", "bf16")
    assert run.classes_of("train") == ("exact64", "fp32")
    assert run.classes_of("ckpt-read") == run.classes  # none of its operations has a class of its own


@pytest.mark.parametrize("partly", [{"filtered": "--only x"}, {"fresh": False}, {"complaints": ["out of date"]}])
def test_PRT_010_a_run_that_left_something_out_has_no_claimable_profile(partly):
    run = a_run()
    for name, value in partly.items():
        setattr(run, name, value)
    assert run.verdict().claimable == ()
