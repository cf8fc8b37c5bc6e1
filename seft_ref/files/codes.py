"""Reads quantised matrices of a checkpoint for the engine, and makes their tensors (QNT-009)."""

from collections.abc import Mapping
from pathlib import Path

import formats
from formats.dialects import coded
from formats.dialects.coded import SCALE, UPDATE, ZERO
from formats.reader import checkpoint_of
from seft_ref.arrays.library import Array, Dtype, from_numpy
from seft_ref.quantise.grid import Quantised, parse_grid
from seft_ref.topology.csr import Topology, flat, placed_like, union


def own_names(source: Mapping[str, formats.Tensor]) -> set[str]:
    """Return the names of a folder's tensors without the parts of quantised matrices, such as scales."""
    if not isinstance(source, formats.Reader):
        return set(source)
    return set(source) - {part for roles in source.scales.values() for part in roles.values()}


def read_quantised(reader: formats.Reader, name: str) -> tuple[Quantised, formats.Sparse | None]:
    """Return the codes of a matrix, and the weights that stand beside them, if there are any.

    Raises:
        FormatError: QNT-009 for parts that do not fit each other or the grid, QNT-001 for the grid.
    """
    coded_matrix = coded.read_coded(checkpoint_of(reader), name)
    grid = parse_grid(coded.grid_of(reader.attributes))
    return Quantised(
        grid, _topology(coded_matrix.codes), coded_matrix.codes.values, coded_matrix.scales, coded_matrix.zeros
    ), coded_matrix.update


def placed(matrix: Quantised, like: Array) -> Quantised:
    """Return a matrix of NumPy arrays in the library and on the device of `like`."""
    codes, scales, zeros = (from_numpy(a, like) for a in (matrix.codes, matrix.scales, matrix.zeros))
    return Quantised(matrix.grid, placed_like(matrix.topology, like), codes, scales, zeros)


def _topology(tensor: formats.Sparse) -> Topology:
    return Topology((tensor.shape[0], tensor.shape[1]), tensor.indptr, tensor.indices)


def weights_in(reader: formats.Reader, name: str, dtype: Dtype) -> formats.Sparse:
    """Return the weights of a quantised matrix: those of its codes, or the weight beside a code where there is one.

    Raises:
        FormatError: as `read_quantised`.
    """
    return coded.weights_of(coded.read_coded(checkpoint_of(reader), name), dtype)


def dtype_of_codes(reader: formats.Reader) -> Dtype:
    """Return the dtype in which the weights of codes are computed by default (QNT-008.2)."""
    updates = {roles[UPDATE] for roles in reader.scales.values() if UPDATE in roles}
    counted = (reader.info(name) for name in reader.names())
    # QNT-009.7: an update without positions has no effect
    return coded.compute_dtype({info.dtype for info in counted if info.nnz or info.name not in updates})


def is_quantised(path: str | Path) -> bool:
    """Return whether matrices of a checkpoint are codes."""
    with formats.open(path) as reader:
        return coded.is_coded(checkpoint_of(reader))


def stored_in(reader: formats.Reader, name: str) -> int:
    """Return how many weights a tensor stores; for a quantised matrix weights beside its codes are included."""
    part = reader.scales.get(name, {}).get(UPDATE)
    if part is None or not reader.info(part).nnz:
        return reader.info(name).nnz
    matrix, update = read_quantised(reader, name)
    assert update is not None, "it stores positions"
    return int(union(flat(matrix.topology), flat(_topology(update))).shape[0])


def tensors_of(name: str, matrix: Quantised, update: formats.Sparse | None) -> dict[str, tuple[str, formats.Tensor]]:
    """Return role -> name and tensor of a quantised matrix; the role of its codes is empty."""
    topology = matrix.topology
    codes = formats.Sparse(topology.shape, topology.indptr, topology.indices, matrix.codes)
    parts: dict[str, tuple[str, formats.Tensor]] = {
        "": (name, codes),
        SCALE: (f"{name}.{SCALE}", formats.Dense(matrix.scales)),
    }
    if not matrix.grid.symmetric:
        parts[ZERO] = (f"{name}.{ZERO}", formats.Dense(matrix.zeros))
    if update is not None:
        parts[UPDATE] = (f"{name}.{UPDATE}", update)
    return parts
