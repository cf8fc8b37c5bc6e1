"""The operations `prune.*` as calls into the engine (chapter 11)."""

from typing import Any

import numpy as np

from conformance.engine.values import Values
from seft_ref.arrays.library import Array, array_namespace, binary64
from seft_ref.model.config import ModelConfig
from seft_ref.prune.blockwise import prune_sparsegpt, prune_wanda
from seft_ref.prune.keep import keep_in_scope, keep_n_of_m
from seft_ref.prune.magnitude import magnitude_mask
from seft_ref.prune.owl import block_sparsities, outlier_share
from seft_ref.prune.random import random_scores
from seft_ref.prune.record import pattern_of, read_record
from seft_ref.prune.sparsegpt import BLOCK, DAMPING, hessian_of, sparsegpt
from seft_ref.prune.wanda import wanda_mask


def _kept(mask: Array) -> Values:
    xp = array_namespace(mask)
    return {"kept": xp.nonzero(xp.reshape(mask, (-1,)))[0]}


def _sparsegpt(a: Values) -> Values:
    pattern = None if a["n"] is None else (a["n"], a["m"])
    damping = DAMPING if a["damping"] is None else a["damping"]
    block = BLOCK if a["block"] is None else a["block"]
    hessian = hessian_of(a["inputs"])
    mask, weight = sparsegpt(a["weights"], hessian, a["sparsity"], pattern, damping=damping, block=block)
    return _kept(mask) | {"weights": weight}


def _batches(tokens: Array) -> list[Array]:
    """Return calibration tokens in two batches, the first of at most three rows, so that statistics must be summed."""
    return [rows for rows in (tokens[:3, :], tokens[3:, :]) if rows.shape[0]]


def _prune(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    batches = _batches(a["tokens"])
    masks = prune_wanda(config, a["tensors"].__getitem__, batches, a["kernels"], a["sparsity"])
    return {"kept": {name: np.flatnonzero(np.asarray(mask)).astype(np.int64) for name, mask in masks}}


def _prune_sparsegpt(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    batches = _batches(a["tokens"])
    pruned = list(prune_sparsegpt(config, a["tensors"].__getitem__, batches, a["kernels"], a["sparsity"]))
    return {
        "kept": {name: np.flatnonzero(np.asarray(mask)).astype(np.int64) for name, mask, _ in pruned},
        "weights": {name: weight for name, _, weight in pruned},
    }


def _scope(a: Values) -> Values:
    masks = keep_in_scope(a["scores"], a["sparsity"], a["scope"])
    return {"kept": [_kept(mask)["kept"] for mask in masks]}


def _random(a: Values) -> Values:
    scores = random_scores((a["out"], a["in"]), a["seed"], a["matrix"], np.zeros(0))
    return _kept(keep_in_scope([scores], a["sparsity"], "matrix")[0])


def _owl(a: Values) -> Values:
    shares = [outlier_share([binary64(matrix) for matrix in block], a["outlier"]) for block in a["scores"]]
    return {"sparsities": block_sparsities(shares, a["sparsity"], a["spread"])}


def _record(a: Values) -> Values:
    pattern = pattern_of(read_record(a["record"].encode()))
    return {"pattern": None if pattern is None else np.array(pattern, dtype=np.int64)}


OPERATIONS: dict[str, Any] = {
    "prune.magnitude": lambda a: _kept(magnitude_mask(a["weights"], a["sparsity"])),
    "prune.wanda": lambda a: _kept(wanda_mask(a["weights"], a["square_sums"], a["sparsity"])),
    "prune.scope": _scope,
    "prune.random": _random,
    "prune.owl": _owl,
    "prune.sparsegpt": _sparsegpt,
    "prune.pattern": lambda a: _kept(keep_n_of_m(a["scores"], a["n"], a["m"])),
    "prune.model": _prune,
    "prune.model_sparsegpt": _prune_sparsegpt,
    "prune.record": _record,
}
