"""Matrices of GGUF files that stay codes: the weights are those that the gguf package gives (QNT-010.4)."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

import formats
from formats.dialects import coded
from tests.formats.test_gguf import write

BYTES = {Kind.Q8_0: 34, Kind.Q4_0: 18}


def blocks(kind, rows, groups, seed=0):
    """Random blocks with every code; some scales are 0, and those of Q4_0 negative, too."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, groups, BYTES[kind]), dtype=np.uint8)
    scales = rng.standard_normal((rows, groups)).astype(np.float16)
    scales = scales if kind == Kind.Q4_0 else np.abs(scales)
    scales[0, 0], scales[1, 0] = 0, -0.0 if kind == Kind.Q4_0 else 0
    raw[:, :, :2] = scales[:, :, None].view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", BYTES)
def test_QNT_010_the_weights_are_those_of_the_gguf_package(tmp_path, kind):
    raw = {"blk.0.attn_q.weight": (blocks(kind, 5, 3), kind), "blk.1.ffn_up.weight": (blocks(kind, 300, 2, 1), kind)}
    plain = {"norm.weight": (np.ones(7, np.float32), Kind.F32)}
    path = write(tmp_path / "x.gguf", raw | plain)
    remarks = formats.convert(path, tmp_path / "kept", to="sparse", keep_codes=True)
    assert any("stay codes: 2" in remark for remark in remarks)
    kept = formats.read(tmp_path / "kept")
    assert kept.attributes["quantised"]["grid"] == ("int8:g32" if kind == Kind.Q8_0 else "int4:g32:asym")
    expanded = coded.expanded(kept)
    for name, (data, _) in raw.items():
        theirs = gguf.dequantize(data, kind)
        ours = formats.to_dense(expanded.tensors[name])
        # a weight of 0 is pruned, whatever its sign was
        assert (ours + np.float32(0)).tobytes() == (theirs + np.float32(0)).tobytes()
        assert kept.tensors[name].nnz == np.count_nonzero(theirs)
    if kind == Kind.Q4_0:
        # the table's s ≥ 0 has -0.0 in it
        zeros = formats.to_dense(kept.tensors["blk.0.attn_q.weight.zero_point"])
        assert zeros[0, 0] == zeros[1, 0] == 0
    assert formats.to_dense(kept.tensors["norm.weight"]).tolist() == [1.0] * 7


def test_QNT_010_of_several_types_one_stays_codes(tmp_path):
    values = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    tensors = {
        "a": (blocks(Kind.Q4_0, 3, 2), Kind.Q4_0),
        "b": (blocks(Kind.Q8_0, 3, 2), Kind.Q8_0),
        "c": (gguf.quantize(values, Kind.Q5_1), Kind.Q5_1),
    }
    path = write(tmp_path / "x.gguf", tensors)
    remarks = formats.convert(path, tmp_path / "kept", to="sparse", keep_codes=True)
    assert any("become F32: 2, the first b" in remark for remark in remarks)
    kept = formats.read(tmp_path / "kept")
    assert list(kept.scales) == ["a"]
    for name in "bc":
        assert formats.to_dense(kept.tensors[name]).tobytes() == gguf.dequantize(*tensors[name]).tobytes()
    with pytest.raises(formats.FormatError, match="FMT-098"):
        formats.convert(path, tmp_path / "large", to="sparse", keep_codes=True, limit=100)


def test_QNT_010_only_matrices_decide_which_type_stays_codes(tmp_path):
    tensors = {
        "experts": (blocks(Kind.Q4_0, 6, 2).reshape(2, 3, -1), Kind.Q4_0),
        "a": (blocks(Kind.Q8_0, 3, 2), Kind.Q8_0),
    }
    formats.convert(write(tmp_path / "x.gguf", tensors), tmp_path / "kept", to="sparse", keep_codes=True)
    kept = formats.read(tmp_path / "kept")
    assert list(kept.scales) == ["a"]
    assert kept.attributes["quantised"]["grid"] == "int8:g32"
    assert formats.to_dense(kept.tensors["experts"]).shape == (2, 3, 64)


def test_QNT_010_a_name_that_is_taken_is_refused(tmp_path):
    tensors = {"a": (blocks(Kind.Q8_0, 3, 2), Kind.Q8_0), "a.scale": (np.ones(3, np.float32), Kind.F32)}
    path = write(tmp_path / "x.gguf", tensors)
    with pytest.raises(formats.FormatError, match=r"QNT-010.*'a.scale' is taken"):
        formats.convert(path, tmp_path / "out", to="sparse", keep_codes=True)


def test_QNT_010_what_has_no_such_codes_is_refused(tmp_path):
    path = write(tmp_path / "plain.gguf", {"a": (np.ones((2, 32), np.float32), Kind.F32)})
    with pytest.raises(formats.FormatError, match=r"QNT-010.*Q4_0 or Q8_0"):
        formats.convert(path, tmp_path / "out", to="sparse", keep_codes=True)
    raw = blocks(Kind.Q8_0, 3, 2)
    raw[1, :2] = np.array([-1.0], np.float16).view(np.uint8)
    path = write(tmp_path / "negative.gguf", {"a": (raw, Kind.Q8_0)})
    with pytest.raises(formats.FormatError, match=r"QNT-0(09|10)"):
        formats.convert(path, tmp_path / "out", to="sparse", keep_codes=True)
    raw[1, :2] = np.array([np.inf], np.float16).view(np.uint8)
    path = write(tmp_path / "infinite.gguf", {"a": (raw, Kind.Q8_0)})
    with pytest.raises(formats.FormatError, match=r"QNT-0(09|10)"):
        formats.convert(path, tmp_path / "out", to="sparse", keep_codes=True)
    assert not (tmp_path / "out").exists()
