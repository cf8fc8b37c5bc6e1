"""Answers that a model writes behind prompts, in plain Python (TSK-003, TSK-009)."""

import math
from collections.abc import Sequence

import numpy as np

from conformance.oracle.model import Config, Decoder
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.tape import Array

WORDS = ("Question:", "</s>", "<|im_end|>")
MOST = 256


def answered(
    config: Config,
    tensors: dict[str, Array],
    pieces: Sequence[str],
    prompt: Sequence[int],
    stops: Sequence[int],
    most: int,
) -> tuple[str, float]:
    """Return the answer behind a prompt, and the least distance of the two largest logits of its tokens.

    pieces  the text of each token
    """
    fits = 0 < len(prompt) <= config["max_position_embeddings"] + 1 - most
    if not fits or not all(0 <= token < config["vocab_size"] for token in prompt):
        msg = f"TSK-003: {len(prompt)} tokens"
        raise RefusedError(msg)
    decoder, tokens, text, near = Decoder(config, tensors), list(prompt), "", math.inf
    for _ in range(most):
        logits = decoder.logits(np.array([tokens])).value[0, -1].tolist()
        token = logits.index(max(logits))
        near = min(near, logits[token] - max(x for i, x in enumerate(logits) if i != token))
        if token in stops:
            break
        tokens.append(token)
        text += pieces[token]
        if any(word in text for word in WORDS):
            break
    for word in WORDS:
        text = text.partition(word)[0]
    return text, near
