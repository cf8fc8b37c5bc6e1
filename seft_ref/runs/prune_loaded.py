"""Pruning of a loaded model in memory: reads its parameters, and builds a model from the weights that are kept."""

import numpy as np

from seft_ref.arrays.library import Array, array_namespace, from_numpy, to_numpy
from seft_ref.errors import CheckpointError
from seft_ref.files.model import Model
from seft_ref.kernels import KernelSet, Packed
from seft_ref.layers.linear import Linear
from seft_ref.matrix.bases import AnyBase, in_packed
from seft_ref.model.weights import with_matrices
from seft_ref.prune.blockwise import finite_weight
from seft_ref.topology.csr import from_flat, placed_like
from seft_ref.update.delta import Base

_ROWS = 512
"""Rows of a matrix that are read at once."""


class KeptInMemory:
    """The weights that a pruner keeps of a loaded dense model, packed matrix by matrix."""

    def __init__(self, model: Model, kernels: KernelSet) -> None:
        """Take a model and the kernel set that packed it.

        Raises:
            CheckpointError: CKP-002 for a model whose targets have a support, because it is pruned already.
        """
        if model.bases:
            raise CheckpointError("CKP-002", "the model was loaded from a sparse checkpoint; prune a dense one")
        self.config = model.config
        self._model, self._kernels = model, kernels
        self._packed: dict[str, Packed] = {}
        self._bases: dict[str, AnyBase] = {}
        self._removed = 0

    def read(self, name: str) -> Array:
        """Return a parameter by name, in the dtype and on the device of the model.

        Raises:
            PruneError: PRN-006 for NaN and infinity.
        """
        weights = self._model.weights
        if name == "model.embed_tokens.weight":
            return finite_weight(name, weights.embed_tokens)
        if name == "model.norm.weight":
            return finite_weight(name, weights.norm)
        _, _, layer, *_, field, kind = name.split(".")
        value = getattr(weights.blocks[int(layer)], field)
        if isinstance(value, Linear):
            value = value.bias if kind == "bias" else self._dense(value.weight)
        return finite_weight(name, value)

    def add(self, name: str, mask: Array, weight: Array | None = None) -> None:
        """Add a matrix: a mask (out, in), True where a weight stays, and its new values (out, in) if it has any."""
        values = self.read(name) if weight is None else weight
        xp = array_namespace(values)
        flat = np.flatnonzero(to_numpy(mask))
        topology = placed_like(from_flat(mask.shape, flat), values)
        stored_values = xp.take(xp.reshape(values, (-1,)), from_numpy(flat, values))
        self._removed += topology.shape[0] * topology.shape[1] - topology.nnz
        self._packed[name] = self._kernels.pack(topology, stored_values)
        self._bases[name] = in_packed(Base(topology, stored_values), self._packed[name], self._kernels)

    def removed(self) -> int:
        """Return how many weights are removed."""
        return self._removed

    def model(self) -> Model:
        """Return the pruned model; it shares the weights that are not pruned with the dense model."""
        return Model(self.config, with_matrices(self._model.weights, self._packed), self._bases)

    def _dense(self, packed: Packed) -> Array:
        """Return every weight of a packed matrix: W = I W, in which each sum has one term that is not zero."""
        like = self._model.weights.norm
        xp, n_out = array_namespace(like), packed.shape[0]
        parts = []
        for first in range(0, n_out, _ROWS):
            rows = np.eye(min(_ROWS, n_out - first), n_out, first, dtype=to_numpy(like[:1]).dtype)
            parts.append(self._kernels.matmul_transposed(from_numpy(rows, like), packed))
        return parts[0] if len(parts) == 1 else xp.concat(parts)
