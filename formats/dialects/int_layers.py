"""Finds the parts of a quantised matrix among the tensors of a folder, and compares their shapes (FMT-172).

All parts are checked before memory is reserved, because their dtypes and shapes are in the headers of the files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from formats import validate
from formats.container import dtype_name
from formats.dialects.int_codes import SCALES, Quantised, made, unpacked, words_of
from formats.dialects.int_schemes import AWQ, CHANNEL, GPTQ, GROUP, PACKED, PLAIN, TENSOR, Scheme
from formats.errors import FormatError
from formats.lazy import like
from formats.records import Array, Dense, DType, Mask, Sparse, Tensor, to_dense

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Place of each of eight columns in a word of AWQ, counted from the lowest bits."""

_INTEGERS = ("I32", "I64")


@dataclass(frozen=True, slots=True)
class Layer:
    """A quantised matrix whose parts have been found to fit each other."""

    name: str
    """The name that the expanded matrix gets, X.weight."""
    shape: tuple[int, int]
    """(out, in)."""
    dtype: DType
    """The dtype of its scales."""
    parts: frozenset[str]
    """The names of the tensors that it consists of."""
    load: Callable[[], Quantised]
    """Reads and verifies it; raises FormatError, FMT-173."""


class Parts:
    """The tensors of a folder whose names are a module's name, a dot and a part."""

    def __init__(self, tensors: Mapping[str, Tensor], module: str) -> None:
        self.tensors = tensors
        self.module = module
        self.used: set[str] = set()

    def has(self, part: str) -> bool:
        """Return whether the module has a part."""
        return f"{self.module}.{part}" in self.tensors

    def shape(self, part: str, dtypes: frozenset[str] | tuple[str, ...], rank: int | None = None) -> tuple[int, ...]:
        """Return the shape of a part, and record that the matrix uses the part.

        Raises:
            FormatError: FMT-172 if it is not there, or has another dtype or rank.
        """
        if not self.has(part):
            self.refuse(f"its part {part!r} is missing")
        self.used.add(f"{self.module}.{part}")
        tensor, name = self._like(part), dtype_name(self.dtype(part))
        if name not in dtypes or rank not in (None, len(tensor.shape)):
            expected = " or ".join(sorted(dtypes)) + (f" of {rank} dimensions" if rank is not None else "")
            self.refuse(f"its part {part!r} is {name} of shape {list(tensor.shape)}, expected {expected}")
        return tensor.shape

    def expect(self, part: str, dtypes: frozenset[str] | tuple[str, ...], *shapes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a part after comparing it with the shapes that it may have.

        Raises:
            FormatError: FMT-172.
        """
        shape = self.shape(part, dtypes)
        if shape not in shapes:
            expected = " or ".join(str(list(allowed)) for allowed in dict.fromkeys(shapes))
            self.refuse(f"its part {part!r} has shape {list(shape)}, expected {expected} beside its other parts")
        return shape

    def dtype(self, part: str) -> DType:
        """Return the dtype of a part."""
        return self._like(part).dtype

    def _like(self, part: str) -> Dense | Sparse:
        tensor = like(self.tensors, f"{self.module}.{part}")
        assert not isinstance(tensor, Mask), "a foreign folder holds no masks"
        return tensor

    def tensor(self, part: str) -> Tensor:
        """Return a part."""
        return self.tensors[f"{self.module}.{part}"]

    def array(self, part: str) -> Array:
        """Return a part as a dense array."""
        return to_dense(self.tensor(part))

    def layer(self, scales: str, shape: tuple[int, int], load: Callable[["Parts"], Quantised]) -> Layer:
        """Return the matrix that consists of the parts recorded so far."""
        return Layer(f"{self.module}.weight", shape, self.dtype(scales), frozenset(self.used), partial(load, self))

    def refuse(self, what: str) -> NoReturn:
        """Raise an error about the matrix."""
        raise FormatError("FMT-172", f"the quantised matrix {self.module!r} cannot be read: {what}")


def layer_of(tensors: Mapping[str, Tensor], module: str, scheme: Scheme) -> Layer:
    """Return the matrix of a module, whose parts are read when it is loaded.

    Args:
        tensors: all tensors of the folder.
        module: X, where the parts are called X.qweight, X.weight_packed and so on.
        scheme: how it is quantised.

    Raises:
        FormatError: FMT-172 for parts that are missing, or whose dtypes and shapes do not fit.
    """
    parts = Parts(tensors, module)
    if scheme.source != PLAIN and parts.has("weight"):
        parts.refuse(f"there is a tensor {module + '.weight'!r} beside its codes, expected one of the two")
    if scheme.source == AWQ:
        return _awq(parts, scheme)
    if scheme.source in (PACKED, PLAIN):
        return _compressed(parts, scheme)
    return _gptq(parts, scheme)


# compressed-tensors ------------------------------------------------------------------------------


def _compressed(parts: Parts, scheme: Scheme) -> Layer:
    assert scheme.bits is not None
    if scheme.source == PACKED:
        shape = _stated_shape(parts)
    else:
        out, columns = parts.shape("weight", ("I8",), 2)
        shape = out, columns
        if not out or not columns:
            parts.refuse(f"its shape is {list(shape)}, expected at least one row and column")
    groups = _groups(parts, shape[1], scheme)
    scalars = ((), (1,), (1, 1))
    scales = scalars if scheme.strategy == TENSOR else ((shape[0], groups),)
    parts.expect("weight_scale", SCALES, *scales)
    packed_zeros = not scheme.symmetric and scheme.source == PACKED and scheme.strategy != TENSOR
    if not packed_zeros and (not scheme.symmetric or parts.has("weight_zero_point")):
        parts.expect("weight_zero_point", ("I8",), *scales)
    straddling = scheme.source == PACKED and _straddling(parts, shape, groups if packed_zeros else 0, scheme.bits)
    if parts.has("weight_g_idx"):
        parts.expect("weight_g_idx", _INTEGERS, (shape[1],))

    def load(parts: Parts) -> Quantised:
        bits, name = scheme.bits or 0, f"{parts.module}.weight"
        codes, mask = _codes(parts, scheme, shape, straddling=straddling)
        scales = np.broadcast_to(parts.array("weight_scale").reshape(-1, groups), (shape[0], groups)).copy()
        zeros = None
        if packed_zeros:
            zeros = unpacked(parts.array("weight_zero_point").T, shape[0], bits, straddling=straddling).T
        elif parts.has("weight_zero_point"):
            zeros = np.broadcast_to(parts.array("weight_zero_point").reshape(-1, groups), scales.shape).copy()
            if scheme.symmetric:
                if zeros.any():
                    raise FormatError("FMT-172", f"{name!r} is symmetric and has zero points other than 0")
                zeros = None
        of_column = _of_column(parts, "weight_g_idx", shape[1], scheme.group_size, groups)
        return made(name, codes, scales, zeros, of_column, bits, mask)

    return parts.layer("weight_scale", shape, load)


def _stated_shape(parts: Parts) -> tuple[int, int]:
    """Return the shape that a packed matrix states."""
    parts.expect("weight_shape", _INTEGERS, (2,))
    out, columns = (int(n) for n in parts.array("weight_shape"))
    if not 1 <= out <= validate.MAX_SPARSE_DIM or not 1 <= columns <= validate.MAX_SPARSE_DIM:
        parts.refuse(f"its weight_shape is {[out, columns]}, expected 1 to 2^31 - 1 rows and columns")
    return out, columns


def _straddling(parts: Parts, shape: tuple[int, int], groups: int, bits: int) -> bool:
    """Return whether codes may begin in one word and end in the next, which the counts of words show (FMT-173).

    Args:
        parts: the parts of the matrix.
        shape: (out, in).
        groups: groups of a row if zero points are packed, otherwise 0.
        bits: bits of a code.
    """
    out, columns = shape
    either = (True, False)
    packed_shape = parts.expect(
        "weight_packed", ("I32",), *((out, words_of(columns, bits, straddling=option)) for option in either)
    )
    counts = [(columns, packed_shape[1])]
    if groups:
        packed_shape = parts.expect(
            "weight_zero_point", ("I32",), *((words_of(out, bits, straddling=option), groups) for option in either)
        )
        counts.append((out, packed_shape[0]))
    fitting = [option for option in either if all(words_of(n, bits, straddling=option) == w for n, w in counts)]
    if not fitting:
        parts.refuse("its codes and its zero points are packed in two ways, expected one")
    if len(fitting) == 2 and 32 % bits and max(n for n, _ in counts) > 32 // bits:
        # since compressed-tensors 0.18 codes of 3, 5, 6 and 7 bits straddle words, but files do not state the version
        parts.refuse(f"its codes of {bits} bits take as many words in either way to pack them, and nothing tells which")
    return fitting[0]


def _groups(parts: Parts, columns: int, scheme: Scheme) -> int:
    """Return how many scales a row has."""
    if scheme.strategy != GROUP:
        return 1
    assert scheme.group_size is not None
    groups = -(-columns // scheme.group_size)
    if columns % scheme.group_size and groups > 1 and not parts.has("weight_g_idx"):
        parts.refuse(f"its {columns} columns do not divide into groups of {scheme.group_size}")
    return groups


def _codes(
    parts: Parts, scheme: Scheme, shape: tuple[int, int], *, straddling: bool
) -> tuple[NDArray[np.int8], NDArray[np.bool_] | None]:
    """Return the codes, (out, in), and the mask if a bitmask of sparsity is stored with them (FMT-150)."""
    if scheme.source == PACKED:
        return unpacked(parts.array("weight_packed"), shape[1], scheme.bits or 0, straddling=straddling), None
    weight = parts.tensor("weight")
    if not isinstance(weight, Sparse):
        return to_dense(weight), None
    ones = Sparse(weight.shape, weight.indptr, weight.indices, np.ones(weight.nnz, dtype=np.bool_))
    return to_dense(weight), to_dense(ones)


# GPTQ and AWQ ------------------------------------------------------------------------------------


def _gptq(parts: Parts, scheme: Scheme) -> Layer:
    groups, out = parts.shape("scales", SCALES, 2)
    rows, _ = parts.shape("qweight", ("I32",), 2)
    _, zero_words = parts.shape("qzeros", ("I32",), 2)
    bits = scheme.bits or (32 * zero_words // out if out else 0)
    if bits not in (2, 3, 4, 8) or not rows or not groups or not out or out * bits % 32 or rows * 32 % bits:
        parts.refuse(
            f"its qweight, qzeros and scales have the shapes {list(parts.shape('qweight', ('I32',)))}, "
            f"{list(parts.shape('qzeros', ('I32',)))} and {[groups, out]}, which do not fit 2, 3, 4 or 8 bits"
        )
    columns = rows * 32 // bits
    parts.expect("qweight", ("I32",), (rows, out))
    parts.expect("qzeros", ("I32",), (groups, out * bits // 32))
    size = columns if scheme.strategy == CHANNEL else scheme.group_size
    if size is not None and groups != -(-columns // size):
        parts.refuse(f"it has {groups} groups, expected {-(-columns // size)} of {size} of its {columns} columns")
    if parts.has("g_idx"):
        parts.expect("g_idx", _INTEGERS, (columns,))
    elif size is None or not scheme.in_order:
        parts.refuse("its part 'g_idx' is missing, and nothing else tells the groups of its columns")

    def load(parts: Parts) -> Quantised:
        name = f"{parts.module}.weight"
        codes = unpacked(parts.array("qweight").T, columns, bits, straddling=True)
        zeros = unpacked(parts.array("qzeros"), out, bits, straddling=True)
        if scheme.source == GPTQ:
            # FMT-173: the layout gptq stores each zero point minus one
            if (zeros == (1 << bits - 1) - 1).any():
                raise FormatError(
                    "FMT-173",
                    f"{name!r} has zero points of 0, which writers of the layout gptq store in ways that contradict "
                    "each other; let the program that wrote it save the layout gptq_v2",
                )
            zeros += np.int8(1)
        of_column = _of_column(parts, "g_idx", columns, size, groups)
        return made(name, codes, _turned(parts.array("scales")), _turned(zeros), of_column, bits)

    return parts.layer("scales", (out, columns), load)


def _awq(parts: Parts, scheme: Scheme) -> Layer:
    assert scheme.bits is not None
    bits, per_word = scheme.bits, 32 // scheme.bits
    columns, words = parts.shape("qweight", ("I32",), 2)
    out = words * per_word
    size = scheme.group_size or columns
    if not columns or not out or columns % size:
        parts.refuse(f"its {columns} columns and {out} rows do not divide into groups of {size}")
    groups = columns // size
    parts.expect("qzeros", ("I32",), (groups, words))
    parts.expect("scales", SCALES, (groups, out))

    def in_order(array: NDArray[np.int32]) -> NDArray[np.int8]:
        codes = unpacked(array, out, bits, straddling=False).reshape(len(array), words, per_word)
        return _turned(codes[:, :, AWQ_ORDER].reshape(len(array), out))

    def load(parts: Parts) -> Quantised:
        codes, zeros = (in_order(parts.array(part)) for part in ("qweight", "qzeros"))
        return made(f"{parts.module}.weight", codes, _turned(parts.array("scales")), zeros, _runs(columns, size), bits)

    return parts.layer("scales", (out, columns), load)


# both --------------------------------------------------------------------------------------------


def _of_column(parts: Parts, part: str, columns: int, size: int | None, groups: int) -> NDArray[np.int32]:
    """Return the group of each column, (in,), from g_idx or as runs of columns; bad values of g_idx stay bad."""
    if parts.has(part):
        # clipped before the cast, because a 64-bit index that wraps in int32 could become a valid group
        return np.clip(parts.array(part), -1, groups).astype(np.int32)
    return _runs(columns, size or columns)


def _runs(columns: int, size: int) -> NDArray[np.int32]:
    """Return the group of each column, (in,), where a group is a run of columns."""
    return (np.arange(columns) // size).astype(np.int32)


def _turned(array: Array) -> Array:
    """Return the transpose in row-major order."""
    return np.ascontiguousarray(array.T)
