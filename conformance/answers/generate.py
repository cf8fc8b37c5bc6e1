"""Readings of a model, picks of tokens and whole texts (chapter 17: GEN)."""

import math
from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, answers, ids, refuse
from conformance.answers.model import legal, refuse_tokens
from conformance.oracle import generate

__all__: list[str] = []


@answers("generate.read")
def _read(a: Inputs) -> dict[str, Any]:
    config, tokens, parts = legal(a["config"]), a["tokens"], a["parts"]
    refuse(GEN_002=min(parts) < 1 or sum(parts) > config["max_position_embeddings"])
    refuse_tokens(config, tokens)
    return {"logits": generate.logits_behind(config, a["tensors"], tokens, parts)}


@answers("generate.fork")
def _fork(a: Inputs) -> dict[str, Any]:
    config, tokens, branches = legal(a["config"]), a["tokens"], a["branches"]
    longest = tokens.shape[1] + max(branch.shape[1] for branch in branches)
    others = any(len(branch) != len(tokens) or not branch.shape[1] for branch in branches)
    refuse(GEN_002=others or longest > config["max_position_embeddings"])
    refuse_tokens(config, tokens, *branches)
    whole = [np.concatenate([tokens, branch], axis=1) for branch in branches]
    return {"logits": [generate.logits_behind(config, a["tensors"], t, [t.shape[1]])[:, 0] for t in whole]}


def _refuse_settings(a: Inputs) -> None:
    top_k, top_p = a["top_k"], a["top_p"]
    outside = (top_k is not None and top_k < 1) or not (top_p is None or 0 < top_p <= 1)
    refuse(GEN_006=outside or not 0 <= a["temperature"] < math.inf, RNG_002=not 0 <= a["seed"] < 2**64)


@answers("generate.pick")
def _pick(a: Inputs) -> dict[str, Any]:
    refuse(GEN_006=not np.isfinite(a["logits"]).all())
    _refuse_settings(a)
    how = (a["logits"].tolist(), a["temperature"], a["top_k"], a["top_p"], a["seed"])
    return {"picked": ids(generate.picked(*how, number)[0] for number in a["numbers"])}


@answers("generate.text")
def _text(a: Inputs) -> dict[str, Any]:
    config, prompt, most = legal(a["config"]), a["prompt"], a["max_tokens"]
    refuse(GEN_002=not 1 <= len(prompt) <= config["max_position_embeddings"], GEN_007=most is not None and most < 1)
    _refuse_settings(a)
    refuse_tokens(config, ids(prompt))
    return {"tokens": ids(generate.text(config, a["tensors"], prompt, a["stops"], most, a)[0])}


@answers("generate.stops")
def _stops(a: Inputs) -> dict[str, Any]:
    return {"stops": ids(generate.stops(a["config"], a["generation"]))}
