"""Cases of several readings that go on from one context (GEN-001)."""

from typing import Any

import numpy as np

from conformance.gen.generate import NARROW
from conformance.gen.model import MODELS, tensors_of
from conformance.gen.numbers import Area, Array, Numbers
from conformance.oracle import generate
from conformance.oracle.model import Config


def forked(config: Config, tensors: dict[str, Array], tokens: Array, branches: list[Array]) -> tuple[Any, Any]:
    """Return inputs and outputs of `generate.fork`."""
    inputs = {"config": config, "tensors": tensors, "tokens": tokens, "branches": branches}
    logits = []
    for branch in branches:
        whole = np.concatenate([tokens, branch], axis=1)
        parts = [tokens.shape[1], branch.shape[1]]
        logits.append(generate.logits_behind(config, tensors, whole, parts)[:, -1])
    return inputs, {"logits": logits}


def forks() -> Area:
    """Return cases of four branches from one context (GEN-001)."""
    area = Area("fork", "a whole forward a branch, binary64")
    for i, name in enumerate(("llama", "mistral", "qwen3")):
        config, n = MODELS[name] | NARROW | {"max_position_embeddings": 16}, Numbers(93, i)
        tensors = tensors_of(config, n)
        branches = [n.integers((2, length), 0, 6) for length in (2, 1, 3, 2)]
        inputs, answer = forked(config, tensors, n.integers((2, 4), 0, 6), branches)
        purpose = "a context that a reading changes: the second branch sees the first, or lies behind it"
        area.add(name, "generate.fork", "GEN-001 NUM-004", purpose, inputs, answer)
    bad = inputs | {"branches": [branches[0], n.integers((3, 1), 0, 6)]}
    area.add("refuse-rows", "generate.fork", "GEN-002", "a branch of another number of rows", bad, refused="GEN-002")
    return area


AREAS = (forks,)
