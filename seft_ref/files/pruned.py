"""Writes a pruned model as a Hugging Face folder, with a record of pruning, and reads such records (PRN-006, PRN-008).

Removed weights become +0.0.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from formats.dialects.hf import open_hf, write_hf
from formats.index import is_sparse
from seft_ref.arrays.library import Array
from seft_ref.errors import CheckpointError
from seft_ref.files.dtypes import in_compute_dtype, in_file_dtype
from seft_ref.files.model import check_names, check_shape, read_config
from seft_ref.model.config import ModelConfig
from seft_ref.prune.blockwise import finite_weight
from seft_ref.prune.record import RECORD, PruningRecord, pattern_of, read_record


@dataclass(frozen=True, slots=True)
class DenseModel:
    """An open Hugging Face folder that has the tensors of its config; tensors that are not pruned are finite.

    Attributes:
        config: the config of the model.
        read: returns a parameter by name, in the dtype to compute with.
        source: the folder as `formats` reads it.
    """

    config: ModelConfig
    read: Callable[[str], Array]
    source: Any


@contextmanager
def open_dense(folder: str | Path, dtype: str | None) -> Iterator[DenseModel]:
    """Open a Hugging Face folder to be pruned.

    Raises:
        CheckpointError: CKP-002 if it is no such folder, or lacks a tensor of its config; ConfigError; FormatError;
            PruneError PRN-006 if a tensor that is not pruned is not finite (pruners check the others).
    """
    if not Path(folder).is_dir():
        raise CheckpointError("CKP-002", f"{folder} is not a Hugging Face folder; name one that is there")
    if is_sparse(Path(folder)):
        raise CheckpointError("CKP-002", f"{folder} is not a Hugging Face folder; convert the sparse checkpoint to one")
    with open_hf(Path(folder)) as source:
        config = read_config(source.files)
        check_names(config, source)
        pruned = {matrix.name for matrix in config.targets()}
        for name, shape in config.parameters().items():
            check_shape(name, source.section(name).shape, shape)
            if name not in pruned:
                finite_weight(name, source[name].values)
        yield DenseModel(config, lambda name: in_compute_dtype(name, source[name].values, dtype), source)


class Kept:
    """The masks of the weights that stay, one bit each, and the new values of matrices that a pruner changes."""

    def __init__(self, model: DenseModel) -> None:
        self._model = model
        self.config, self.read = model.config, model.read
        self._masks: dict[str, Any] = {}
        self._changed: dict[str, Any] = {}
        self._zeros: dict[str, int] = {}

    def add(self, name: str, mask: Array, weight: Array | None = None) -> None:
        """Add a matrix: a mask (out, in), True where a weight stays, and its new values (out, in) if it has any."""
        self._masks[name] = np.packbits(mask)
        if weight is not None:
            self._changed[name] = in_file_dtype(name, weight, self._model.source[name].values.dtype)

    def removed(self) -> int:
        """Return how many weights are removed."""
        shapes = {matrix.name: matrix.shape for matrix in self._model.config.targets()}
        return sum(shapes[n][0] * shapes[n][1] - int(np.unpackbits(x).sum()) for n, x in self._masks.items())

    def remarks(self) -> tuple[str, ...]:
        """Return a converter's remarks on the folder (FMT-154) and, after `write`, how many zeros stay."""
        lines = list(self._model.source.checkpoint().remarks)
        if zeros := sum(self._zeros.values()):
            lines.append(f"{zeros:,} weights that stay were 0 in the model that was read: was it pruned already?")
        return tuple(lines)

    def config_text(self) -> bytes:
        """Return the content of config.json."""
        return bytes(self._model.source.files["config.json"])

    def write(self, destination: str | Path, record: PruningRecord) -> None:
        """Write the folder and the record: removed weights +0.0, changed ones new, others bit for bit (PRN-008)."""
        source = self._model.source
        files = dict(source.files) | {RECORD: (json.dumps(record, indent=2) + "\n").encode()}

        def fetch(name: str) -> Any:
            values = self._changed[name] if name in self._changed else source[name].values
            if name not in self._masks:
                return values
            mask = np.unpackbits(self._masks[name], count=values.size).reshape(values.shape).astype(bool)
            self._zeros[name] = int(np.count_nonzero(mask)) - int(np.count_nonzero(source[name].values[mask]))
            return np.where(mask, values, np.zeros((), values.dtype))

        write_hf(Path(destination), [source.section(name) for name in source], fetch, files)


def record_of_folder(path: str | Path) -> PruningRecord | None:
    """Return a model's record of pruning, None if it has none (PRN-008).

    Raises:
        PruneError: PRN-008 for a record that is damaged.
    """
    record = Path(path) / RECORD
    return read_record(record.read_bytes()) if record.is_file() else None


def pattern_of_folder(path: str | Path) -> tuple[int, int] | None:
    """Return the N:M pattern that a model's record of pruning names; None if it names none (EVT-007, PRN-008).

    Raises:
        PruneError: PRN-008 for a record that is damaged.
    """
    record = record_of_folder(path)
    return None if record is None else pattern_of(record)
