"""Properties of whole models that are pruned (chapter 11)."""

import math
from collections.abc import Callable
from typing import Any

from conformance.gen.numbers import ids
from conformance.oracle import prune
from conformance.properties.draws import Draw
from conformance.properties.models import KINDS, Tensors, ask_until_sure, drawn_config, drawn_tensors, surely
from conformance.properties.trial import Trial, property_of


def _pruned(d: Draw, t: Trial, op: str, how: Callable[[float], prune.Prune], outputs: tuple[str, ...]) -> None:
    def draw() -> tuple[dict[str, Any], dict[str, Any] | None]:
        config = drawn_config(d, d.choice(KINDS)) | {"max_position_embeddings": 16}
        tensors, sparsity = drawn_tensors(d, config), d.choice((0.5, 0.25, 0.7))
        size = (d.integer(2, 4), d.integer(4, 8))
        tokens = ids(d.integers(math.prod(size), 0, config["vocab_size"] - 1)).reshape(size)

        def answer(params: Tensors) -> dict[str, Any]:
            kept, weights, _ = prune.model(config, params, tokens, how(sparsity))
            answers = {"kept": {name: ids(at) for name, at in kept.items()}, "weights": weights}
            return {name: answers[name] for name in outputs}

        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "sparsity": sparsity}
        return inputs, surely(d, tensors, answer)

    ask_until_sure(t, op, draw, "a pruned model")


@property_of("prune.model", "PRN-003 PRN-005", "prune", "prune.model", sees=("a pruned model",), seeded=2)
def _wanda(d: Draw, t: Trial) -> None:
    """Each block is pruned by the inputs that it gets from blocks that are pruned already."""
    _pruned(d, t, "prune.model", prune.by_wanda, ("kept",))


@property_of(
    "prune.model-sparsegpt",
    "PRN-005 PRN-009 PRN-010 PRN-011",
    "prune",
    "prune.model_sparsegpt",
    sees=("a pruned model",),
    seeded=2,
)
def _sparsegpt(d: Draw, t: Trial) -> None:
    """SparseGPT prunes a model block by block, and its new weights are those of one inverse for each column."""

    def how(sparsity: float) -> prune.Prune:
        return lambda w, x: prune.sparsegpt(w, x, sparsity)

    _pruned(d, t, "prune.model_sparsegpt", how, ("kept", "weights"))
