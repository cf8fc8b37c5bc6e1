"""Configs, whole models and readings of a model (chapters 5, 6 and 17: MDL, GRD, TRN-001, GEN-001, GEN-002)."""

from typing import Any

from conformance.answers.answer import Inputs, Refusal, answers, refuse
from conformance.oracle import model, model_config
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
