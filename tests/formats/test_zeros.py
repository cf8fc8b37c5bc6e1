"""FMT-127: which zeros of a dense tensor are absent, in folders as common tools leave them, and in every dtype."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.utils import prune

import formats
from formats import records
from formats.container import DTYPES
from formats.dialects import hf
from formats.dialects.sparsify import LEFT_OUT
from formats.errors import FormatError

SPARSITY = 0.7


def by_mask(dtype):
    """A matrix of which a mask makes 70 % zero: −0.0 where a weight was negative."""
    g = torch.Generator().manual_seed(5)
    weight = torch.randn(60, 80, generator=g).to(dtype)
    return weight * (torch.rand(60, 80, generator=g) >= SPARSITY)


def by_torch_prune(dtype):
    """The same by torch.nn.utils.prune, made permanent by prune.remove."""
    torch.manual_seed(5)
    linear = torch.nn.Linear(80, 60).to(dtype)
    prune.l1_unstructured(linear, "weight", SPARSITY)
    prune.remove(linear, "weight")
    return linear.weight.detach()


def hf_folder(path, tensors):
    path.mkdir()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("made", [by_mask, by_torch_prune])
def test_FMT_127_a_folder_pruned_by_a_mask_stays_as_sparse_as_it_was(tmp_path, made, dtype):
    weight = made(dtype)
    negative = int(((weight == 0) & torch.signbit(weight)).sum())
    assert negative > 0.3 * weight.numel()  # what the tools really leave behind
    folder = hf_folder(tmp_path / "hf", {"w": weight})

    remarks = hf.to_sparse(folder, tmp_path / "any")
    with formats.open(tmp_path / "any") as reader:
        assert reader.info("w").nnz == int((weight != 0).sum())
        assert reader.info("w").nnz == pytest.approx((1 - SPARSITY) * weight.numel(), rel=0.05)
        assert reader.attributes == {LEFT_OUT: negative}
    count = f"{negative:,} entries of −0.0"
    told = f"{count} were left out as absent weights, and come back as +0.0; --zeros positive stores them"
    assert remarks == (told,)
    hf.to_hf(tmp_path / "any", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")["w"]
    assert raw(back) == raw(torch.where(weight == 0, torch.zeros_like(weight), weight))
    # what came back has no −0.0 left, and converts to the same tensors without a remark
    assert hf.to_sparse(tmp_path / "back", tmp_path / "again") == ()
    with formats.open(tmp_path / "any") as one, formats.open(tmp_path / "again") as two:
        assert one.state_sha256 == two.state_sha256

    remarks = hf.to_sparse(folder, tmp_path / "positive", encoding="bitmask", zeros="positive")
    with formats.open(tmp_path / "positive") as reader:
        assert reader.info("w").nnz == int((weight != 0).sum()) + negative
        assert reader.attributes == {}
    assert remarks == (f"{count} are stored as weights; --zeros any leaves them out",)
    hf.to_hf(tmp_path / "positive", tmp_path / "exact")
    assert raw(load_file(tmp_path / "exact" / "model.safetensors")["w"]) == raw(weight)


def test_FMT_127_a_tensor_that_stays_dense_keeps_every_bit_and_is_not_counted(tmp_path):
    weight = torch.ones(20, 20)
    weight[3, 4] = -0.0
    folder = hf_folder(tmp_path / "hf", {"w": weight, "b": torch.tensor([-0.0, 1.0])})
    for zeros, remarks in (("any", 0), ("positive", 1)):
        assert len(hf.to_sparse(folder, tmp_path / zeros, zeros=zeros)) == remarks
        with formats.open(tmp_path / zeros) as reader:
            assert reader.attributes == {}
            assert reader["w"].values.tobytes() == raw(weight)
    # every matrix becomes sparse, and loses one entry
    hf.to_sparse(folder, tmp_path / "csr", encoding="csr")
    with formats.open(tmp_path / "csr") as reader:
        assert (reader["w"].nnz, reader.attributes) == (399, {LEFT_OUT: 1})


def test_FMT_127_auto_compares_sizes_with_the_support_that_is_chosen(tmp_path):
    weight = torch.full((64, 64), -0.0)
    weight[:, ::2] = 1.0
    folder = hf_folder(tmp_path / "hf", {"w": weight})
    for zeros, encoding in (("any", "nm"), ("positive", "dense")):
        hf.to_sparse(folder, tmp_path / zeros, zeros=zeros)
        with formats.open(tmp_path / zeros) as reader:
            assert reader.info("w").encoding == encoding


def test_FMT_127_the_support_is_judged_before_a_cast(tmp_path):
    weight = torch.zeros(4, 40)
    weight[1, 2], weight[2, 3] = -1e-30, -0.0
    hf.to_sparse(hf_folder(tmp_path / "hf", {"w": weight}), tmp_path / "s", dtype="F16")
    with formats.open(tmp_path / "s") as reader:
        assert reader["w"].values.tobytes() == np.float16(-0.0).tobytes()
        assert reader["w"].indices.tolist() == [2]
        assert reader.attributes == {"cast": "F16", LEFT_OUT: 1}


def test_FMT_084_another_word_is_refused(tmp_path):
    folder = hf_folder(tmp_path / "hf", {"w": torch.zeros(4, 40)})
    for call in (
        lambda: hf.to_sparse(folder, tmp_path / "s", zeros="negative"),
        lambda: formats.from_dense(np.zeros((2, 2)), "negative"),
        lambda: records.count_stored(np.zeros(2), "negative"),
    ):
        with pytest.raises(formats.FormatError, match=r"FMT-084.*'negative' does not exist, expected any or positive"):
            call()
    assert not (tmp_path / "s").exists()


def equals_zero(dtype_name, pattern):
    """Tell whether a bit pattern of a dtype of one byte is a zero, by its layout and not by a library."""
    signs = {"F4": 0x8, "F6_E2M3": 0x20, "F6_E3M2": 0x20, "F8_E5M2": 0x80, "F8_E4M3": 0x80}
    if dtype_name == "F8_E8M0":
        return False  # 2^-127 and upwards
    return pattern in (0, signs.get(dtype_name, 0))


@pytest.mark.parametrize("name", [n for n, d in DTYPES.items() if d.itemsize == 1 and n not in ("BOOL", "F8_E8M0")])
def test_FMT_127_every_pattern_of_a_byte(name):
    width = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}.get(name, 8)
    patterns = np.arange(2**width, dtype=np.uint8).reshape(2, -1)
    for zeros in ("any", "positive"):
        found = formats.from_dense(patterns.view(DTYPES[name]), zeros)
        expected = [p for p in range(2**width) if not (equals_zero(name, p) if zeros == "any" else p == 0)]
        assert found.values.view(np.uint8).tolist() == expected
        rows = np.repeat(np.arange(2), np.diff(found.indptr))
        assert (rows * patterns.shape[1] + found.indices).tolist() == expected


def test_FMT_127_complex_numbers_have_two_signs():
    values = np.array([[0, complex(-0.0, 0), complex(0, -0.0), complex(-0.0, -0.0), 1j]], np.complex64)
    assert formats.from_dense(values).indices.tolist() == [4]
    assert formats.from_dense(values, "positive").indices.tolist() == [1, 2, 3, 4]


HALVES = st.sampled_from([np.float16, ml_dtypes.bfloat16])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 0x8000, 1, 0x8001, 0x7FC1, 0xFFC1, 0x3C00]), min_size=6, max_size=6),
    HALVES,
    st.sampled_from(["any", "positive"]),
)
def test_FMT_125_FMT_127_there_and_back(patterns, dtype, zeros):
    values = np.array(patterns, np.uint16).view(dtype).reshape(2, 3)
    back = formats.to_dense(formats.from_dense(values, zeros)).view(np.uint16).reshape(-1)
    expected = [0 if zeros == "any" and p == 0x8000 else p for p in patterns]
    assert back.tolist() == expected


def test_FMT_159_a_folder_of_layers_that_are_still_masked_is_refused(tmp_path):
    weight, mask = torch.randn(4, 6), torch.ones(4, 6)
    folder = hf_folder(tmp_path / "hf", {"fc.weight_orig": weight, "fc.weight_mask": mask, "fc.bias": torch.ones(4)})
    with pytest.raises(FormatError, match=r"FMT-159: .* 'fc.weight_orig' and its mask, .* prune.remove") as refused:
        hf.to_sparse(folder, tmp_path / "out")
    assert refused.value.clause == "FMT-159"
    assert not (tmp_path / "out").exists()
    # a mask beside another tensor is a tensor as any other
    hf.to_sparse(hf_folder(tmp_path / "other", {"fc.weight": weight, "fc.weight_mask": mask}), tmp_path / "out")
