"""Cases of chapter 17: readings after a context, picks of tokens, whole texts."""

import math
from typing import Any

import numpy as np

from conformance.gen import tiny
from conformance.gen.model import MODELS, tensors_of
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import generate

_ORDER = "a whole forward a token, binary64"
NARROW = {"hidden_size": 4, "intermediate_size": 3, "vocab_size": 7}
"""Sizes of small models for cases with a context."""


def reading() -> Area:
    """Return cases of tokens read in several parts (GEN-001, GEN-002)."""
    area = Area("read", _ORDER)
    parts = {
        "llama": (3, 1, 2),
        "llama-plain": (1, 1, 1, 1),
        "mistral": (2, 1, 3, 1),
        "qwen2": (5, 1, 1),
        "qwen3": (2, 1, 1),
    }
    for i, (name, model) in enumerate(MODELS.items()):
        config, n = model | NARROW, Numbers(90, i)
        tensors = tensors_of(config, n)
        tokens = n.integers((2, sum(parts[name])), 0, 6)
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "parts": list(parts[name])}
        answer = {"logits": generate.logits_behind(config, tensors, tokens, parts[name])}
        clauses = "GEN-001 MDL-001 LYR-004 NUM-004" + (" LYR-008" if name in ("mistral", "qwen2", "qwen3") else "")
        purpose = "positions that start anew, keys forgotten or of another row, a window that ends at a reading"
        area.add(name, "generate.read", clauses, purpose, inputs, answer)
    # config, tensors and tokens are still those of qwen3, the last kind, whose model has four positions
    for name, read, split, purpose in (
        ("refuse-beyond", n.integers((1, 5), 0, 6), [4, 1], "a fifth token where there are four positions"),
        ("refuse-none", tokens, [2, 0], "a reading of nothing"),
    ):
        bad = inputs | {"tokens": read, "parts": split}
        area.add(name, "generate.read", "GEN-002", purpose, bad, refused="GEN-002")
    bad = inputs | {"tokens": tokens + 7}
    area.add("refuse-token", "generate.read", "LYR-001", "a token outside the vocabulary", bad, refused="LYR-001")
    return area


def picks() -> Area:
    """Return cases of picking a token (GEN-003 to GEN-006)."""
    area = Area("pick")
    n = Numbers(91, 1)
    spread, levels = n.real(17, 2.0), n.lattice(13, 3) / 2
    even = np.zeros(8)
    zeros = reals([-1.0, -0.0, 0.0, -2.0])
    large = reals([3e38, -3e38, 2.5e38, 3e38])
    draws = list(range(24))
    plain: dict[str, Any] = {"temperature": 1.0, "seed": 5}
    every: tuple[tuple[str, Array, dict[str, Any], str, str], ...] = (
        ("greedy", spread, {"temperature": 0.0}, "GEN-003", "a draw at temperature 0"),
        ("greedy-ties", levels, {"temperature": 0.0}, "GEN-003 SEL-001", "the last of equals"),
        ("greedy-zeros", zeros, {"temperature": 0.0, "top_k": 1, "top_p": 0.5}, "GEN-003 SEL-004", "−0 below +0"),
        ("plain", spread, {}, "GEN-004 GEN-005", "sums in order of id, another stream, another number"),
        ("seed", spread, {"seed": 2**64 - 1}, "GEN-005 RNG-002", "a seed of 32 or 63 bits"),
        ("cool", spread, {"temperature": 0.25}, "GEN-004", "logits multiplied by the temperature"),
        ("warm", spread, {"temperature": 4.0}, "GEN-004", "logits multiplied by the temperature"),
        ("top-k", levels, {"top_k": 4, "temperature": 3.0}, "GEN-004 SEL-001", "ties at the boundary kept"),
        ("top-k-1", levels, {"top_k": 1}, "GEN-004", "another than the first of equals"),
        ("top-k-all", spread, {"top_k": 40}, "GEN-004", "more than there are refused"),
        ("top-p", spread, {"top_p": 0.75}, "GEN-004", "the one that crosses the boundary left out"),
        ("top-p-small", spread, {"top_p": 1e-6}, "GEN-004", "nothing left"),
        ("top-p-exact", even, {"top_p": 0.5}, "GEN-004", "> for ≥: one more where the sum is met exactly"),
        ("top-p-ties", levels, {"top_p": 0.5, "temperature": 2.0}, "GEN-004", "ties to the higher id"),
        ("cool-top-p", spread, {"temperature": 0.5, "top_p": 0.9}, "GEN-004", "top-p before the temperature"),
        ("warm-top-p", spread, {"temperature": 3.0, "top_p": 0.6}, "GEN-004", "top-p before the temperature"),
        ("both", spread, {"top_k": 5, "top_p": 0.8, "temperature": 2.0}, "GEN-004", "top-p before top-k"),
        ("even", even, {}, "GEN-005", "≥ for >, or a draw counted from 1"),
        # these draws are so near to a boundary that weights or sums in binary32 pick another token
        ("precise", spread, {"numbers": [254766, 796199]}, "GEN-004 GEN-005", "weights or sums in binary32"),
        ("one", spread[:1], {}, "GEN-005", "a vocabulary of one"),
        ("large", large, {}, "GEN-004", "an overflow: the largest is subtracted first"),
        ("sharp", spread, {"temperature": 1e-30}, "GEN-004", "an overflow of the quotient"),
    )
    for name, logits, how, clauses, purpose in every:
        inputs = {"logits": logits, "numbers": draws} | plain | how
        area.add(name, "generate.pick", clauses, purpose, inputs, {"picked": _picked(inputs)})
    wide, drawn = Numbers(91, 2).real(70, 0.5), {"top_p": 0.75, "temperature": 2.0}
    alone: tuple[tuple[str, Array, dict[str, Any], str, str], ...] = (
        ("low-first", reals([-900.0, 0.5, 1.0, 0.75]), {}, "GEN-004", "the first logit subtracted, not the largest"),
        ("wide", wide, {"temperature": 4.0}, "GEN-004", "a top-k of 50 unless another is given"),
        ("top-p-drawn", spread, drawn, "GEN-004 GEN-005", "u times the sum of those that did not stay"),
        # these draws cross a boundary if they are cut or rounded to 24 bits
        ("bits", spread, {"numbers": [1471065, 8213407, 21357341]}, "GEN-005", "a draw of 24 bits"),
        ("least", spread, {"temperature": 0.0, "top_k": 1, "top_p": 1.0}, "GEN-003 GEN-006", "0 and 1 refused"),
        ("least-drawn", spread, {"top_k": 1, "top_p": 1.0}, "GEN-004 GEN-006", "1 refused"),
    )
    for name, logits, how, clauses, purpose in alone:
        inputs = {"logits": logits, "numbers": draws} | plain | how
        area.add(name, "generate.pick", clauses, purpose, inputs, {"picked": _picked(inputs)})
    for name, bad in (
        ("nan", reals([0.0, math.nan])),
        ("infinite", reals([0.0, math.inf])),
        ("minus-infinite", reals([0.0, -math.inf])),
    ):
        inputs = {"logits": bad, "numbers": [0]} | plain
        area.add(f"refuse-{name}", "generate.pick", "GEN-006", "a logit that is no number", inputs, refused="GEN-006")
        inputs, purpose = inputs | {"temperature": 0.0}, "a logit that is no number, where nothing is drawn"
        area.add(f"refuse-greedy-{name}", "generate.pick", "GEN-006", purpose, inputs, refused="GEN-006")
    wrong: tuple[tuple[str, dict[str, Any]], ...] = (
        ("negative", {"temperature": -1.0}),
        ("hot", {"temperature": math.inf}),
        ("no-temperature", {"temperature": math.nan}),
        ("top-k-0", {"top_k": 0}),
        ("top-k-negative", {"top_k": -1}),
        ("top-p-0", {"top_p": 0.0}),
        ("top-p-negative", {"top_p": -0.5}),
        ("top-p-above", {"top_p": 1.5}),
        ("no-top-p", {"top_p": math.nan}),
    )
    for name, how in wrong:
        inputs = {"logits": spread, "numbers": [0]} | plain | how
        area.add(f"refuse-{name}", "generate.pick", "GEN-006", "a setting out of range", inputs, refused="GEN-006")
    for name, how in wrong[3:]:
        inputs = {"logits": spread, "numbers": [0]} | plain | how | {"temperature": 0.0}
        purpose = "a setting out of range, where it has no effect"
        area.add(f"refuse-greedy-{name}", "generate.pick", "GEN-006", purpose, inputs, refused="GEN-006")
    inputs = {"logits": spread, "numbers": [0], "temperature": 1.0, "seed": -1}
    area.add("refuse-seed", "generate.pick", "RNG-002", "a negative seed", inputs, refused="RNG-002")
    return area


def _picked(inputs: dict[str, Any]) -> Array:
    """Return the tokens that the oracle picks; no draw may be near a boundary."""
    logits = [float(x) for x in inputs["logits"]]
    how = (inputs["temperature"], inputs.get("top_k"), inputs.get("top_p"), inputs["seed"])
    picks = [generate.picked(logits, *how, number) for number in inputs["numbers"]]
    assert all(sure for _, sure in picks), "a draw near a boundary"
    return ids(token for token, _ in picks)


def texts() -> Area:
    """Return cases of whole texts (GEN-003, GEN-005, GEN-007)."""
    area = Area("text-generated", _ORDER)
    config = tiny.CONFIG | {"model_type": "mistral", "sliding_window": 4, "max_position_embeddings": 12}
    tensors = tensors_of(config, Numbers(92, 13), 0.8)
    base: dict[str, Any] = {"config": config, "tensors": tensors, "prompt": [3, 1, 4], "stops": []}
    base |= {"temperature": 0.0, "seed": 1}
    greedy, _ = generate.text(config, tensors, [3, 1, 4], [], None, base)
    late = greedy[3]
    warm = {"temperature": 3.0, "top_k": 4, "top_p": 0.6, "seed": 3}
    every: tuple[tuple[str, dict[str, Any], str, str], ...] = (
        ("full", {}, "GEN-007 GEN-002 GEN-003", "a token less, or a reading beyond the last position"),
        ("most", {"max_tokens": 4}, "GEN-007", "the prompt counted, or one token more"),
        ("stop", {"stops": [late, 99]}, "GEN-007", "the stop token left out, or a text that goes on behind it"),
        ("stop-in-prompt", {"prompt": [3, late, 4], "stops": [late], "max_tokens": 3}, "GEN-007", "a prompt searched"),
        (
            "long-prompt",
            {"prompt": [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]},
            "GEN-007 GEN-002",
            "no token behind a full context",
        ),
        ("drawn", warm, "GEN-005 GEN-004 GEN-007", "draws counted from the end of the prompt"),
        ("drawn-stop", warm | {"stops": [3, 1]}, "GEN-005 GEN-007", "a drawn stop token that does not stop"),
    )
    for name, how, clauses, purpose in every:
        inputs = base | how
        tokens, gap = generate.text(
            config, tensors, inputs["prompt"], inputs["stops"], inputs.get("max_tokens"), inputs
        )
        assert gap >= 1e-4, f"{name} hangs on {gap}"
        area.add(name, "generate.text", clauses, purpose, inputs, {"tokens": ids(tokens)})
    wrong: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("empty", {"prompt": []}, "GEN-002"),
        ("too-long", {"prompt": [1] * 13}, "GEN-002"),
        ("none", {"max_tokens": 0}, "GEN-007"),
        ("top-p", {"top_p": 2.0}, "GEN-006"),
    )
    for name, how, clause in wrong:
        area.add(f"refuse-{name}", "generate.text", clause, "nothing to do, or too much", base | how, refused=clause)
    return area


AREAS = (reading, picks, texts)
