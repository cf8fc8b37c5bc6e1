"""Casts of Hugging Face folders: rounded once, the support judged before, what does not fit refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import formats
from formats.dialects import hf


def test_FMT_126_a_cast_that_makes_zero_keeps_the_support(tmp_path):
    (tmp_path / "hf").mkdir()
    values = torch.zeros(4, 40)
    values[2, 3] = 1e-30
    save_file({"w": values}, tmp_path / "hf" / "model.safetensors")
    hf.to_sparse(tmp_path / "hf", tmp_path / "sparse", dtype="F16")
    with formats.open(tmp_path / "sparse") as reader:
        assert (reader["w"].indices.tolist(), reader["w"].values.tolist()) == ([3], [0.0])


def test_FMT_129_a_cast_from_double_to_bfloat16_rounds_once(tmp_path):
    (tmp_path / "hf").mkdir()
    # beside a tie of bfloat16, and nearer to it than float32 can tell
    beside = torch.tensor([1 + 3 * 2.0**-8 - 2.0**-40, 1 + 2.0**-8 + 2.0**-40, -1e-320], dtype=torch.float64)
    save_file({"b": beside}, tmp_path / "hf" / "model.safetensors")
    hf.to_sparse(tmp_path / "hf", tmp_path / "sparse", dtype="BF16")
    with formats.open(tmp_path / "sparse") as reader:
        assert reader["b"].values.astype(np.float64).tolist() == [1 + 2.0**-7, 1 + 2.0**-7, 0.0]


def test_FMT_126_a_cast_that_overflows_is_refused(tmp_path):
    (tmp_path / "hf").mkdir()
    save_file({"w": torch.full((2, 2), 1e30)}, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(formats.FormatError, match="FMT-126"):
        hf.to_sparse(tmp_path / "hf", tmp_path / "sparse", dtype="F16")
    assert not (tmp_path / "sparse").exists()
