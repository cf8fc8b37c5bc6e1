"""Properties of whole models that are pruned (chapter 11)."""

import math
from typing import Any

from conformance.answers import answer
from conformance.answers.answer import ids
from conformance.properties.draws import Draw
from conformance.properties.models import KINDS, ask_until_sure, drawn_config, drawn_tensors, surely
from conformance.properties.trial import Trial, property_of


def _pruned(d: Draw, t: Trial, op: str) -> None:
    def draw() -> tuple[dict[str, Any], dict[str, Any] | None]:
        config = drawn_config(d, d.choice(KINDS)) | {"max_position_embeddings": 16}
        tensors, sparsity = drawn_tensors(d, config), d.choice((0.5, 0.25, 0.7))
        size = (d.integer(2, 4), d.integer(4, 8))
        tokens = ids(d.integers(math.prod(size), 0, config["vocab_size"] - 1)).reshape(size)
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "sparsity": sparsity}
        return inputs, surely(d, tensors, lambda near: dict(answer(op, inputs | {"tensors": near}).outputs))

    ask_until_sure(t, op, draw, "a pruned model")


@property_of("prune.model", "PRN-003 PRN-005", "prune", "prune.model", sees=("a pruned model",), seeded=2)
def _wanda(d: Draw, t: Trial) -> None:
    """Each block is pruned by the inputs that it gets from blocks that are pruned already."""
    _pruned(d, t, "prune.model")


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
    _pruned(d, t, "prune.model_sparsegpt")
