"""Properties of picks, readings and texts (chapter 17)."""

import math
from typing import Any

import numpy as np

from conformance.answers.answer import ids, reals
from conformance.oracle import generate
from conformance.properties.draws import Draw
from conformance.properties.models import KINDS, TINY, ask_surely, ask_until_sure, drawn_config, drawn_tensors
from conformance.properties.trial import Trial, property_of


@property_of(
    "generate.pick",
    "GEN-003 GEN-004 GEN-005 GEN-006",
    "generate",
    "generate.pick",
    sees=("a tie", "top-k that cuts a tie", "top-p that leaves some out", "temperature 0", "a logit that is no number"),
)
def _pick(d: Draw, t: Trial) -> None:
    """A port picks the token that a loop over sorted ids picks."""
    logits = d.levels(1 + d.length(33), 8, 0.25)
    top_k, top_p = d.choice((None, 1, 2, 3, 5, 40)), d.choice((None, 0.5, 0.9, 0.01, 1.0))
    inputs: dict[str, Any] = {"temperature": d.choice((1.0, 0.5, 3.0, 0.0)), "seed": d.integer(0, 9)}
    inputs |= {"logits": reals(logits), "numbers": [d.integer(0, 40) for _ in range(3)]}
    inputs |= {} if top_k is None else {"top_k": top_k}
    inputs |= {} if top_p is None else {"top_p": top_p}
    if d.flag(8):
        inputs["logits"][d.integer(0, len(logits) - 1)] = d.choice((np.nan, np.inf))
        t.saw("a logit that is no number")
        t.case("generate.pick", inputs)
        return
    how = (inputs["temperature"], top_k, top_p, inputs["seed"])
    if not all(generate.picked(logits, *how, number)[1] for number in inputs["numbers"]):
        return
    t.saw("a tie", len(set(logits)) < len(logits))
    t.saw("temperature 0", inputs["temperature"] == 0)
    if top_k is not None and top_k < len(logits):
        falling = sorted(logits, reverse=True)
        t.saw("top-k that cuts a tie", falling[top_k - 1] == falling[top_k])
    t.saw("top-p that leaves some out", inputs["temperature"] and top_p is not None and top_p < 1 and len(logits) > 2)
    t.case("generate.pick", inputs)


@property_of("generate.read", "GEN-001 MDL-001 LYR-004 LYR-008", "generate", "generate.read", sees=KINDS, seeded=1)
def _read(d: Draw, t: Trial) -> None:
    """Logits behind several readings are those of a whole forward over all tokens before them."""
    for kind in KINDS:

        def draw(kind: str = kind) -> dict[str, Any]:
            config = drawn_config(d, kind) | {"max_position_embeddings": 16}
            tensors, parts = drawn_tensors(d, config), [d.integer(1, 3) for _ in range(d.integer(2, 3))]
            size = (d.integer(1, 2), sum(parts))
            tokens = ids(d.integers(math.prod(size), 0, config["vocab_size"] - 1)).reshape(size)
            return {"config": config, "tensors": tensors, "tokens": tokens, "parts": parts}

        ask_surely(t, d, "generate.read", draw, kind)


@property_of(
    "generate.text",
    "GEN-003 GEN-004 GEN-005 GEN-007",
    "generate",
    "generate.text",
    sees=("a greedy text", "a drawn text"),
    seeded=1,
)
def _text(d: Draw, t: Trial) -> None:
    """A text is one pick after another, up to a stop token, a number of tokens or the last position."""
    for saw in ("a greedy text", "a drawn text"):

        def draw(saw: str = saw) -> tuple[dict[str, Any], dict[str, Any] | None]:
            config = TINY | {"model_type": "mistral", "sliding_window": d.integer(2, 5)}
            config |= {"max_position_embeddings": d.integer(8, 12)}
            tensors = drawn_tensors(d, config, 1.5)
            inputs: dict[str, Any] = {"config": config, "tensors": tensors, "seed": d.integer(0, 2**40)}
            inputs |= {"prompt": d.integers(d.integer(1, 5), 0, 4), "stops": d.subset(5, 4)}
            inputs |= {"temperature": 0.0 if saw == "a greedy text" else d.choice((1.0, 0.5, 3.0))}
            inputs |= {"max_tokens": d.integer(2, 6)} if d.flag() else {}
            inputs |= {"top_k": d.integer(2, 4)} if d.flag() else {}
            inputs |= {"top_p": d.choice((0.5, 0.75, 0.9))} if d.flag() else {}
            how = (inputs["prompt"], inputs["stops"], inputs.get("max_tokens"))
            tokens, gap = generate.text(config, tensors, *how, inputs)
            return inputs, {"tokens": ids(tokens)} if gap >= 1e-3 else None

        ask_until_sure(t, "generate.text", draw, saw)
