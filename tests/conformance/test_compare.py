"""Comparators at the bound, inside and outside it, and with what no comparison may let pass."""

import math

import numpy as np
import pytest

from conformance.cases.case import Bound
from conformance.cases.compare import compare, tau

ONE = np.array([1.0, -2.0])
BOUND = Bound(np.array([1.0, 2.0]), 4)
STEP = tau(4) * 2.0**-53


def test_NUM_002_tau():
    assert tau(0) == 8
    assert tau(16) == 16


@pytest.mark.parametrize(("part", "passes"), [(0.0, True), (0.9, True), (1.0, True), (1.01, False), (-1.1, False)])
def test_NUM_002_gauge_at_inside_and_outside_the_bound(part, passes):
    # 64 makes the error exact: a bound of 12 · 2^-53 · 64 next to 0
    gauge = Bound(np.array([64.0]), 4)
    got = np.array([part * STEP * 64])
    assert compare(got, np.array([0.0]), "gauge", bound=gauge).passed is passes


def test_NUM_002_where_the_gauge_is_zero_the_result_is_zero():
    zero = Bound(np.zeros(1), 4)
    assert compare(np.array([-0.0]), np.zeros(1), "gauge", bound=zero).passed
    assert not compare(np.array([5e-324]), np.zeros(1), "gauge", bound=zero).passed


@pytest.mark.parametrize(("dtype", "least"), [("float64", 2.0**-1074), ("float32", 2.0**-149)])
@pytest.mark.parametrize(("spacings", "passes"), [(0, True), (1, True), (7, True), (8, False)])
def test_NUM_002_below_the_smallest_normal_number_a_sum_errs_by_spacings(dtype, least, spacings, passes):
    # tau(9) = 14, so that the bound is 7 spacings
    want = np.array([9.0 * least])
    got = np.array([(9.0 + spacings) * least]).astype(dtype)
    bound = Bound(np.abs(want), 9)
    assert compare(got, want, "gauge", dtype, bound).passed is passes
    # binary64 is asked of a result in binary64, whatever the run
    assert compare(float(got[0]), 9.0 * least, "binary64", dtype, Bound(np.array(9.0 * least), 9)).passed is (
        passes if dtype == "float64" else not spacings
    )


def test_NUM_002_a_smallest_number_that_decays_stays_what_it_is():
    """In float32 2^-149 times 63/64 is 2^-149 again."""
    least = np.float32(2.0**-149)
    assert least * np.float32(1 - 1 / 64) == least
    want = np.array([2.0**-149 * (1 - 1 / 64)])
    assert compare(np.array([least]), want, "gauge", "float32", Bound(np.abs(want), 2)).passed


def test_PRT_011_a_result_below_the_smallest_normal_number_is_rounded_to_its_spacing():
    # half of float16's spacing of 2^-24, and a bit more
    bound = Bound(np.full(1, 2.0**-20), 1)
    for off, passes in ((0.5, True), (0.7, False)):
        want = np.array([2.0**-20 + off * 2.0**-24])
        assert compare(np.array([2.0**-20]).astype(np.float16), want, "gauge", "float16", bound).passed is passes


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
def test_NUM_004_relative_to_the_largest_value(dtype, bound):
    want = np.array([0.0, 4.0])
    inside, outside = np.array([3.9 * bound, 4.0]), np.array([4.1 * bound, 4.0])
    assert compare(inside.astype(dtype), want, "relative", dtype).passed
    verdict = compare(outside.astype(dtype), want, "relative", dtype)
    assert not verdict.passed
    assert verdict.ratio == pytest.approx(4.1 / 4, rel=1e-6)
    assert "[0]" in verdict.detail
    assert not compare(inside.astype(dtype), want, "relative", dtype, keep_zeros=True).passed


@pytest.mark.parametrize("how", ["exact", "value", "gauge", "binary64", "relative"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_NUM_005_nan_never_passes(how, bad):
    got = np.array([1.0, bad])
    assert not compare(got, ONE, how, bound=BOUND).passed
    assert not compare(got, got, how, bound=BOUND).passed or (how == "exact" and not math.isnan(bad))
    assert not compare(ONE, ONE, "gauge", bound=Bound(np.array([1.0, bad]), 4)).passed


@pytest.mark.parametrize("how", ["exact", "value", "gauge", "binary64", "relative"])
def test_equal_and_empty_outputs_pass_and_other_shapes_and_kinds_do_not(how):
    assert compare(ONE, ONE.copy(), how, bound=BOUND).passed
    empty = np.zeros(0)
    assert compare(empty, empty, how, bound=Bound(empty, 4)).passed
    for got in (ONE[:1], ONE[None], np.zeros(0), np.array([1, -2]), None, {}, [], "1", 1.0):
        assert not compare(got, ONE, how, bound=BOUND).passed, got


def test_NUM_001_exact_tells_zeros_apart_and_value_does_not():
    assert not compare(np.array([-0.0]), np.array([0.0]), "exact").passed
    assert compare(np.array([-0.0]), np.array([0.0]), "value").passed
    assert not compare(np.array([1.0 + 2**-52]), np.array([1.0]), "value").passed
    assert not compare(np.array([3]), np.array([4]), "exact").passed
    assert not compare(np.array([[3]]), np.array([3]), "exact").passed


def test_the_dtype_of_the_run_is_asked_for():
    assert not compare(ONE, ONE, "exact", "float32").passed
    assert compare(ONE.astype(np.float32), ONE, "exact", "float32").passed


def test_PRT_002_one_number_is_no_array():
    wrong = compare(np.array(3), 3, "exact")
    assert not wrong.passed
    assert "expected one number, got an array" in wrong.detail
    assert compare(3, 3, "exact").passed


def test_dicts_and_lists_name_the_entry_that_differs():
    want = {"a": ONE, "b": ONE}
    assert compare({"a": ONE, "b": ONE}, want, "exact").passed
    assert compare({"a": ONE, "b": -ONE}, want, "exact").detail.startswith("b: at [0]")
    assert not compare({"a": ONE}, want, "exact").passed
    assert not compare({"a": ONE, "c": ONE}, want, "exact").passed
    assert not compare([ONE], [ONE, ONE], "exact").passed
    assert not compare({0: ONE}, [ONE], "exact").passed
    assert not compare(["a"], ["b"], "exact").passed
    assert compare([None, 3], [None, 3], "exact").passed


def test_a_gauge_without_a_bound_is_a_mistake_of_the_kit():
    with pytest.raises(ValueError, match="gauge"):
        compare(ONE, ONE, "gauge")
