"""Parts of the engine for mutants: its refusals, attention to any keys, statistics of an unpruned model."""

from typing import Any
from unittest.mock import patch

import numpy as np

from formats import FormatError
from seft_ref.errors import SeftError
from seft_ref.layers import plain
from seft_ref.layers.attention import attention_backward, attention_forward
from seft_ref.layers.rmsnorm import RmsNormCache
from seft_ref.model.config import ModelConfig
from seft_ref.prune import blockwise as calibrate
from seft_ref.prune.sparsegpt import hessian_of, sparsegpt

__all__ = ["REFUSALS", "attended", "behind_unpruned_blocks", "silent_norms"]
Values = dict[str, Any]
REFUSALS = (SeftError, FormatError)
"""The exceptions that the engine raises for inputs that a clause refuses; each has a `clause`."""


def attended(q: Any, k: Any, v: Any, dy: Any, visible: Any) -> tuple[Any, ...]:
    """Return y, dq, dk, dv of attention, heads first; `visible` may be any pattern of visible keys."""
    y, cache = attention_forward(q, k, v, visible)
    return (y, *attention_backward(dy, cache))


def behind_unpruned_blocks(a: Values) -> Values:
    """Return a model pruned by SparseGPT, with every block's statistics taken from the model before pruning."""
    config, pruned = ModelConfig.from_json(a["config"]), []

    def prune(name: str, weight: Any, hessian: Any) -> tuple[Any, Any]:
        pruned.append(sparsegpt(weight, hessian, a["sparsity"]))
        return pruned[-1][0], weight

    read = a["tensors"].__getitem__
    steps = calibrate.block_by_block(config, read, [a["tokens"]], a["kernels"], hessian_of, prune)
    names = [name for name, *_ in steps]
    return {
        "kept": {n: np.flatnonzero(mask).astype(np.int64) for n, (mask, _) in zip(names, pruned, strict=True)},
        "weights": {n: weight for n, (_, weight) in zip(names, pruned, strict=True)},
    }


def silent_norms() -> Any:
    """Return a context in which RMSNorm of a model returns 0 for a row whose squares overflow, instead of refusing."""
    return patch.object(plain, "rmsnorm_forward", _silent_norm)


def _silent_norm(x: Any, weight: Any, eps: float) -> tuple[Any, RmsNormCache]:
    with np.errstate(over="ignore", invalid="ignore"):
        r = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * r * weight, RmsNormCache(x, weight, r)
