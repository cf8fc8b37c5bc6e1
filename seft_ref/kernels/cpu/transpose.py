# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""The topology of a transposed matrix, and the slot there of each slot of the matrix."""

import numpy as np
from jaxtyping import Int64

from seft_ref.arrays.library import NumpyArray
from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.topology.csr import Topology


def transpose(topology: Topology) -> tuple[Topology, Int64[NumpyArray, " nnz"]]:
    """Return the topology of Wᵀ and, for each slot of W, its slot in Wᵀ, (nnz,), int64."""
    n_out, n_in = topology.shape
    indptr = np.zeros(n_in + 1, dtype=np.int64)
    indices = np.empty(topology.nnz, dtype=np.int32)
    to = np.empty(topology.nnz, dtype=np.int64)
    _transpose(topology.indptr, topology.indices, indptr, indices, to)
    return Topology((n_in, n_out), indptr, indices), to


@compiled()
def _transpose(indptr, indices, starts, rows, to):
    """Fill starts (in + 1,), rows (nnz,) and to (nnz,) by a counting sort of the columns; starts must hold zeros."""
    n_out, n_in = indptr.shape[0] - 1, starts.shape[0] - 1
    for slot in range(indices.shape[0]):
        starts[indices[slot] + 1] += 1
    for c in range(n_in):
        starts[c + 1] += starts[c]
    following = starts[:n_in].copy()  # the next free slot of each column
    for r in range(n_out):
        for slot in range(indptr[r], indptr[r + 1]):
            at = following[indices[slot]]
            rows[at] = r
            to[slot] = at
            following[indices[slot]] = at + 1
