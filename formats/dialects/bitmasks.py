"""Writes a sparse model as a compressed-tensors folder, sparse-bitmask or sparse-24-bitmask (FMT-179).

    w   ->   w without ".weight": .bitmask .compressed .shape (.row_offsets), and quantization_config in config.json

The library compressed-tensors reads such folders up to version 0.14. Later versions fill the sparse matrices with
random weights, without an error (FMT-179.6).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from formats.dialects.compressed_tensors import BITMASK, PARTS, SPARSITY, TWO_OF_FOUR, sparsity_formats
from formats.dialects.hf import CONFIG, checkpoint_to_hf
from formats.dialects.quantised import DESCRIPTIONS, config_to_extend, quantisations
from formats.errors import FormatError
from formats.lazy import Lazy, like
from formats.records import Array, Checkpoint, Dense, DType, Sparse, Tensor, flat, rows_of
from formats.strict_json import JSON

WEIGHT = ".weight"
TensorInfo = tuple[tuple[int, ...], int, DType]
"""Shape, stored values and dtype of a sparse tensor."""
READERS = (
    "compressed-tensors 0.3 to 0.14 read this folder; later versions, which transformers 5 needs, fill its sparse "
    "matrices with random weights, so write --to hf for those"
)
"""The remark of the writer on which programs can load the folder (FMT-179.6)."""


def write_bitmasks(
    out: str | os.PathLike[str], checkpoint: Checkpoint, *, shard_bytes: int, limit: int | None = None
) -> list[str]:
    """Write a model as a compressed-tensors folder, and return what that folder cannot hold.

    Sparse tensors are packed as two of every four if each of them stores at most two of every four, else as bitmasks.

    Raises:
        FormatError: FMT-179 for a model that has nothing sparse, a config.json that is missing, no JSON object or
            describes a quantisation, a sparse tensor without columns or that is no weight of a module, and a tensor
            with the name of a part; as `checkpoint_to_hf`.
    """
    sparse = [name for name in checkpoint.tensors if isinstance(checkpoint.tensors[name], Sparse)]
    config = _config_of(checkpoint, sparse)

    def matrix(name: str) -> Sparse:
        tensor = checkpoint.tensors[name]
        assert isinstance(tensor, Sparse)
        return tensor

    counted, infos = [], dict[str, TensorInfo]()
    for name in sparse:
        tensor = matrix(name)
        if not tensor.shape[-1]:
            raise FormatError("FMT-179", f"{name!r} is sparse and has no columns, for which there is no bitmask")
        counted.append(_beyond(tensor))
        infos[name] = (tensor.shape, tensor.nnz, tensor.dtype)
    kind = TWO_OF_FOUR if all(n is not None for n in counted) else BITMASK
    padded = sum(n or 0 for n in counted) if kind == TWO_OF_FOUR else 0
    owner = {f"{name.removesuffix(WEIGHT)}.{part}": (name, part) for name in sparse for part in sorted(PARTS[kind])}

    def make(name: str) -> Tensor:
        if name not in owner:
            return checkpoint.tensors[name]
        weight, part = owner[name]
        return Dense(_part(matrix(weight), part, kind))

    def shaped(name: str) -> Tensor:
        if name not in owner:
            return like(checkpoint.tensors, name)
        weight, part = owner[name]
        return _outline(infos[weight], part, kind)

    names = [*(name for name in checkpoint.tensors if name not in sparse), *owner]
    size = sum(rows_of(shape) * shape[-1] for shape, _, _ in infos.values())
    share = 1 - sum(nnz for _, nnz, _ in infos.values()) / max(size, 1)
    files = {**checkpoint.files, CONFIG: _config(config, kind, share, checkpoint, sparse)}
    folder = replace(checkpoint, tensors=Lazy(names, make, shaped), files=files)
    checkpoint_to_hf(out, folder, shard_bytes=shard_bytes, limit=limit)
    return [f"that {padded} places of groups of four with fewer than two weights store nothing"] if padded else []


def _config_of(checkpoint: Checkpoint, sparse: list[str]) -> dict[str, JSON]:
    """Return config.json of a model that can be written, which has these sparse tensors.

    Raises:
        FormatError: FMT-179.
    """
    if not sparse:
        raise FormatError(
            "FMT-179",
            "the model has no sparse tensor; first seft convert MODEL DST --to sparse, then convert DST",
        )
    wrong = sorted(name for name in sparse if not name.endswith(WEIGHT) or name.endswith(WEIGHT * 2))
    if wrong:
        raise FormatError("FMT-179", f"{wrong[0]!r} is sparse, and no weight of a module, whose name ends in {WEIGHT}")
    parts = {f"{name.removesuffix(WEIGHT)}.{part}" for name in sparse for kind in PARTS for part in PARTS[kind]}
    if taken := sorted(parts & set(checkpoint.tensors)):
        raise FormatError(
            "FMT-179", f"{taken[0]!r} is a tensor of the model, and the name of a part; rename the tensor"
        )
    if CONFIG not in checkpoint.files:
        raise FormatError("FMT-179", f"the model has no {CONFIG}, which has to say how its tensors are packed")
    config = config_to_extend(checkpoint.files[CONFIG], "FMT-179")
    described = sorted(set(DESCRIPTIONS) & config.keys())
    described += [f"a quantisation ({kind})" for kind in quantisations(checkpoint.files[CONFIG])]
    if described:
        raise FormatError("FMT-179", f"{CONFIG} has {described[0]} already; expand the codes of the model first")
    if stated := sorted(sparsity_formats(config)):
        raise FormatError(
            "FMT-179", f"{CONFIG} states the sparsity format {stated[0]!r} already; remove its sparsity_config"
        )
    return config


def _beyond(tensor: Sparse) -> int | None:
    """Return how many zeros a tensor needs to store exactly two of every four; None if it cannot be packed that way."""
    if len(tensor.shape) != 2 or tensor.shape[1] % 4:
        return None
    counts = np.bincount(flat(tensor) // 4, minlength=tensor.shape[0] * tensor.shape[1] // 4)
    return int((2 - counts).sum()) if counts.size and np.max(counts) <= 2 else None


def _outline(info: TensorInfo, part: str, kind: str) -> Dense:
    """Return a tensor with the dtype and shape of a part, which takes no memory."""
    shape, nnz, dtype = info
    of_part: dict[str, tuple[tuple[int, ...], DType]] = {
        "shape": ((2, 1) if kind == TWO_OF_FOUR else (len(shape),), np.dtype(np.int64)),
        "row_offsets": (shape[:-1], np.dtype(np.int64)),
        "bitmask": ((*shape[:-1], -(-shape[-1] // 8)), np.dtype(np.uint8)),
        "compressed": ((shape[0], shape[-1] // 2) if kind == TWO_OF_FOUR else (nnz,), dtype),
    }
    part_shape, part_dtype = of_part[part]
    return Dense(np.broadcast_to(np.zeros((), part_dtype), part_shape))


def _part(tensor: Sparse, part: str, kind: str) -> Array:
    """Return a part of a packed tensor (FMT-150.2)."""
    rows, columns = rows_of(tensor.shape), tensor.shape[-1]
    if part == "shape":
        sizes = np.array(tensor.shape, dtype=np.int64)
        return sizes.reshape(2, 1) if kind == TWO_OF_FOUR else sizes
    if part == "row_offsets":
        # summed over the first dimension only, because the library does so; no reader uses the offsets (FMT-150.2)
        counts = np.diff(tensor.indptr).astype(np.int64).reshape(tensor.shape[:-1] or (1,))
        return (counts.cumsum(axis=0) - counts).reshape(tensor.shape[:-1])
    positions = flat(tensor)
    # FMT-179.3: a group of four with fewer than two weights stores zeros at its first free places
    places = _filled(positions, rows * columns) if kind == TWO_OF_FOUR else positions
    if part == "bitmask":
        stored = np.zeros(rows * columns, dtype=bool)
        stored[places] = True
        mask = np.packbits(stored.reshape(rows, columns), axis=1, bitorder="little")
        return mask.reshape(*tensor.shape[:-1], mask.shape[1])
    if kind == BITMASK:
        return tensor.values
    values = np.zeros(places.size, dtype=tensor.values.dtype)
    values[np.searchsorted(places, positions)] = tensor.values
    return values.reshape(rows, columns // 2)


def _filled(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return two ascending positions of every four: the given ones, then the first free ones where these are fewer."""
    stored = np.zeros(size, dtype=bool)
    stored[positions] = True
    # a stable sort puts the stored positions of a group first, and keeps the order of the free ones
    order = np.argsort(~stored.reshape(-1, 4), axis=1, kind="stable")[:, :2]
    return (np.sort(order, axis=1) + 4 * np.arange(len(order))[:, None]).reshape(-1)


def _config(config: Mapping[str, object], kind: str, share: float, checkpoint: Checkpoint, packed: list[str]) -> bytes:
    """Return config.json with a description of how tensors are packed."""
    sparsity = {
        "format": kind,
        "global_sparsity": round(share, 6),
        "ignore": [] if "lm_head.weight" in packed else ["lm_head"],
        "registry_requires_subclass": False,
        "sparsity_structure": "2:4" if kind == TWO_OF_FOUR else "unstructured",
        "targets": ["Linear"],
    }
    described = {"quant_method": "compressed-tensors", "format": "dense", SPARSITY: sparsity}
    return (json.dumps({**config, "quantization_config": described}, indent=2) + "\n").encode()
