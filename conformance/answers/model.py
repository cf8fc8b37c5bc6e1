"""Configs, whole models and perplexity (chapters 5, 6 and 11: MDL, GRD, TRN-001, EVL)."""

import math
import sys
from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, Refusal, answers, refuse
from conformance.oracle import model, model_config, train_text
from conformance.oracle.model import Config, Decoder

__all__ = ["legal", "refuse_tokens"]


def legal(config: Config) -> Config:
    """Return a config that breaks no clause; refuse any other."""
    clauses = model_config.broken(config)
    if clauses:
        raise Refusal(*clauses)
    return config


def refuse_tokens(config: Config, *tokens: Any) -> None:
    """Refuse a token that is not in the vocabulary."""
    refuse(LYR_001=any(((rows < 0) | (rows >= config["vocab_size"])).any() for rows in tokens))


@answers("config.describe")
def _describe(a: Inputs) -> dict[str, Any]:
    return model.described(legal(a["config"]))


@answers("config.biases")
def _biases(a: Inputs) -> dict[str, Any]:
    return {"projections": list(model.biases(legal(a["config"])))}


@answers("model.step")
def _step(a: Inputs) -> dict[str, Any]:
    config = legal(a["config"])
    refuse_tokens(config, a["tokens"])
    outputs = Decoder(config, a["tensors"]).loss_and_gradients(a["tokens"], a["labels"], a["mask"])
    return dict(zip(("loss", "logits", "gradients"), outputs, strict=True))


@answers("evaluate.perplexity")
def _perplexity(a: Inputs) -> dict[str, Any]:
    config, text, length = legal(a["config"]), a["text"], a["length"]
    outside = bool(((text < 0) | (text >= config["vocab_size"])).any())
    refuse(TRN_017=length > config["max_position_embeddings"], EVL_002=not 2 <= length <= len(text))
    refuse(TRN_018=outside, LYR_001=outside)
    rows = np.stack([text[p : p + length] for p in train_text.evaluation_starts(len(text), length, a["windows"])])
    decoder = Decoder(config, a["tensors"])
    squares = decoder.embed(rows).value ** 2
    # TRN-019.2: what overflows inside a layer may be refused by the clause of the evaluation too
    overflows = not math.isfinite(a.rounded(float(squares.mean(axis=-1).max())))
    refuse(LYR_015=overflows, EVL_003=overflows)
    loss, logits = decoder.loss(rows, rows)
    mean, top = float(loss.value), a.rounded(float(abs(logits.value).max()))
    refuse(EVL_003=not mean <= math.log(sys.float_info.max) or not math.isfinite(top))
    return {"perplexity": float(np.exp(mean)), "targets": len(rows) * (length - 1)}
