"""Reads a pruned model that is to be quantised, and writes it as codes (QNT-009)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import formats
from formats.dialects.coded import ATTRIBUTE, SCALE, ZERO
from formats.lazy import Lazy
from formats.reader import checkpoint_of
from seft_ref.arrays.library import NumpyArray
from seft_ref.errors import QuantiseError
from seft_ref.files.codes import tensors_of
from seft_ref.files.model import (
    check_names,
    check_shape,
    open_folder,
    open_parameters,
    read_config,
    topology_and_values,
    with_values_in,
)
from seft_ref.model.config import ModelConfig
from seft_ref.quantise.grid import Quantised
from seft_ref.topology.csr import Topology


@dataclass(frozen=True, slots=True)
class StoredModel:
    """An open folder of a pruned model.

    Attributes:
        config: the config of the model.
        read: returns a parameter by name, dense and in the dtype to compute with.
        checkpoint: the folder as `formats` reads it.
        dense: whether it is a Hugging Face folder, in which a weight of 0 counts as pruned.
    """

    config: ModelConfig
    read: Callable[[str], NumpyArray]
    checkpoint: formats.Checkpoint
    dense: bool

    def topology(self, name: str) -> Topology:
        """Return the stored positions of a matrix."""
        tensor = with_values_in(name, self.checkpoint.tensors[name])
        if self.dense:
            tensor = formats.from_dense(tensor.values)
        return topology_and_values(name, tensor)[0]

    def write(self, destination: str | Path, matrices: Mapping[str, Quantised], rounding: str) -> None:
        """Write a quantised checkpoint; all tensors but the targets are copied bit for bit (CKP-005, QNT-009).

        matrices  for each target its codes; their positions come from the folder, and the topology is ignored
        rounding  how the codes were computed, ``"nearest"`` or ``"gptq"``
        """
        source, grid = self.checkpoint, next(iter(matrices.values())).grid
        parts = (SCALE,) if grid.symmetric else (SCALE, ZERO)
        owner = {f"{name}.{part}": (name, part) for name in matrices for part in parts}

        def make(name: str) -> formats.Tensor:
            if name in owner:
                matrix, part = owner[name]
                return tensors_of(matrix, matrices[matrix], None)[part][1]
            if name not in matrices:
                return source.tensors[name]
            return tensors_of(name, replace(matrices[name], topology=self.topology(name)), None)[""][1]

        checkpoint = replace(
            source,
            tensors=Lazy([*source.tensors, *owner], make),
            attributes={**source.attributes, ATTRIBUTE: {"grid": str(grid), "rounding": rounding}},
            scales={name: {part: f"{name}.{part}" for part in parts} for name in matrices},
        )
        formats.write(destination, checkpoint)


@contextmanager
def open_stored(folder: str | Path, dtype: str | None) -> Iterator[StoredModel]:
    """Open a sparse checkpoint or a Hugging Face folder that is to be quantised.

    Raises:
        QuantiseError: QNT-009 if it is quantised already.
        CheckpointError: CKP-002 if there is no model, or it lacks a tensor of its config; ConfigError; FormatError.
    """
    with open_folder(folder) as source, open_parameters(folder, dtype) as read:
        checkpoint = checkpoint_of(source) if isinstance(source, formats.Reader) else source.checkpoint()
        if checkpoint.scales:
            raise QuantiseError("QNT-009", f"{folder} is quantised already; quantise the model that it was made from")
        config = read_config(source.files)
        check_names(config, source)
        for name, shape in config.parameters().items():
            check_shape(name, source[name].shape, shape)
        yield StoredModel(config, read, checkpoint, dense=not isinstance(source, formats.Reader))


def zeros_among(matrix: Quantised) -> int:
    """Return how many codes of a matrix stand for 0; the matrix must have its topology."""
    _, zeros = matrix.parts_at(matrix.topology)
    return int(np.count_nonzero(matrix.codes == zeros))
