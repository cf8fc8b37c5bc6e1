"""PRT-002, PRT-003: values keep their bits over the line, and what is none is refused."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.protocol import values
from conformance.protocol.values import Malformed, decode, encode, line, parse

ARRAYS = st.sampled_from(
    [
        np.array([0.0, -0.0, np.nan, np.inf, 5e-324]),
        np.array([[1e-45, -1.5]], dtype=np.float32),
        np.array([1.5], dtype=np.float16),
        np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16),
        np.zeros((0, 3), dtype=np.int64),
        np.array([2**63 - 1, -(2**63)]),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([0, 255], dtype=np.uint8),
        np.array([True, False]),
        np.array(2.5),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | ARRAYS
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return isinstance(b, float) and ((math.isnan(a) and math.isnan(b)) or a.hex() == b.hex())
    return type(a) is type(b) and a == b


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VALUES)
def test_PRT_002_values_come_back_as_they_went(value):
    raw = line({"v": encode(value)})
    assert raw.count(b"\n") == 1
    assert same(decode(parse(raw)["v"]), value)


def test_PRT_003_large_arrays_go_by_file_where_the_port_takes_files(tmp_path):
    x = np.arange(values.INLINE_LIMIT // 8 + 1, dtype=np.float64)
    told = encode(x, tmp_path)
    assert set(told) == {"dtype", "shape", "path", "offset", "nbytes"}
    assert same(decode(told), x)
    assert "b64" in encode(x)
    assert "b64" in encode(x[:-1], tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        1.5,
        {"f64": 1.5},
        {"f64": "one"},
        {"int": "1.5"},
        {"dict": [1]},
        {"what": 1},
        {},
        {"dtype": "f32", "shape": [1], "b64": "AAAA"},
        {"dtype": "f32", "shape": [1], "b64": "AAAAAA"},
        {"dtype": "f32", "shape": [1], "b64": "AAAAAA==!"},
        {"dtype": "f32", "shape": [-1], "b64": ""},
        {"dtype": "f32", "shape": [True], "b64": "AAAAAA=="},
        {"dtype": "f8", "shape": [0], "b64": ""},
        {"dtype": "f32", "shape": [0]},
        {"dtype": "f32", "shape": 0, "b64": ""},
        {"dtype": "bool", "shape": [1], "b64": "Ag=="},
        {"dtype": "f32", "shape": [1], "path": "/no/such", "offset": 0, "nbytes": 4},
    ],
)
def test_PRT_002_what_is_no_value_is_refused(wrong):
    with pytest.raises(Malformed):
        decode(wrong)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff{}", b"{} {}", b"1"])
def test_PRT_001_what_is_no_message_is_refused(raw):
    with pytest.raises(Malformed):
        parse(raw)


def test_PRT_002_what_has_no_form_is_not_sent():
    for value in (object(), np.array(["a"]), {1, 2}, 1j):
        with pytest.raises(TypeError):
            encode(value)
    assert json.loads(line({"a": encode(np.float32(0.5))})) == {"a": {"f64": "0x1.0000000000000p-1"}}
