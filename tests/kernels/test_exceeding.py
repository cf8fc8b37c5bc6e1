"""KRN-014: looking for what is large, in both kernel sets against one comparison an entry."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seft_ref.arrays import library as arrays
from seft_ref.kernels import cpu, reference
from tests.kernels.refused import assert_refused
from tests.kernels.sets import SETS


def exceeding_by_loop(values, least):
    """Which entries are not at most least in magnitude, one comparison each: NaN and infinity are not."""
    return [i for i, x in enumerate(values.tolist()) if not abs(x) <= least]


ODD = [0.0, -0.0, 1.0, -1.0, np.nan, -np.nan, np.inf, -np.inf, 5e-324, -1e-45, 1e30, -1e30, 0.1, -0.1]
LENGTHS = [0, 1, 2, 3, 5, 13, 1023, 1024, 1025, 1031, 2047, 2048, 2049, 5003]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("n", LENGTHS)
def test_KRN_014_the_indices_of_what_exceeds_by_a_loop(kernel_set, n, dtype):
    rng = np.random.default_rng(n)
    # few levels, so that many entries tie with least; runs of 1,024 with everything, something and nothing above it
    values = rng.integers(-3, 4, n).astype(dtype)
    values[1024:2048] = np.minimum(np.abs(values[1024:2048]), 1)
    values[2048:3072] = 3
    before = values.tobytes()
    for least in (-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, np.inf):
        found = kernel_set.exceeding(values, least)
        assert (found.dtype, found.shape) == (np.int64, (len(found),))
        assert found.tolist() == exceeding_by_loop(values, least), least
        assert np.all(np.diff(found) > 0)
    assert values.tobytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 2046])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_KRN_014_what_is_not_finite_is_among_them(kernel_set, bad, at, dtype):
    values = np.zeros(2047, dtype=dtype)
    values[at] = bad
    largest = float(np.finfo(dtype).max)
    assert kernel_set.exceeding(values, 0.0).tolist() == [at]
    assert kernel_set.exceeding(values, largest).tolist() == [at]
    assert kernel_set.exceeding(np.full(2047, bad, dtype=dtype), largest).tolist() == list(range(2047))


@pytest.mark.parametrize("kernel_set", SETS)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(["float32", "float64"]),
    values=st.lists(st.sampled_from(ODD) | st.floats(width=32), max_size=60),
    repeat=st.sampled_from([1, 1, 40]),
    data=st.data(),
)
def test_KRN_014_any_values_and_any_least_of_their_dtype(kernel_set, dtype, values, repeat, data):
    with np.errstate(over="ignore"):
        array = np.tile(np.asarray(values, dtype=dtype), repeat)
    finite = [abs(x) for x in array.tolist() if np.isfinite(x)]
    # one of the values, so that there are ties, or its neighbours
    least = np.asarray(data.draw(st.sampled_from([0.0, 1.0, *finite])), dtype=dtype)
    with np.errstate(over="ignore"):
        neighbours = [np.nextafter(least, to, dtype=dtype) for to in (np.inf, -np.inf)]
    for bound in (least, *neighbours):
        assert kernel_set.exceeding(array, float(bound)).tolist() == exceeding_by_loop(array, float(bound))


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_014_worked_ties_zeros_and_the_neighbours_of_a_tie(kernel_set):
    values = np.array([2.0, -2.0, 1.0, np.nextafter(2.0, 3.0), -np.nextafter(2.0, 3.0), np.nextafter(2.0, 1.0)])
    assert kernel_set.exceeding(values, 2.0).tolist() == [3, 4]
    zeros = np.array([0.0, -0.0, 5e-324, -5e-324])
    assert kernel_set.exceeding(zeros, 0.0).tolist() == [2, 3]
    assert kernel_set.exceeding(zeros, -0.0).tolist() == [2, 3]
    # 0.1 as float32 is above 0.1 as float64, but not above itself
    tenth = np.array([0.1], dtype=np.float32)
    assert kernel_set.exceeding(tenth, float(tenth[0])).tolist() == []


@pytest.mark.parametrize("device_name", ["CPU_DEVICE", "device1"])
def test_KRN_014_reference_stays_on_the_device_it_is_given(device_name):
    here = array_api_strict.Device(device_name)
    values = array_api_strict.asarray([1.0, -3.0, array_api_strict.nan, 2.0, -0.0], device=here)
    found = reference.exceeding(values, 2.0)
    assert found.device == here
    assert found.dtype == array_api_strict.int64
    assert arrays.to_numpy(found).tolist() == [1, 2]


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_009_KRN_010_exceeding_refuses_what_is_no_float_vector(kernel_set):
    for shape in ((2, 3), (1, 5), (5, 1), (), (0, 3)):
        assert_refused("KRN-009", kernel_set.exceeding, np.ones(shape), 0.5)
    for dtype in (np.float16, np.int64, np.int32, np.bool_, np.complex64):
        assert_refused("KRN-010", kernel_set.exceeding, np.ones(3, dtype=dtype), 0.5)


def test_KRN_009_010_cpu_exceeding_refuses_strided_and_foreign_arrays():
    assert_refused("KRN-009", cpu.exceeding, np.ones(8)[::2], 0.5)
    assert_refused("KRN-009", cpu.exceeding, np.ones(8)[::-1], 0.5)
    assert_refused("KRN-010", cpu.exceeding, array_api_strict.ones(3), 0.5)
