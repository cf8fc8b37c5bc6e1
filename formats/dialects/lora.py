"""Reads LoRA adapters of PEFT as changes of a base: the product of the factors, on the support of the base.

    W' = W + (alpha / r) B A            A (r, in), B (out, r); alpha / sqrt(r) with use_rslora
    [ a b ]       [ a . ]
    [ c d ]  ->   [ . d ]               a sparse base keeps its support: b and c are left out and counted

The product of a row and a column is summed over the rank from first to last in float64, scaled, and rounded once to
float32, so that the amounts have the same bits on every machine.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.container import Section
from formats.dialects.changes import (
    ABOUT,
    ADAPTER_FLOATS,
    CONFIG,
    Adapter,
    Changes,
    check_in_base,
    check_options,
    float_base,
    number,
    open_adapter,
)
from formats.errors import FormatError
from formats.lazy import Lazy
from formats.records import POSITIVE, Array, Dense, Sparse, Tensor, count_stored, flat_rows
from formats.strict_json import JSON

LINEAR = ("lora_A.weight", "lora_B.weight")
EMBEDDING = ("lora_embedding_A", "lora_embedding_B")

KNOWN = ABOUT | {
    "alpha_pattern",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "runtime_config",
    "target_modules",
    "use_rslora",
}
"""Options that are handled, or that steer training only."""

PLAIN_STARTS: tuple[JSON, ...] = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base as it was; others (PiSSA, OLoRA, CorDA, LoftQ) change it."""

PLAIN_PATTERN = re.compile(r"\^?(\w|-|\.|\\\.)+")
"""Keys of rank_pattern and alpha_pattern that are accepted: expressions without repetition and look-around."""

BLOCK = 1 << 17
"""Positions of the product that are computed at once; few enough to stay in a cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """The factors of the change of one tensor: scale · left · right, in the shape of the base."""

    left: NDArray[np.float64]
    """(rows, r)."""
    right: NDArray[np.float64]
    """(r, columns), rows contiguous."""
    scale: float


def read_lora(folder: str | os.PathLike[str], base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of a LoRA adapter: float32 amounts to add, at every position of the support (FMT-152).

    In a dense base every position changes. With a sparse base the product is computed twice: here, to count the entries
    outside the support, and when a tensor is accessed.

    The result has the attributes left_out and left_out_total. left_out is tensor name -> how many entries of the
    product outside the support of the base have a bit set, and left_out_total is their sum.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        base: name -> tensor of the model that the adapter was trained on.

    Raises:
        FormatError: FMT-152 for what is missing or does not fit, for an option that makes the change more than a
            product of two matrices, and for a product beyond float32 (on access, if the base is dense);
            FMT-121 for malformed weights.
    """
    adapter = open_adapter(Path(folder), "LORA", [frozenset(LINEAR), frozenset(EMBEDDING)], "FMT-152")
    _check_config(adapter.config)
    modules = adapter.base_names()
    for module, sections in adapter.modules.items():
        _check_sizes(module, sections, _rank(adapter.config, module))
    check_in_base(modules, base, "FMT-152")
    left_out: dict[str, JSON] = {}
    total = 0
    for name in sorted(modules):
        before = float_base(base, name, "FMT-152")
        factors = _factors(adapter, modules[name], before, name)
        n_outside = 0
        if isinstance(before, Sparse):
            n_outside = sum(out for _, out in _on_support(factors, before, name))
        left_out[name] = n_outside
        total += n_outside

    def fetch(name: str) -> Sparse:
        before = float_base(base, name, "FMT-152")
        factors = _factors(adapter, modules[name], before, name)
        if isinstance(before, Dense):
            return _everywhere(factors, before.shape, name)
        values = np.empty(before.nnz, dtype=np.float32)
        at = 0
        for block, _ in _on_support(factors, before, name):
            values[at : at + block.size] = block
            at += block.size
        return Sparse(before.shape, before.indptr, before.indices, values)

    counted: dict[str, JSON] = {"left_out": left_out, "left_out_total": total}
    return Changes("add", Lazy(modules, fetch), {**adapter.attributes("lora"), **counted})


def _check_config(config: Mapping[str, JSON]) -> None:
    check_options(config, KNOWN, "FMT-152")
    # FMT-152: values are compared by `is`, because `in` would take 1 for true
    start = config.get("init_lora_weights", True)
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in PLAIN_STARTS):
        raise FormatError(
            "FMT-152",
            f"{CONFIG} has init_lora_weights = {start!r:.80}, which changed the base before training; save the adapter "
            f"with path_initial_model_for_weight_conversion",
        )
    for key in ("use_rslora", "fan_in_fan_out"):
        if not isinstance(config.get(key, False), bool):
            raise FormatError("FMT-152", f"{CONFIG} has {key} = {config[key]!r:.80}, expected true or false")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or not all(PLAIN_PATTERN.fullmatch(pattern) for pattern in patterns):
            raise FormatError(
                "FMT-152", f"{CONFIG} has {key} = {patterns!r:.80}, expected plain endings of module paths"
            )


def _setting(config: Mapping[str, JSON], key: str, patterns_key: str, module: str) -> float:
    """Return the number of the first pattern that matches the end of a module path, otherwise that of key."""
    patterns = config.get(patterns_key) or {}
    assert isinstance(patterns, dict)
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return number(patterns, pattern, "FMT-152", config_name=f"{patterns_key} of {CONFIG}")
    return number(config, key, "FMT-152")


def _rank(config: Mapping[str, JSON], module: str) -> int:
    rank = _setting(config, "r", "rank_pattern", module)
    if rank < 1 or not rank.is_integer():
        raise FormatError("FMT-152", f"{CONFIG} gives {module!r} the rank {rank}, expected a whole number from 1")
    return int(rank)


def _check_sizes(module: str, sections: Mapping[str, Section], rank: int) -> None:
    """Verify dtypes, and that A is (rank, ·) and B is (·, rank)."""
    first, second = (sections[role] for role in (LINEAR if LINEAR[0] in sections else EMBEDDING))
    for section in (first, second):
        if section.dtype not in ADAPTER_FLOATS or len(section.shape) != 2:
            raise FormatError(
                "FMT-152",
                f"{section.name!r} is {section.dtype} of shape {list(section.shape)}, "
                f"expected a matrix of {' or '.join(sorted(ADAPTER_FLOATS))}",
            )
    if first.shape[0] != rank or second.shape[1] != rank:
        raise FormatError(
            "FMT-152",
            f"A of {module!r} has shape {list(first.shape)} and B {list(second.shape)}, {CONFIG} says rank {rank}: "
            f"expected [{rank}, in] and [out, {rank}]",
        )


def _factors(adapter: Adapter, module: str, before: Dense | Sparse, name: str) -> Factors:
    """Return the factors of a tensor, transposed and swapped if the base has its input first."""
    embedding = EMBEDDING[0] in adapter.modules[module]
    a, b = (adapter.array(module, role).astype(np.float64) for role in (EMBEDDING if embedding else LINEAR))
    # delta = B @ A; for an embedding, and with fan_in_fan_out, its transpose, A.T @ B.T
    transposed = embedding or adapter.config.get("fan_in_fan_out") is True
    left, right = (a.T, b.T) if transposed else (b, a)
    if before.shape != (left.shape[0], right.shape[1]):
        raise FormatError(
            "FMT-152",
            f"the product for {name!r} has shape {[left.shape[0], right.shape[1]]}, the base has {list(before.shape)}",
        )
    alpha = _setting(adapter.config, "lora_alpha", "alpha_pattern", module)
    rank = left.shape[1]
    scale = alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") is True else rank)
    return Factors(left, np.ascontiguousarray(right), scale)


def _blocks(factors: Factors, name: str) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield first row, last row + 1, and the amounts of those rows, float32 (rows, columns).

    Raises:
        FormatError: FMT-152 if an amount is not finite.
    """
    rows, columns = factors.left.shape[0], factors.right.shape[1]
    step = max(1, BLOCK // max(columns, 1))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        left = factors.left[first:last]
        with np.errstate(over="ignore", invalid="ignore"):
            product = left[:, :1] * factors.right[0]
            term = np.empty_like(product)
            # the ranks are added in order, because a library would choose the order of the sum itself
            for k in range(1, left.shape[1]):
                product += np.multiply(left[:, k : k + 1], factors.right[k], out=term)
            product *= factors.scale
            amounts = product.astype(np.float32)
        if not np.isfinite(amounts).all():
            raise FormatError(
                "FMT-152", f"the product for {name!r} is not finite in float32; the adapter is damaged or diverged"
            )
        yield first, last, amounts


def _on_support(factors: Factors, before: Sparse, name: str) -> Iterator[tuple[Array, int]]:
    """Yield for each block of rows the amounts on the support, and how many amounts outside it have a bit set."""
    for first, last, amounts in _blocks(factors, name):
        on_support = amounts.reshape(-1)[flat_rows(before, first, last)]
        yield on_support, count_stored(amounts, POSITIVE) - count_stored(on_support, POSITIVE)


def _everywhere(factors: Factors, shape: tuple[int, ...], name: str) -> Sparse:
    """Return the amounts as a tensor whose support is every position."""
    rows, columns = shape
    values = np.empty((rows, columns), dtype=np.float32)
    for first, last, amounts in _blocks(factors, name):
        values[first:last] = amounts
    indptr = np.arange(rows + 1, dtype=np.int64) * columns
    indices = np.empty((rows, columns), dtype=np.int32)
    indices[:] = np.arange(columns, dtype=np.int32)
    return Sparse(shape, indptr, indices.reshape(-1), values.reshape(-1))
