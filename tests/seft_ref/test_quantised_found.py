"""What a reader of chapter 19 found: each test failed once."""

from dataclasses import replace

import numpy as np
import pytest

import formats
import seft_ref
from formats.dialects import coded
from formats.errors import FormatError
from seft_ref import load_model, save_model
from seft_ref.errors import QuantiseError
from seft_ref.files.codes import dtype_of_codes, stored_in
from seft_ref.kernels import cpu
from seft_ref.quantise.gptq import gptq
from seft_ref.quantise.grid import nearest, parse_grid, weights_of
from seft_ref.quantise.merge import beside, in_grid
from seft_ref.topology.csr import Topology, from_flat
from tests.seft_ref.folders import sparse_folder

SQUARE = from_flat((4, 4), np.arange(16))


@pytest.fixture
def nothing_beside(tmp_path):
    """A quantised model that was merged in float64 after a run that changed nothing."""
    seft_ref.quantise(sparse_folder(tmp_path / "model"), tmp_path / "quantised", "int4")
    with formats.open(tmp_path / "quantised") as reader:
        final = {}
        for name in reader.scales:
            weights = coded.weights_of(coded.read_coded(formats.reader.checkpoint_of(reader), name), np.float64)
            final[name] = Topology(weights.shape, weights.indptr, weights.indices), weights.values
    save_model(tmp_path / "quantised", tmp_path / "merged", final, merge="beside")
    return tmp_path / "merged"


def test_QNT_009_7_an_update_without_positions_has_no_effect(nothing_beside, tmp_path):
    with formats.open(nothing_beside) as reader:
        names = list(reader.scales)
        assert all(reader.info(f"{name}.update").nnz == 0 for name in names)
        assert all(reader.info(f"{name}.update").dtype == "F64" for name in names)
        assert dtype_of_codes(reader) == np.float32
        assert all(stored_in(reader, name) == reader.info(name).nnz for name in names)
        expanded = coded.expanded(formats.reader.checkpoint_of(reader))
        assert all(expanded.tensors[name].dtype == np.float32 for name in names)
    # it was refused as a model with weights beside its codes
    load_model(nothing_beside, cpu, compact=True, exact=True)
    formats.convert(nothing_beside, tmp_path / "ct", to="compressed-tensors")


@pytest.mark.parametrize("n", ["9" * 5000, "2147483648", "9" * 11])
def test_QNT_001_3_more_columns_than_an_index_counts_are_no_grid(n):
    with pytest.raises(QuantiseError, match="QNT-001: grid 'int4:g"):
        parse_grid(f"int4:g{n}")
    with pytest.raises(FormatError, match="QNT-001"):
        coded.grid_of({"quantised": {"grid": f"int4:g{n}", "rounding": "nearest"}})
    assert parse_grid("int4:g2147483647").columns(0) == 2**31 - 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_QNT_006_4_no_merge_takes_a_weight_that_is_not_finite(wrong):
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    matrix = nearest(weight, SQUARE, parse_grid("int8:asym"))
    values = weight.reshape(-1).copy()
    values[5] = wrong
    for merge in (beside, in_grid):
        with pytest.raises(QuantiseError, match="QNT-006: an effective weight is NaN or infinite"):
            merge(matrix, SQUARE, values)


def test_QNT_005_5_a_block_is_rounded_down_to_whole_groups():
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((4, 4)), rng.standard_normal((9, 4))
    hessian, grid = x.T @ x, parse_grid("int4:g2")
    for width, same in ((3, 2), (1, 2), (5, 4)):
        one, other = (gptq(weight, SQUARE, hessian, grid, block=n) for n in (width, same))
        assert weights_of(one, np.float64).tobytes() == weights_of(other, np.float64).tobytes()
    for width in (0, -5):
        with pytest.raises(QuantiseError, match="QNT-005: block is"):
            gptq(weight, SQUARE, hessian, grid, block=width)


def test_QNT_005_7_a_dead_input_is_checked_too():
    weight, x = np.array([[1.0, 0.5, 3.4e38, 1.0]]), np.eye(4)[[0, 1, 3]]
    row = from_flat((1, 4), np.arange(4))
    with pytest.raises(QuantiseError, match="QNT-003: a weight is near the largest of float32"):
        gptq(weight, row, x.T @ x, parse_grid("int4:g2"))


def test_QNT_009_3_scales_beyond_float32_are_refused_in_a_file(nothing_beside):
    with formats.open(nothing_beside) as reader:
        checkpoint = formats.reader.checkpoint_of(reader)
        name = next(iter(checkpoint.scales))
        scale = checkpoint.scales[name]["scale"]
        large = np.full(checkpoint.tensors[scale].shape, 1e38, np.float32)
        tensors = {part: checkpoint.tensors[part] for part in checkpoint.tensors} | {scale: formats.Dense(large)}
        with pytest.raises(FormatError, match=r"QNT-009: .* has a scale whose weights are beyond float32"):
            coded.read_coded(replace(checkpoint, tensors=tensors), name)
