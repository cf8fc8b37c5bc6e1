"""Arrays and sparse records as torch tensors and back: bits, supports, and every bad index refused."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from formats import errors
from formats.dialects.torch_tensors import (
    NUMPY,
    TORCH,
    from_torch,
    from_torch_csr,
    to_semi_structured,
    to_torch,
    to_torch_csr,
)
from formats.records import Mask, Sparse, from_dense, from_support, to_dense, with_values

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse C"),
    pytest.mark.filterwarnings("ignore:Sparse B"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor"),
]

DTYPES = sorted(TORCH, key=str)


def every_bit(dtype: np.dtype) -> np.ndarray:
    """All bit patterns of a small dtype, and a spread of those of a large one: NaN payloads and −0.0 are among them."""
    if dtype == np.bool_:
        return np.array([False, True, True])
    if dtype.itemsize <= 2:
        return np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    raw = np.random.default_rng(0).integers(0, 2**64, 101, dtype=np.uint64, endpoint=False)
    raw[:6] = (0x7FF0000000000001, 0xFFF8DEADBEEF1234, 0x7F800001_FFC0BEEF, 1 << 63, 0x80000000_00000000, 2**64 - 1)
    return raw.view(dtype)


def small() -> Sparse:
    """[5 . 0; . . .; . 7 .], float32: a stored zero, an empty row, a row that begins late."""
    return Sparse(
        (3, 3),
        np.array([0, 2, 2, 3], dtype=np.int64),
        np.array([0, 2, 1], dtype=np.int32),
        np.array([5, 0, 7], dtype=np.float32),
    )


def csr(row_ptr=(0, 2, 2, 3), columns=(0, 2, 1), values=(5.0, 0.0, 7.0), shape=(3, 3), index=torch.int64):
    """A CSR tensor that torch does not look at."""
    return torch.sparse_csr_tensor(
        torch.tensor(row_ptr, dtype=index),
        torch.tensor(columns, dtype=index),
        torch.tensor(values),
        size=shape,
        check_invariants=False,
    )


def coo(indices=((0, 0, 2), (0, 2, 1)), values=(5.0, 0.0, 7.0), shape=(3, 3), **flags):
    return torch.sparse_coo_tensor(torch.tensor(indices), torch.tensor(values), shape, check_invariants=False, **flags)


def same(a: Sparse, b: Sparse) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes()
        for x, y in ((a.indptr, b.indptr), (a.indices, b.indices), (a.values, b.values))
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_keeps_every_bit(dtype):
    array = every_bit(dtype)
    tensor = to_torch(array)
    assert tensor.dtype == TORCH[dtype] == {v: k for k, v in NUMPY.items()}[dtype]
    assert tensor.untyped_storage().nbytes() == array.nbytes
    assert bytes(tensor.untyped_storage()) == array.tobytes()
    back = from_torch(tensor)
    assert back.dtype == dtype
    assert back.tobytes() == array.tobytes()


def test_torch_and_numpy_read_the_same_numbers():
    for dtype in DTYPES:
        if dtype.name.startswith(("bfloat", "float")):
            with np.errstate(invalid="ignore"):
                ours = every_bit(dtype).astype(np.float64)
            assert np.array_equal(ours, to_torch(every_bit(dtype)).to(torch.float64).numpy(), equal_nan=True), dtype


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (1,), (3, 5, 7), (2, 1, 3, 1, 2)])
def test_every_shape_and_layout_survives(shape):
    for dtype in (np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.bool_):
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        turned = tuple(reversed(range(len(shape))))
        tensor = to_torch(array.transpose(turned))
        assert tensor.is_contiguous()
        back = from_torch(tensor.permute(turned))
        assert (back.shape, back.tobytes()) == (shape, array.tobytes())


def test_what_comes_to_torch_is_a_copy():
    array = np.zeros(3, dtype=np.float32)
    array.flags.writeable = False
    to_torch(array)[0] = 1
    assert not array.any()


def test_conjugate_and_negative_views_are_resolved():
    tensor = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    assert from_torch(tensor.conj()).tolist() == [1 - 2j, 3 + 4j]
    assert from_torch(tensor.conj().imag).tolist() == [-2, 4]


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.float4_e2m1fn, ml_dtypes.float6_e2m3fn, ml_dtypes.int4, np.complex128, ">f4", "S3"]
)
def test_FMT_154_a_dtype_that_torch_lacks_is_refused(dtype):
    with pytest.raises(errors.CannotHold, match="cast it first"):
        to_torch(np.zeros(2, dtype=dtype))


class Marked(torch.Tensor):
    """A subclass as libraries make them."""


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.complex128),
        torch.zeros(2, device="meta"),
        torch.zeros(2).as_subclass(Marked),
        torch.eye(2).to_sparse(),
    ],
    ids=["complex128", "meta", "subclass", "sparse"],
)
def test_FMT_154_a_tensor_that_no_array_equals_is_refused(tensor):
    with pytest.raises(errors.CannotHold):
        from_torch(tensor)


@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_csr_keeps_support_and_bits(dtype, index):
    values = every_bit(dtype)[:97]
    present = np.zeros((11, 13), dtype=np.bool_)
    present.flat[np.random.default_rng(1).choice(143, len(values), replace=False)] = True
    sparse = with_values(from_support(present), values)
    tensor = to_torch_csr(sparse, index_dtype=index)
    assert (tensor.layout, tensor.crow_indices().dtype, tensor.dtype) == (torch.sparse_csr, index, TORCH[dtype])
    assert same(from_torch_csr(tensor), sparse)


def test_csr_is_the_matrix_that_torch_sees():
    sparse = small()
    tensor = to_torch_csr(sparse)
    assert tensor.to_dense().tolist() == [[5, 0, 0], [0, 0, 0], [0, 7, 0]]
    assert tensor.values().tolist() == [5, 0, 7]
    sparse.values[0] = 9
    assert tensor.values()[0] == 5


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1), (7, 3)])
def test_a_matrix_without_values_survives(shape):
    sparse = from_dense(np.zeros(shape, dtype=np.float32))
    assert same(from_torch_csr(to_torch_csr(sparse)), sparse)


def test_parts_are_owned_and_not_views_of_a_larger_storage():
    tensor = torch.eye(50).to_sparse_csr()
    assert tensor.col_indices().untyped_storage().nbytes() > 8 * 50
    sparse = from_torch_csr(tensor)
    assert sparse.values.base is None
    assert to_torch_csr(sparse).col_indices().untyped_storage().nbytes() == 8 * 50


@pytest.mark.parametrize("index", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_indices_of_any_integer_dtype_are_read(index):
    assert same(from_torch_csr(csr(index=index)), small())


@pytest.mark.parametrize(
    "edit",
    [
        {"row_ptr": (1, 2, 2, 3)},
        {"row_ptr": (0, 2, 2, 2)},
        {"row_ptr": (0, 3, 2, 3)},
        {"row_ptr": (0, 2, 3)},
        {"columns": (0, 3, 1)},
        {"columns": (0, 5_000_000, 1)},
        {"columns": (-1, 2, 1)},
        {"columns": (2, 0, 1)},
        {"columns": (0, 0, 1)},
        {"columns": (0, 2)},
        {"values": (5.0, 0.0)},
        {"columns": (0.0, 2.0, 1.0), "index": torch.float32},
    ],
    ids=str,
)
def test_FMT_153_wrong_csr_indices_are_refused(edit):
    with pytest.raises(errors.FormatError, match="FMT-153"):
        from_torch_csr(csr(**edit))


def test_coo_of_any_rank_is_read_whatever_its_flag_says():
    assert same(from_torch_csr(coo()), small())
    assert same(from_torch_csr(coo(is_coalesced=True)), small())
    assert same(from_torch_csr(coo().coalesce()), small())
    cube = np.zeros((3, 4, 5), dtype=np.float32)
    cube.flat[[7, 20, 59]] = (1, 2, 3)
    for dense in (cube, cube[1], cube[1, 0]):
        assert same(from_torch_csr(torch.from_numpy(dense.copy()).to_sparse()), from_dense(dense))


@pytest.mark.parametrize(
    "edit",
    [
        {"indices": ((0, 0, 2), (2, 0, 1))},
        {"indices": ((0, 0, 2), (0, 0, 1)), "is_coalesced": True},
        {"indices": ((2, 0, 0), (1, 0, 2)), "is_coalesced": True},
        {"indices": ((0, 0, 3), (0, 2, 1))},
        {"indices": ((0, 0, 2), (0, 3, 1))},
        {"indices": ((0, 0, 2), (-1, 2, 1))},
    ],
    ids=str,
)
def test_FMT_153_wrong_coo_indices_are_refused(edit):
    with pytest.raises(errors.FormatError, match="FMT-153"):
        from_torch_csr(coo(**edit))


def test_row_pointers_are_bounded_before_they_are_made():
    with pytest.raises(errors.ExpansionTooLarge):
        from_torch_csr(coo(shape=(2**30, 3)), limit=2**20)


OTHERS = {
    "csc": lambda: torch.eye(4).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "dense": lambda: torch.eye(4),
    "batch": lambda: torch.ones(2, 3, 3).to_sparse_csr(),
    "hybrid": lambda: torch.ones(2, 3).to_sparse(1),
    "columns": lambda: coo(shape=(3, 2**31)),
    "scalar": lambda: torch.sparse_coo_tensor(
        torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0), (), check_invariants=True
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_FMT_154_other_layouts_are_refused(other):
    with pytest.raises(errors.CannotHold):
        from_torch_csr(OTHERS[other]())


def test_FMT_154_what_is_no_matrix_with_values_is_refused():
    sparse = small()
    for tensor in (
        Mask(sparse.shape, sparse.indptr, sparse.indices),
        from_dense(np.ones(3)),
        from_dense(np.ones((2, 2, 2))),
        from_dense(np.ones((2, 2), dtype=ml_dtypes.float6_e3m2fn)),
    ):
        with pytest.raises(errors.CannotHold):
            to_torch_csr(tensor)


def test_a_record_is_verified_before_torch_sees_it():
    s = small()
    with pytest.raises(errors.FormatError, match="FMT-068"):
        to_torch_csr(Sparse((3, 2), s.indptr, s.indices, s.values))
    with pytest.raises(errors.FormatError, match="FMT-015"):
        to_torch_csr(Sparse(s.shape, s.indptr.astype(np.int32), s.indices, s.values))
    with pytest.raises(errors.FormatError, match="FMT-084"):
        to_torch_csr(s, index_dtype=torch.int16)


SEMI = [(np.float16, 32, 128), (ml_dtypes.bfloat16, 96, 64), (np.int8, 16, 256), (np.float32, 64, 96)]


def pruned(dtype, rows, columns, full=False):
    """A support of at most half of each group, or of just half."""
    group = 2 if dtype == np.float32 else 4
    g = np.random.default_rng(3)
    order = g.random((rows, columns // group, group)).argsort(axis=2)
    most = group // 2 if full else g.integers(0, group // 2 + 1, (rows, columns // group, 1))
    return from_support((order < most).reshape(rows, columns))


@pytest.mark.parametrize(("dtype", "rows", "columns"), SEMI)
def test_semi_structured_is_unpacked_by_torch_to_the_same_bits(dtype, rows, columns):
    mask = pruned(dtype, rows, columns)
    values = np.random.default_rng(4).integers(-3, 4, mask.nnz).astype(dtype)
    if dtype != np.int8:
        values[::5] = -0.0
        values[1] = np.nan
    sparse = with_values(mask, values)
    tensor = to_semi_structured(sparse)
    assert isinstance(tensor, SparseSemiStructuredTensorCUTLASS)
    # torch's scatter rewrites a NaN of bfloat16, not the same bits as float16
    carrier = torch.float16 if dtype == ml_dtypes.bfloat16 else tensor.dtype
    unpacked = sparse_semi_structured_to_dense_cutlass(tensor.packed.view(carrier), tensor.meta)
    assert from_torch(unpacked).tobytes() == to_dense(sparse).tobytes()
    assert tuple(tensor.shape) == sparse.shape


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("dtype", "rows", "columns"), SEMI)
def test_semi_structured_has_the_bytes_that_torch_packs(dtype, rows, columns, full):
    mask = pruned(dtype, rows, columns, full)
    sparse = with_values(mask, np.random.default_rng(5).integers(1, 9, mask.nnz).astype(dtype))
    packed, meta = sparse_semi_structured_from_dense_cutlass(to_torch(to_dense(sparse)))
    tensor = to_semi_structured(sparse)
    assert torch.equal(tensor.packed, packed)
    assert torch.equal(tensor.meta, meta)


def test_FMT_154_what_no_semi_structured_kernel_takes_is_refused():
    good = pruned(np.float16, 32, 64)
    with pytest.raises(errors.CannotHold, match="F16, BF16"):
        to_semi_structured(with_values(good, np.ones(good.nnz)))
    with pytest.raises(errors.CannotHold, match="F16, BF16"):
        to_semi_structured(good)
    with pytest.raises(errors.CannotHold, match="multiples of"):
        to_semi_structured(from_dense(np.zeros((32, 60), dtype=np.float16)))
    three = np.zeros((32, 64), dtype=np.float16)
    three[3, 8:11] = 1
    with pytest.raises(errors.CannotHold, match=r"row 3 .* stores 3 of columns 8 to 11"):
        to_semi_structured(from_dense(three))
    pair = np.zeros((32, 32), dtype=np.float32)
    pair[0, 2:4] = 1
    with pytest.raises(errors.CannotHold, match="columns 2 to 3"):
        to_semi_structured(from_dense(pair))
