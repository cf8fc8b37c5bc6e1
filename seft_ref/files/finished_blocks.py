"""The blocks that a pruner has finished, one file each, from which a stopped run goes on (PRN-019).

A file holds the mask of every target of a block, with the new weights where the method changes them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import formats
from seft_ref.arrays.library import NumpyArray
from seft_ref.errors import PruneError
from seft_ref.prune.blockwise import Results

KIND = "pruning-state"
BLOCKS = "block-*.seft"
"""The files of finished blocks in their folder."""
_DIGESTS = ("config", "windows", "embedding")
"""Keys of a run that have digests as values; the windows are those of the calibration text."""


class FinishedBlocks:
    """The finished blocks of one run, in a folder that is created with the first of them."""

    def __init__(self, folder: Path, run: Mapping[str, formats.JSON], *, changes: bool, resume: bool) -> None:
        """Begin a run, or go on with one.

        folder   where the files are
        run      settings, and digests of the data, on which the blocks depend besides their weights
        changes  whether the method changes the bits of weights that stay
        resume   go on from the blocks in `folder`; without it the folder must not exist
        Raises   PruneError PRN-019 with `resume` if the folder has no finished block, without it if the folder exists
        """
        if resume and not any(folder.glob(BLOCKS)):
            raise PruneError("PRN-019", f"there is no {folder} with a block to resume from; start without resume")
        if folder.exists() and not resume and (not folder.is_dir() or any(folder.iterdir())):
            raise PruneError("PRN-019", f"{folder} holds the blocks of an unfinished run; resume it or remove it")
        self._folder, self._run, self._changes = folder, json.loads(json.dumps(run)), changes
        self._digests: dict[int, str] = {}
        self._sparsities: list[float] | None = None
        if resume and self._file(0).is_file():
            self._sparsities = json.loads(self._attributes(0)["sparsities"])

    def sparsities(self, measure: Callable[[], list[float]]) -> list[float]:
        """Return the sparsity of every block by OWL: from the finished blocks, or else from `measure`."""
        self._sparsities = self._sparsities or measure()
        return self._sparsities

    def known(self, layer: int, parameters: Mapping[str, NumpyArray], targets: Sequence[str]) -> Results | None:
        """Return the results of a finished block, None if it is not finished.

        parameters  all parameters of the block, as they are before it is pruned
        targets     names of the parameters that are pruned
        Raises      PruneError PRN-019 for a block of other settings, another text or other weights; FormatError for a
                    file that is damaged
        """
        self._digests[layer] = digest_of(parameters)
        if not self._file(layer).is_file():
            return None
        if self._attributes(layer)["weights"] != self._digests[layer]:
            raise PruneError("PRN-019", f"{self._file(layer)} was made of other weights; remove {self._folder}")
        results: dict[str, tuple[NumpyArray, NumpyArray]] = {}
        with formats.open(self._file(layer)) as reader:
            for name in reader.names():
                tensor = reader[name]
                if isinstance(tensor, formats.Sparse):
                    mask = formats.Mask(tensor.shape, tensor.indptr, tensor.indices)
                    results[name] = formats.to_dense(mask), formats.to_dense(tensor)
                else:
                    dense_mask, weight = formats.to_dense(tensor), parameters[name]
                    results[name] = dense_mask, np.where(dense_mask, weight, np.zeros_like(weight))
        if missing := sorted(set(targets) ^ results.keys()):
            raise PruneError("PRN-019", f"{self._file(layer)} does not fit the block at {missing[0]}; remove it")
        return results

    def finished(self, layer: int, results: Results) -> None:
        """Write the results of a block to its file, atomically."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: self._tensor(mask, weight) for name, (mask, weight) in results.items()}
        # as JSON texts, because attributes hold no floats (FMT-011)
        attributes: dict[str, formats.JSON] = {
            "run": json.dumps(self._run),
            "sparsities": json.dumps(self._sparsities),
            "weights": self._digests[layer],
        }
        formats.write_file(self._file(layer), formats.Checkpoint(KIND, tensors, attributes))

    def remove(self) -> None:
        """Remove the blocks, because the model is written, and the folder if nothing else is in it."""
        for file in self._folder.glob(BLOCKS):
            file.unlink()
        with suppress(OSError):
            self._folder.rmdir()

    def _file(self, layer: int) -> Path:
        return self._folder / f"block-{layer:04}.seft"

    def _attributes(self, layer: int) -> dict[str, Any]:
        """Return the attributes of the file of a block, after checking that it is whole and of this run."""
        with formats.open(self._file(layer)) as reader:
            if reader.kind != KIND:
                raise PruneError("PRN-019", f"{self._file(layer)} is a {reader.kind}, not a finished block")
            reader.verify()
            attributes: dict[str, Any] = dict(reader.attributes)
        was = json.loads(attributes.get("run", "{}"))
        for key, value in self._run.items():
            if was.get(key) != value:
                how = f"another {key}" if key in _DIGESTS else f"{key} {was.get(key)!r}, not {value!r}"
                raise PruneError("PRN-019", f"{self._folder} was made with {how}; resume with the same, or remove it")
        return attributes

    def _tensor(self, mask: NumpyArray, weight: NumpyArray) -> formats.Tensor:
        support = formats.from_support(mask)
        return formats.with_values(support, weight[mask]) if self._changes else support


def digest_of(arrays: Mapping[str, NumpyArray]) -> str:
    """Return a digest of named arrays, their dtypes and their shapes."""
    digest = sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
