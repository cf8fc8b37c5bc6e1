"""The first reader, the package `formats`, as the fuzzer calls it: read, check, slice, write, apply deltas."""

from contextlib import ExitStack
from hashlib import sha256
from math import prod
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

import formats
from conformance.fuzz.content import Content, Disagreement, integers
from formats import check, delta, strict_json
from formats.container import NONE, dtype_name, raw_bytes
from formats.digest import of_state
from formats.reader import checkpoint_of
from formats.records import Dense, Mask, Tensor

REFUSAL = formats.FormatError
"""The error for a broken rule, which has the `clause`; any other exception is a finding."""


def warm_up(folder: Path) -> None:
    """Write and read a small file, so that compiled loops are loaded before memory is measured."""
    mask = formats.from_dense(np.eye(3, dtype=np.float32))
    for encoding in ("auto", "csr"):
        formats.write_file(folder / "warm", formats.Checkpoint("model", {"w": mask}), encoding=encoding)
        formats.read(folder / "warm")


def violations(path: Path) -> list[str]:
    """Return the clauses of all violations of a file."""
    return [error.clause for _, error in check.violations(path)]


def read(path: Path) -> Content:
    """Return the content of a file or folder, after verifying every digest and companion."""
    with formats.open(path) as reader:
        tensors = {name: _of_first(reader.load_verified(name)) for name in reader.names()}
        for name in reader.files:
            reader.files[name]
        described = reader.delta and {
            "base_sha256": reader.delta.base_sha256,
            "scales": reader.delta.scales,
            "target_sha256": reader.delta.target_sha256,
            "tensors": {n: {"base": b, "target": t} for n, (b, t) in reader.delta.tensors.items()},
            "tied": reader.delta.tied,
        }
        about: tuple[Any, ...] = (reader.attributes, described, reader.scales, reader.tied)
        return Content((reader.kind, reader.state_sha256, *map(strict_json.canonical, about)), tensors)


def _of_first(t: Tensor) -> tuple[Any, ...]:
    values = sha256(b"" if isinstance(t, Mask) else raw_bytes(t.values)).hexdigest()
    full = isinstance(t, Dense) or t.nnz == prod(t.shape)
    support = (None, None) if isinstance(t, Dense) or full else (integers(t.indptr), integers(t.indices))
    return (NONE if isinstance(t, Mask) else dtype_name(t.dtype), tuple(t.shape), *support, values)


def rows(path: Path) -> None:
    """Read each tensor in two slices of rows and compare them with the whole.

    Raises:
        Disagreement: if they differ.
    """
    with formats.open(path) as reader:
        for name in reader.names():
            info = reader.info(name)
            if len(info.shape) < 2 or info.numel > 1 << 20 or reader[name].nnz > 1 << 16:
                continue
            cut = info.shape[0] // 2
            slices = [formats.to_dense(reader.rows(name, *rows)) for rows in ((0, cut), (cut, info.shape[0]))]
            if np.concatenate(slices).tobytes() != formats.to_dense(reader[name]).tobytes():
                raise Disagreement(f"rows of {name!r:.40} are not those of the whole")


def applied(base: Path, deltas: list[Path]) -> Content:
    """Return the content of a base with deltas applied, every tensor included (FMT-137 to FMT-139)."""
    with ExitStack() as stack:
        checkpoints = [delta.verified(stack.enter_context(formats.open(path))) for path in (base, *deltas)]
        result = delta.apply(checkpoints[0], checkpoints[1:])
        tensors = {name: _of_first(result.tensors[name]) for name in result.tensors}
        state = of_state(delta.contents(result), result.tied, result.scales)
        described: tuple[Any, ...] = (result.attributes, None, result.scales, result.tied)
        return Content((result.kind, state, *map(strict_json.canonical, described)), tensors)


def divided_again(path: Path, again: Path) -> Content:
    """Write a checkpoint again with about one tensor per part; return the content of the new folder (FMT-085)."""
    with formats.open(path) as reader:
        formats.write(again, checkpoint_of(reader), shard_bytes=64)
    try:
        return read(again)
    finally:
        rmtree(again)


def rewritten(path: Path, again: Path) -> Content:
    """Write a checkpoint again as one file; return the content of the new file (FMT-161)."""
    with formats.open(path) as reader:
        # without companions, because a single file has none (FMT-013)
        formats.write_file(again, checkpoint_of(reader, files={}))
    try:
        return read(again)
    finally:
        again.unlink()


def expand(path: Path, again: Path) -> None:
    """Write a checkpoint without compression to `again`."""
    with formats.open(path) as reader:
        formats.write_file(again, checkpoint_of(reader))
