"""Cases of models that read long rows, or compute a block twice."""

from typing import Any

import numpy as np

from conformance.gen import tiny
from conformance.gen.model import tensors_of
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import generate
from conformance.oracle.model import Config, Decoder

_SLIDES: Config = tiny.CONFIG | {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "layer_types": ["full_attention", "sliding_attention"],
    "use_sliding_window": True,
    "max_window_layers": 0,
    "sliding_window": 2,
}


def _model(area: Area, name: str, clauses: str, purpose: str, config: Config, n: Numbers, **more: Any) -> None:
    """Add a forward and backward of a model over `tokens`, with `mask` if it is given."""
    tensors = tensors_of(config, n, 0.6)
    tokens, mask = more.pop("tokens"), more.pop("mask", None)
    loss, logits, grads = Decoder(config, tensors).loss_and_gradients(tokens, tokens, mask)
    inputs = {"config": config, "tensors": tensors, "tokens": tokens, "labels": tokens, "mask": mask}
    inputs |= {"rows_at_once": len(tokens)} | more
    answer = {"loss": loss, "logits": logits, "gradients": grads}
    area.add(name, "model.step", f"{clauses} GRD-001 NUM-004", purpose, inputs, answer)


def long() -> Area:
    """Return cases of more queries than attention takes at once, and of blocks computed twice (LYR-013, MDL-008)."""
    area = Area("long", "binary64 decoder")
    n = Numbers(121, 1)
    mask = np.ones((2, 6), dtype=bool)
    mask[1, :2] = False
    purpose = "the forward that a backward repeats, with the window, mask or weights of another block"
    more = {"tokens": n.integers((2, 6), 0, 4), "mask": mask, "recompute": 1}
    _model(area, "again", "MDL-008 MDL-003 LYR-008 MDL-001", purpose, _SLIDES, n, **more)
    narrow = {"vocab_size": 2, "max_position_embeddings": 600}
    length = 515
    visible = np.ones((1, length), dtype=bool)
    visible[0, [0, 254, 257, 300, 513]] = False
    purpose = "a block of queries that misses the first or last key it sees, or takes the mask of another stretch"
    config = _SLIDES | narrow | {"sliding_window": 3, "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    _model(
        area,
        "masked",
        "LYR-013 LYR-008 MDL-003",
        purpose,
        config,
        n,
        tokens=n.integers((1, length), 0, 1),
        mask=visible,
    )
    for name, window, parts in (("read", 2, (40, 513, 2)),):
        config = _SLIDES | narrow | {"sliding_window": window}
        tensors, tokens = tensors_of(config, n, 0.6), n.integers((1, sum(parts)), 0, 1)
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "parts": list(parts)}
        answer = {"logits": generate.logits_behind(config, tensors, tokens, parts)}
        purpose = "queries of a long reading counted from its first, not from that of the context"
        area.add(name, "generate.read", "GEN-001 LYR-013 LYR-008 NUM-004", purpose, inputs, answer)
    return area


AREAS = (long,)
