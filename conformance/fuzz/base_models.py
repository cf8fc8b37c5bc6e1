"""Small base models as plain bytes: readers get them as records of `formats`, plain definitions as lists of values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from random import Random

import numpy as np

from conformance.oracle import files, files_deltas
from conformance.oracle.files import BITS
from conformance.oracle.foreign import DTYPES as ALL_DTYPES
from conformance.oracle.foreign import Refused
from formats.container import DTYPES
from formats.records import Dense, Mask, Sparse, Tensor

SHAPES = ((4,), (7,), (2, 3), (3, 5), (1, 8), (5, 1), (2, 2, 3), (4, 4))
ODD_SHAPES = ((), (0,), (0, 3), (3, 0), (1,), (1, 1, 1, 1, 1, 1, 1, 2))
NAMES = ("a.weight", "b.weight", "c", "layers.0.q_proj.weight", "format", "é")


@dataclass(frozen=True)
class Plain:
    """A tensor of a base: `data` has all values, row-major; if it is sparse, values whose bits are all 0 are absent."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    sparse: bool = False

    @property
    def width(self) -> int:
        """Number of bytes of a value in memory."""
        return max(BITS[self.dtype] // 8, 1)

    def cells(self) -> list[bytes]:
        """Return the bytes of each value."""
        return [self.data[i : i + self.width] for i in range(0, len(self.data), self.width)]

    def tensor(self) -> files.Tensor:
        """Return it as a tensor of plain definitions."""
        if not self.sparse:
            return files.Tensor(self.dtype, self.shape, self.data)
        stored = {at: cell for at, cell in enumerate(self.cells()) if any(cell)}
        return files_deltas.tensor(self.dtype, self.shape, stored)


def random_tensor(chance: Random, dtype: str, shape: tuple[int, ...]) -> Plain:
    """Return a tensor of random bits (0 or 1 for BOOL); three in ten are sparse, with about half of their values."""
    size = prod(shape) * max(BITS[dtype] // 8, 1)
    data = chance.randbytes(size)
    if dtype == "BOOL":
        data = bytes(byte & 1 for byte in data)
    one = Plain(dtype, shape, data)
    if shape and chance.random() < 0.3:
        kept = [cell if chance.random() < 0.5 else bytes(one.width) for cell in one.cells()]
        one = replace(one, data=b"".join(kept), sparse=True)
    return one


def record(one: Plain) -> Dense | Sparse:
    """Return a tensor as a record of `formats`."""
    values = np.frombuffer(one.data, DTYPES[one.dtype])
    if not one.sparse:
        return Dense(values.reshape(one.shape))
    present = [i for i, cell in enumerate(one.cells()) if any(cell)]
    columns, rows = max(one.shape[-1], 1), prod(one.shape[:-1])
    indptr = np.searchsorted([i // columns for i in present], np.arange(rows + 1)).astype(np.int64)
    return Sparse(one.shape, indptr, np.array([i % columns for i in present], np.int32), values[present])


def records(base: Mapping[str, Plain]) -> dict[str, Tensor]:
    """Return the tensors of a base as records of `formats`."""
    return {name: record(one) for name, one in base.items()}


def sizes(base: Mapping[str, Plain]) -> int:
    """Return the number of bytes of a base."""
    return sum(len(one.data) for one in base.values())


def stored(tensor: Tensor) -> dict[int, bytes]:
    """Return the bytes of each value that a record stores, by flat position.

    Raises:
        Refused: the record has no values, or its positions are out of order, outside the shape, or repeated.
    """
    if isinstance(tensor, Mask):
        raise Refused("values")
    width, raw = tensor.values.dtype.itemsize, np.ascontiguousarray(tensor.values).tobytes()
    cells = [raw[i : i + width] for i in range(0, len(raw), width)]
    if isinstance(tensor, Dense):
        return dict(enumerate(cells))
    bounds, columns = tensor.indptr.tolist(), tensor.indices.tolist()
    rows, width_of_row = prod(tensor.shape[:-1]), tensor.shape[-1]
    if len(bounds) != rows + 1 or bounds[0] != 0 or bounds[-1] != len(columns) or len(cells) != len(columns):
        raise Refused("row pointers")
    positions = []
    for row in range(rows):
        own = columns[bounds[row] : bounds[row + 1]]
        if own != sorted(set(own)) or (own and not 0 <= own[0] <= own[-1] < width_of_row):
            raise Refused("columns that rise within the row")
        positions += [row * width_of_row + column for column in own]
    if len(positions) != len(columns):
        raise Refused("rows that hold every slot")
    return dict(zip(positions, cells, strict=True))


def disturbed(chance: Random, base: dict[str, Plain]) -> None:
    """Change the base instead of the input: give a tensor another dtype, shape or values, or remove it."""
    name, kind = chance.choice(sorted(base)), chance.randrange(5)
    one = base[name]
    if kind == 0:
        base[name] = random_tensor(chance, chance.choice(ALL_DTYPES), one.shape)
    elif kind == 1:
        base[name] = random_tensor(chance, one.dtype, chance.choice((*SHAPES, *ODD_SHAPES)))
    elif kind == 2:
        base[name] = random_tensor(chance, one.dtype, one.shape)
    elif kind == 3:
        base.pop(name)
    else:
        base[name] = replace(one, shape=(prod(one.shape),))
