"""Generation in plain Python; every token comes from a forward over all tokens before it (GEN)."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.oracle import select_rng
from conformance.oracle.model import Config, Decoder
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.tape import Array

NEAR = 1e-9
"""Two programs may pick differently if a boundary is nearer than this fraction of the sum (GEN-005)."""


def weights_of(logits: Sequence[float], temperature: float, top_k: int | None) -> tuple[list[int], list[float]]:
    """Return the ids that top-k keeps, largest logit first, and their weights (GEN-004)."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    return order, [math.exp(max((logits[i] - logits[order[0]]) / temperature, -1e4)) for i in order]


def picked(
    logits: Sequence[float], temperature: float, top_k: int | None, top_p: float | None, seed: int, number: int
) -> tuple[int, bool]:
    """Return the id that follows `number` tokens, and whether every program must pick it (GEN-003, GEN-005)."""
    if temperature == 0:
        return min(range(len(logits)), key=lambda i: (-logits[i], i)), True
    ids, weights = weights_of(logits, temperature, top_k)
    sums = [0.0]
    for w in weights:
        sums.append(sums[-1] + w)
    least = (1.0 if top_p is None else top_p) * sums[-1]
    n = next(i for i in range(1, len(sums)) if sums[i] >= least)
    u = (select_rng.draw(select_rng.key(seed, 6), number) >> 11) * 2.0**-53
    at = u * sums[n]
    boundaries = [at] if top_p is None else [at, least]
    near = min(abs(b - c) for b in boundaries for c in sums[1:])
    sure = near > NEAR * sums[-1] or all(w == 1 for w in weights)
    return ids[next(i for i in range(n) if sums[i + 1] > at)], sure


def logits_behind(config: Config, tensors: dict[str, Array], tokens: Array, parts: Sequence[int]) -> Array:
    """Return the logits (B, parts, V) after the last token of every part, each from a whole forward (GEN-001)."""
    decoder, logits, length = Decoder(config, tensors), [], 0
    for n in parts:
        length += n
        logits.append(decoder.logits(tokens[:, :length]).value[:, -1])
    return np.stack(logits, axis=1)


def text(
    config: Config,
    tensors: dict[str, Array],
    prompt: Sequence[int],
    stops: Sequence[int],
    max_tokens: int | None,
    sampling: dict[str, Any],
) -> tuple[list[int], float]:
    """Return the tokens that follow a prompt, and the largest change of the logits that changes no token (GEN-007).

    The second number is the largest of 1e-2, 1e-3 and 1e-4 at which eight random changes of the logits leave each
    token the same; 0 if there is none.
    """
    decoder, tokens, gap = Decoder(config, tensors), list(prompt), math.inf
    while True:
        logits = [float(x) for x in decoder.logits(np.array([tokens])).value[0, -1]]
        number = len(tokens)
        token, _ = picked(logits, *_told(sampling), number)
        for scale in (1e-2, 1e-3, 1e-4):
            if all(_after(logits, sampling, number, scale, i) == token for i in range(8)):
                gap = min(gap, scale)
                break
        else:
            gap = 0.0
        tokens.append(token)
        if token in stops or len(tokens) - len(prompt) == max_tokens or number == config["max_position_embeddings"]:
            return tokens[len(prompt) :], gap


def _after(logits: list[float], sampling: dict[str, Any], number: int, scale: float, i: int) -> int:
    """Return the token that is picked after every logit has changed by up to `scale`."""
    key = select_rng.key(8, number, i)
    moved = [x + scale * (2 * select_rng.draw(key, j) / 2**64 - 1) for j, x in enumerate(logits)]
    return picked(moved, *_told(sampling), number)[0]


def _told(sampling: dict[str, Any]) -> tuple[float, int | None, float | None, int]:
    return sampling["temperature"], sampling.get("top_k"), sampling.get("top_p"), sampling["seed"]


def stops(config: str, generation: str | None) -> list[int]:
    """Return the stop tokens of a folder (GEN-008)."""
    for text in (generation, config):
        named = None if text is None else json.loads(text).get("eos_token_id")
        if named is not None:
            tokens = named if isinstance(named, list) else [named]
            if any(type(token) is not int or token < 0 for token in tokens):
                msg = f"GEN-008: {named!r}"
                raise RefusedError(msg)
            return list(tokens)
    return []
