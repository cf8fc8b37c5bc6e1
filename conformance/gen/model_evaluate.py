"""Cases of chapter 11: perplexity, and windows or tokens that a model cannot read."""

import numpy as np

from conformance.gen import tiny
from conformance.gen.model import MODELS, tensors_of
from conformance.gen.numbers import Area, Numbers, ids
from conformance.oracle import train_text
from conformance.oracle.model import Decoder


def evaluation() -> Area:
    """Return cases of perplexity (EVL-001, EVL-003, TRN-017, TRN-018)."""
    area = Area("evaluate", "binary64 decoder")
    config = MODELS["llama-plain"]
    n = Numbers(50, 1)
    tensors = tensors_of(config, n)
    text = n.integers(60, 0, 10)
    length, windows = 9, 5
    starts = train_text.evaluation_starts(60, length, windows)
    rows = np.stack([text[a : a + length] for a in starts])
    loss, _ = Decoder(config, tensors).loss(rows, rows)
    inputs = {"config": config, "tensors": tensors, "text": text, "length": length, "windows": windows}
    answer = {"perplexity": float(np.exp(loss.value)), "targets": windows * (length - 1)}
    purpose = "a mean over tokens instead of targets, or 2 to the power of the loss"
    area.add("windows", "evaluate.perplexity", "EVL-001 NUM-004", purpose, inputs, answer)
    _unreadable(area)
    sharp = dict(tensors)
    sharp["lm_head.weight"] = tensors["lm_head.weight"] * 2.0**14
    mean = float(Decoder(config, sharp).loss(rows, rows)[0].value)
    assert mean > 1000
    purpose = "an overflow instead of a refusal, or a perplexity that is infinite"
    bad = inputs | {"tensors": sharp}
    area.add("refuse-large", "evaluate.perplexity", "EVL-003", purpose, bad, refused="EVL-003")
    sharp = dict(sharp)
    sharp["model.norm.weight"] = tensors["model.norm.weight"] * 2.0**125
    purpose = "a mean of infinite or missing numbers taken for a loss"
    bad = inputs | {"tensors": sharp}
    area.add("refuse-overflow", "evaluate.perplexity", "EVL-003", purpose, bad, refused="EVL-003", dtypes=("float32",))
    far = dict(tensors)
    far["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] * 2.0**80
    purpose = "RMSNorm gives 0 behind squares that overflow, and the perplexity is the size of the vocabulary"
    area.add(
        "refuse-hidden",
        "evaluate.perplexity",
        "LYR-015 TRN-019",
        purpose,
        inputs | {"tensors": far},
        refused="LYR-015 EVL-003",
        dtypes=("float32",),
    )
    return area


def _unreadable(area: Area) -> None:
    """Add evaluations with a window or token that the model cannot read, and one with the longest window it can."""
    length, windows = 8, 2
    config = tiny.SMALLEST | {"max_position_embeddings": length}
    tensors, _, words = tiny.world(Numbers(50, 2), config)
    text = ids(words)
    inputs = {"config": config, "tensors": tensors, "text": text, "length": length, "windows": windows}
    starts = train_text.evaluation_starts(len(text), length, windows)
    rows = np.stack([text[a : a + length] for a in starts])
    mean = float(Decoder(config, tensors).loss(rows, rows)[0].value)
    answer = {"perplexity": float(np.exp(mean)), "targets": windows * (length - 1)}
    purpose = "a window as long as the model has positions refused"
    area.add("last-position", "evaluate.perplexity", "TRN-017 NUM-004", purpose, inputs, answer)
    config = config | {"max_position_embeddings": length - 1}
    purpose = "a window one token longer than the model has positions"
    bad = inputs | {"config": config}
    area.add("refuse-positions", "evaluate.perplexity", "TRN-017", purpose, bad, refused="TRN-017")
    more = {"num_attention_heads": 1, "head_dim": 4, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    config = config | more
    purpose = "dynamic RoPE taken for a leave to go beyond"
    bad = inputs | {"config": config, "tensors": tensors_of(config, Numbers(50, 3))}
    area.add("refuse-dynamic", "evaluate.perplexity", "TRN-017", purpose, bad, refused="TRN-017")
    between = starts[0] + length
    assert between < starts[1], "a window holds the token that no window is to hold"
    for name, token, purpose in (
        (
            "vocabulary",
            tiny.SMALLEST["vocab_size"],
            "a text of another tokenizer, told by a token that no window holds",
        ),
        ("negative", -1, "a negative token that no window holds"),
    ):
        other = text.copy()
        other[between] = token
        bad = inputs | {"text": other}
        area.add(f"refuse-{name}", "evaluate.perplexity", "TRN-018", purpose, bad, refused="TRN-018 LYR-001")


AREAS = (evaluation,)
