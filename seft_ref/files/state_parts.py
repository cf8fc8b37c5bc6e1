"""Reads the parts of a training state, each checked (CKP-007)."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

import formats
from seft_ref.arrays.library import Array, Dtype, NumpyArray, from_numpy
from seft_ref.errors import CheckpointError
from seft_ref.files.model import topology_and_values
from seft_ref.topology.csr import Topology, placed_like

T = TypeVar("T")


class Parts:
    """Reads the tensors of one matrix from a training state, onto the device of the model's weights (CKP-009).

    It refuses a tensor that is missing, not finite, or of another shape or dtype than it must have (CKP-007).
    """

    def __init__(self, reader: formats.Reader, name: str, shape: tuple[int, int], dtype: Dtype, like: Array) -> None:
        self.reader, self.name, self.shape, self.dtype, self.like = reader, name, shape, dtype, like

    def __contains__(self, part: str) -> bool:
        return f"{self.name}.{part}" in self.reader

    def sparse(self, part: str) -> tuple[Topology, Array]:
        """Return a topology and its values."""
        tensor = self._read(part)
        if isinstance(tensor, formats.Mask) or tuple(tensor.shape) != self.shape:
            raise damaged(f"{self.name}.{part} is not a matrix of {self.shape} with values")
        topology, values = topology_and_values(self.name, tensor)
        return placed_like(topology, self.like), self._sound(part, values, self.dtype)

    def dense(self, part: str, shape: tuple[int, ...], dtype: Dtype = None) -> Array:
        """Return a dense array; refuse another shape or dtype (None is the compute dtype) and negative integers."""
        tensor = self._read(part)
        if not isinstance(tensor, formats.Dense) or tuple(tensor.shape) != shape:
            raise damaged(f"{self.name}.{part} has the shape {tuple(tensor.shape)}, must be dense of {shape}")
        return self._sound(part, tensor.values, np.dtype(dtype or self.dtype))

    def positions(self, part: str) -> Array:
        """Return the flat positions of a mask."""
        tensor = self._read(part)
        if not isinstance(tensor, formats.Mask) or tuple(tensor.shape) != self.shape:
            raise damaged(f"{self.name}.{part} is not a mask of {self.shape}")
        return from_numpy(formats.flat(tensor), self.like)

    def _read(self, part: str) -> formats.Tensor:
        if part not in self:
            raise damaged(f"there is no {self.name}.{part}")
        tensor: formats.Tensor = self.reader[f"{self.name}.{part}"]
        return tensor

    def _sound(self, part: str, values: NumpyArray, dtype: Dtype) -> Array:
        if values.dtype != dtype:
            raise damaged(f"{self.name}.{part} is {values.dtype}, must be {dtype}")
        if not np.isfinite(values).all() or (dtype.kind == "i" and (values < 0).any()):
            raise damaged(f"{self.name}.{part} holds NaN, infinity or a negative count")
        return from_numpy(values, self.like)


def attribute_of(attributes: Mapping[str, object], key: str, kind: type[T]) -> T:
    """Return an attribute; raise CKP-007 if it is not of type `kind` or is a negative integer."""
    value = attributes.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
        raise damaged(f"the attribute {key} is {str(value)[:40]!r}, must be {kind.__name__}")
    return value


START_ANEW = "remove it and start without --resume"
"""What to do with a training state that cannot be used."""


def damaged(why: str) -> CheckpointError:
    """Return the error for a state that breaks CKP-007."""
    return CheckpointError("CKP-007", f"{why}; the training state is damaged: {START_ANEW}")
