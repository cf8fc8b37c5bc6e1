"""Foreign safetensors files: any spelling is read, and every bad one refused (FMT-121)."""

import json

import numpy as np
import pytest

from formats import errors
from formats.dialects import hf


def foreign(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="U8", shape=(4,), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


FILES = {
    "empty": b"",
    "short": foreign({"a": entry()}, b"abc"),
    "long": foreign({"a": entry()}, b"abcde"),
    "hole": foreign({"a": entry(), "b": entry(begin=5, end=9)}, bytes(9)),
    "overlap": foreign({"a": entry(), "b": entry(begin=2, end=6)}, bytes(6)),
    "shared": foreign({"a": entry(), "b": entry()}, bytes(4)),
    "backwards": foreign({"a": entry(begin=4, end=0)}, bytes(4)),
    "other_size": foreign({"a": entry(shape=(5,))}, bytes(4)),
    "huge_shape": foreign({"a": entry(shape=(2**50, 0, 2**50), end=0)}, b""),
    "unknown_dtype": foreign({"a": entry("C128", (1,), 0, 16)}, bytes(16)),
    "an_odd_count_of_halves": foreign({"a": entry("F4", (3,), 0, 2)}, bytes(2)),
    "header_past_the_end": (10**6).to_bytes(8, "little") + b"{}",
    "header_too_long": (2**63).to_bytes(8, "little") + b"{}",
    "not_json": foreign(b"{]", b""),
    "not_an_object": foreign(b"[]", b""),
    "two_of_a_name": foreign(b'{"a":{},"a":{}}', b""),
    "deep": foreign(b"[" * 90000, b""),
}


def with_metadata(text):
    """A file of one tensor with a text of JSON in `__metadata__`."""
    return foreign(b'{"__metadata__":%b,"a":%b}' % (text, json.dumps(entry()).encode()), b"abcd")


REFUSED_BY_ALL = {
    "a number": with_metadata(b'{"k":1}'),
    "a fraction": with_metadata(b'{"k":1.5}'),
    "null": with_metadata(b'{"k":null}'),
    "true": with_metadata(b'{"k":true}'),
    "a list": with_metadata(b'{"k":["v"]}'),
    "an object": with_metadata(b'{"k":{"v":"w"}}'),
    "metadata of a list": with_metadata(b"[]"),
    "metadata twice": with_metadata(b'{},"__metadata__":{}'),
    "half a pair in metadata": with_metadata(b'{"k":"\\ud800"}'),
    "half a pair in a key": with_metadata(b'{"\\udc00":"v"}'),
    "half a pair in a name": foreign(b'{"\\ud800":%b}' % json.dumps(entry()).encode(), b"abcd"),
    "a field twice": foreign(b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"abcd"),
    "minus zero": foreign(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}', b"abcd"),
    "an exponent": foreign(b'{"a":{"dtype":"U8","shape":[4e0],"data_offsets":[0,4]}}', b"abcd"),
    "a shape of true": foreign(b'{"a":{"dtype":"U8","shape":[true,4],"data_offsets":[0,4]}}', b"abcd"),
    "three offsets": foreign(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}', b"abcd"),
    "a dtype of null": foreign(b'{"a":{"dtype":null,"shape":[4],"data_offsets":[0,4]}}', b"abcd"),
}
TAKEN_BY_ALL = {
    "no metadata": foreign({"a": entry()}, b"abcd"),
    "metadata of null": with_metadata(b"null"),
    "texts": with_metadata(b'{"k":"-0","l":"[-0,\\"-0","\\ud83d\\ude00":"\\u00e9"}'),
    "minus zero in a name": foreign({",-0,": entry()}, b"abcd"),
}
"""What a header says -> a file that safetensors refuses, or takes."""
STRICTER = {
    "a tensor twice": foreign(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"abcd"),
    "a key of metadata twice": with_metadata(b'{"k":"v","k":"w"}'),
}
"""The last of the two wins in safetensors; its README forbids duplicates, and so does FMT-025."""


@pytest.mark.parametrize("case", [*REFUSED_BY_ALL, *TAKEN_BY_ALL, *STRICTER])
def test_FMT_121_6_what_safetensors_refuses_is_refused(case, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    raw = (REFUSED_BY_ALL | TAKEN_BY_ALL | STRICTER)[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    if case in REFUSED_BY_ALL:
        with pytest.raises(safetensors.SafetensorError, match="invalid JSON in header"):
            safetensors.deserialize(raw)
    else:
        assert [bytes(tensor["data"]) for _, tensor in safetensors.deserialize(raw)] == [b"abcd"]
    if case in TAKEN_BY_ALL:
        assert [bytes(tensor.values) for tensor in hf.open_hf(tmp_path).values()] == [b"abcd"]
        return
    with pytest.raises(errors.FormatError, match=r"FMT-121: model\.safetensors") as error:
        hf.open_hf(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", FILES)
def test_FMT_121(case, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(foreign({"a": entry(), "__metadata__": None}, b"abcd"))
    assert hf.open_hf(tmp_path)["a"].values.tolist() == list(b"abcd")
    path.write_bytes(FILES[case])
    with pytest.raises(errors.FormatError, match="FMT-121"):
        hf.open_hf(tmp_path)


def test_FMT_121_any_spelling_and_alignment_is_read(tmp_path):
    text = (
        b' \n{"b" : {"shape":[1],"dtype":"F32","data_offsets":[1,5]},"a":'
        + json.dumps(entry("BOOL", (1,), 0, 1)).encode()
    )
    (tmp_path / "model.safetensors").write_bytes(foreign(text + b"}\t ", b"\x01" + np.float32(1.5).tobytes()))
    with hf.open_hf(tmp_path) as source:
        assert source["b"].values.tolist() == [1.5]
        assert source["a"].values.tolist() == [True]
        assert source["b"].values.flags.aligned
