"""Cases of the tokens that end a text (GEN-008)."""

import json
from typing import Any

from conformance.gen.numbers import Area, Array, ids
from conformance.gen.train_around import answered, telling
from conformance.oracle import generate

STOPS: tuple[tuple[str, Any, Any], ...] = (
    ("one", {"eos_token_id": 2}, None),
    ("many", {"eos_token_id": [2, 0, 7]}, None),
    ("none", {}, None),
    ("null", {"eos_token_id": None}, None),
    ("empty", {"eos_token_id": []}, None),
    ("generation-first", {"eos_token_id": 2}, {"eos_token_id": [5, 6]}),
    ("generation-null", {"eos_token_id": 2}, {"eos_token_id": None}),
    ("generation-silent", {"eos_token_id": 3}, {"a": 1}),
    ("generation-zero", {"eos_token_id": 2}, {"eos_token_id": 0}),
    ("generation-empty", {"eos_token_id": 2}, {"eos_token_id": []}),
    ("text", {"eos_token_id": "2"}, None),
    ("negative", {"eos_token_id": -1}, None),
    ("flag", {"eos_token_id": True}, None),
    ("nested", {"eos_token_id": [[2]]}, None),
    ("fraction", {"eos_token_id": [2, 2.5]}, None),
    ("generation-wrong", {"eos_token_id": 2}, {"eos_token_id": "x"}),
    ("object", {"eos_token_id": {"a": 1}}, None),
)


def stopping(config: str, generation: str | None) -> Array:
    """Return the stop tokens of a config and a generation config, both JSON texts, in the form of the output."""
    return ids(generate.stops(config, generation))


def stop_tokens() -> Area:
    """Return cases of stop tokens (GEN-008)."""
    area = Area("stops", "a table")
    for name, config, generation in STOPS:
        texts = json.dumps(config), None if generation is None else json.dumps(generation)
        inputs = {"config": texts[0]} | ({} if texts[1] is None else {"generation": texts[1]})
        answered(
            area,
            name,
            "generate.stops",
            "GEN-008",
            "0 taken for none, the other file first, or what is no token",
            inputs,
            telling("stops", stopping, *texts),
        )
    return area


AREAS = (stop_tokens,)
