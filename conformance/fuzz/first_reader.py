"""The first reader as a fuzzer asks it, and what it must do beside reading."""

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
"""What it raises of a broken rule, with the `clause`; anything else that it raises is a finding."""


def warm_up(folder: Path) -> None:
    """Load compiled loops."""
    mask = formats.from_dense(np.eye(3, dtype=np.float32))
    for encoding in ("auto", "csr"):
        formats.write_file(folder / "warm", formats.Checkpoint("model", {"w": mask}), encoding=encoding)
        formats.read(folder / "warm")


def violations(path: Path) -> list[str]:
    """Return the clauses of all violations."""
    return [error.clause for _, error in check.violations(path)]


def read(path: Path) -> Content:
    """Return what a file holds, every digest and companion verified."""
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
        told: tuple[Any, ...] = (reader.attributes, described, reader.scales, reader.tied)
        return Content((reader.kind, reader.state_sha256, *map(strict_json.canonical, told)), tensors)


def _of_first(t: Tensor) -> tuple[Any, ...]:
    values = sha256(b"" if isinstance(t, Mask) else raw_bytes(t.values)).hexdigest()
    full = isinstance(t, Dense) or t.nnz == prod(t.shape)
    support = (None, None) if isinstance(t, Dense) or full else (integers(t.indptr), integers(t.indices))
    return (NONE if isinstance(t, Mask) else dtype_name(t.dtype), tuple(t.shape), *support, values)


def rows(path: Path) -> None:
    """Slices of a tensor are what the whole has there."""
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
    """Return what deltas make of a base, every tensor asked for (FMT-137 to FMT-139)."""
    with ExitStack() as stack:
        found = [delta.verified(stack.enter_context(formats.open(path))) for path in (base, *deltas)]
        result = delta.apply(found[0], found[1:])
        tensors = {name: _of_first(result.tensors[name]) for name in result.tensors}
        state = of_state(delta.contents(result), result.tied, result.scales)
        told: tuple[Any, ...] = (result.attributes, None, result.scales, result.tied)
        return Content((result.kind, state, *map(strict_json.canonical, told)), tensors)


def divided_again(path: Path, again: Path) -> Content:
    """Return what a folder holds that is written from what another holds, a part a tensor or so (FMT-085)."""
    with formats.open(path) as reader:
        formats.write(again, checkpoint_of(reader), shard_bytes=64)
    try:
        return read(again)
    finally:
        rmtree(again)


def rewritten(path: Path, again: Path) -> Content:
    """Return what a file holds that is written from what another holds (FMT-161)."""
    with formats.open(path) as reader:
        # what another option would find is another matter: only the content must stay
        formats.write_file(again, checkpoint_of(reader, files={}))
    try:
        return read(again)
    finally:
        again.unlink()


def expand(path: Path, again: Path) -> None:
    """Write a checkpoint without compression."""
    with formats.open(path) as reader:
        formats.write_file(again, checkpoint_of(reader))
