"""Mutants of picks, readings, contexts and ends of texts, as edits of the engine (GEN)."""

import json
from typing import Any

import numpy as np

from conformance.engine.parts import adapter_base, attention_blocks, generate, past, rng, sampling
from conformance.wrong.mutants.base import Mutant, Values, edited, edits, forgotten, mutants, right
from conformance.wrong.mutants.model import CONTEXT, ROPE_OF

_LOGITS: dict[str, Any] = {
    f"{what}_{use}": lambda a, what=what, greedy=greedy: (
        (a["temperature"] == 0) is greedy and bool((a["logits"] == what).any() or (what is None and _nan(a["logits"])))
    )
    for use, greedy in (("picked_from", True), ("drawn_from", False))
    for what in (None, np.inf, -np.inf)
}

_SAMPLING: dict[str, Any] = _LOGITS | {
    "a_temperature_below_0": lambda a: a["temperature"] < 0,
    "an_infinite_temperature": lambda a: a["temperature"] == np.inf,
    "a_temperature_that_is_NaN": lambda a: _nan(a["temperature"]),
    "a_top-k_of_0": lambda a: a["top_k"] == 0,
    "a_top-k_below_0": lambda a: (a["top_k"] or 0) < 0,
    "a_top-p_of_0": lambda a: a["top_p"] == 0,
    "a_top-p_below_0": lambda a: (a["top_p"] or 0) < 0,
    "a_top-p_above_1": lambda a: (a["top_p"] or 0) > 1,
    "a_top-p_that_is_NaN": lambda a: a["top_p"] is not None and _nan(a["top_p"]),
}


def _nan(x: Any) -> bool:
    return bool(np.isnan(x).any())


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("None", "NaN"): breaks for name, breaks in values.items()}


_ROOM = """\
    room = xp.empty((b, kv, -(-length // CHUNK) * CHUNK, d), dtype=like.dtype, device=device(like))
    if cached is not None:
        room[:, :, : cached.shape[2], :] = cached
"""
_HALF_A_ROOM = """\
    room = xp.zeros((b, kv, -(-length // CHUNK) * CHUNK, d), dtype=like.dtype, device=device(like))
    if cached is not None:
        room[:, :, : min(cached.shape[2], 512), :] = cached[:, :, :512, :]
"""
_BLOCKS = "range(0, len(tokens), PROMPT_BLOCK)"
_WHOLE_BLOCKS = "range(0, max(1, len(tokens) - len(tokens) % PROMPT_BLOCK), PROMPT_BLOCK)"


def branches_in_a_row(a: Values) -> Values:
    """Append every branch to the context, so that later branches see it."""
    right("generate.fork")(a)
    logits, tokens = [], a["tokens"]
    for branch in a["branches"]:
        logits += right("generate.fork")(a | {"tokens": tokens, "branches": [branch]})["logits"]
        tokens = np.concatenate([tokens, branch], axis=1)
    return {"logits": logits}


def without_context(a: Values) -> Values:
    """Read the branches after the first token of the context only."""
    right("generate.fork")(a)
    return right("generate.fork")(a | {"tokens": a["tokens"][:, :1]})


def first_branch(a: Values) -> Values:
    """Return the logits of the first branch for all."""
    logits = right("generate.fork")(a)["logits"]
    return {"logits": [logits[0] for _ in logits]}


def of_config(out: Values, a: Values) -> Values:
    """Read the config only."""
    return right("generate.stops")({"config": a["config"]})


def true_if_any(a: Values) -> Values:
    """Treat 0 and an empty list as absent."""
    generation = json.loads(a.get("generation") or "{}")
    if not generation.get("eos_token_id"):
        return right("generate.stops")({"config": a["config"]})
    return right("generate.stops")(a)


def first_alone(out: Values, a: Values) -> Values:
    return {"stops": out["stops"][:1]}


MUTANTS: list[Mutant] = [
    *forgotten("generate.pick", "GEN-006", **_shown(_SAMPLING)),
    *mutants("generate.pick",
        ("GEN-006", {"top_k": lambda a: a["top_k"] or None}, "0 taken for all"),
        ("GEN-006", sampling.pick, "not np.isfinite(scores).all()", "np.isnan(scores).any()", "infinite logits"),
        ("GEN-005", rng.uniform, ">> np.uint64(11)).astype(np.float64) * 2.0**-53",
         ">> np.uint64(40)).astype(np.float64) * 2.0**-24", "a draw cut to 24 bits"),
        ("GEN-005", rng.uniform, "astype(np.float64) * 2.0**-53",
         "astype(np.float32).astype(np.float64) * 2.0**-53", "a draw rounded to binary32"),
        ("GEN-004", sampling._largest_first, 'np.argsort(-scores[ids], kind="stable")',
         'np.argsort(scores[ids], kind="stable")[::-1]', "equals by falling id")),
    *edits("generate.pick", "GEN-004", sampling.pick,
        ("(scores[ids] - scores[ids[0]])", "(scores[ids] - scores[0])", "the first logit subtracted"),
        ("(scores, sampling.top_k)", "(scores, sampling.top_k or 50)", "a top-k of 50 unless told"),
        ("sums >= sampling.top_p * sums[-1]", "sums > sampling.top_p * sums[-1]", "> for ≥ in top-p"),
        ("sampling.top_p * sums[-1]", "sampling.top_p", "top-p of weights that do not add up to 1"),
        ("scores = binary64(logits)", "scores = np.asarray(logits)", "logits in the compute dtype")),
    *edits("generate.pick", "GEN-005", sampling.pick,
        ("sums > u * sums[n_kept - 1]", "sums > u * sums[-1]", "u times C_m"),
        ("sums > u *", "sums > (1 - u) *", "1 − u"),
        ("STREAM_PICKS), [number]", "STREAM_PICKS, number), [0]", "a key a token")),
    *edits("generate.pick", "GEN-006", sampling.Sampling.__post_init__,
        ("0 <= self.temperature", "0 < self.temperature", "a temperature of 0 refused"),
        ("self.top_k < 1", "self.top_k < 2", "a top-k of 1 refused"),
        ("0 < self.top_p <= 1", "0 < self.top_p < 1", "a top-p of 1 refused")),
    *mutants("adapter.initial",
        ("ADP-002", adapter_base.uniform_factor, "2.0 * draws - 1.0", "2.0 * draws.astype('float32') - 1.0",
         "draws in binary32"),
        ("ADP-002", adapter_base.uniform_factor, "seed, STREAM_FACTORS, matrix", "seed, matrix, STREAM_FACTORS",
         "words exchanged")),
    *mutants("generate.read",
        ("LYR-013 LYR-008 GEN-001", attention_blocks.Sight.keys, "self.first + start - self.window + 1",
         "self.first + start - self.window + 1 + (self.first > 0)",
         "edited, behind a context a block a key short"),
        ("MDL-004", ROPE_OF, "10000.0", "1000000.0", "edited, another default base"),
        ("MDL-004", CONTEXT, '_positive_int(config, "max_position_embeddings")', "8192",
         "edited, another original context")),
    edited("GEN-001", "generate.read", past._roomy, _ROOM, _HALF_A_ROOM, "a context that grows keeps 512 tokens",
     shown_by="generate.read-large"),
    edited("GEN-007", "generate.text", generate._generate, _BLOCKS, _WHOLE_BLOCKS, "a long prompt read in whole blocks",
     shown_by="generate.text-large"),
    *mutants("generate.fork",
        ("GEN-001", branches_in_a_row, "a context that readings change"),
        ("GEN-001", without_context, "the first token for a context"),
        ("GEN-001", first_branch, "the first branch for all"),
        unchecked="GEN-002"),
    *mutants("generate.stops",
        ("GEN-008", of_config, "the config alone"),
        ("GEN-008", true_if_any, "0 taken for none"),
        ("GEN-008", first_alone, "the first of a list"),
        unchecked="GEN-008"),
]  # fmt: skip
