"""A whole training run with a transformers model, from config and tensors to the final weights (chapter 10)."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.choices import choices_of
from seft_ports.pytorch.counter import counter_key, draws
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.events import Evolution
from seft_ports.pytorch.model import layers_of, merge, targets_of, wrap
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.rules import clip_factor, learning_rate
from seft_ports.pytorch.settings import Settings

__all__ = ["model_of", "settings_of", "train_run", "training_starts"]


def training_starts(tokens: int, length: int, seed: int, step: int, rows: int) -> list[int]:
    """Return where the windows of a step start in a text of `tokens` tokens, one start a row (TRN-003)."""
    # TRN-003
    if tokens < length:
        raise SeftError("TRN-003", f"a text of {tokens} tokens is shorter than a window of {length}")
    key, n_starts = counter_key(seed, 2), tokens - length + 1
    numbers = torch.arange((step - 1) * rows, step * rows)
    return [(int(bits) & (2**64 - 1)) % n_starts for bits in draws(key, numbers)]


def settings_of(s: dict[str, Any], tokens: int) -> Settings:
    """Return the settings of a run on a text of `tokens` tokens, after checking TRN-003 and TRN-008.

    Raises:
        ValueError: for a rule, an optimizer or a choice of SPEC.md that this port lacks.
    """
    # TRN-008
    if min(s["steps"], s["rows"], s["micro_batches"]) < 1 or s["length"] < 2 or s["warmup"] < 0:
        raise SeftError("TRN-008", "steps, rows and micro_batches are at least 1, length at least 2, warmup at least 0")
    if not all(math.isfinite(s[name]) and s[name] >= 0 for name in ("lr", "max_norm", "weight_decay")):
        raise SeftError("TRN-008", "lr, max_norm and weight_decay are finite and not negative")
    if not all(0 <= s.get(name, 0.0) < 1 for name in ("beta1", "beta2", "momentum")):
        raise SeftError("TRN-008", "beta1, beta2 and momentum are at least 0 and below 1")
    names = ("density", "evolve_every", "drop_fraction", "gradient_window", "start", "seed")
    # DLT-004, OPT-001: the defaults of a run, whatever the preset
    named = {"initial_scope": s.get("initial_scope", "active"), "optimizer": s.get("optimizer", "adamw")}
    settings = Settings(**{name: s[name] for name in names}, **named, **choices_of(s))
    training_starts(tokens, s["length"], s["seed"], 1, 1)
    return settings


def check_text(text: Tensor, length: int, config: dict[str, Any]) -> None:
    """Raise SeftError for a window that is too long (TRN-017) or a token outside the vocabulary (TRN-018)."""
    # TRN-017
    if length > config["max_position_embeddings"]:
        raise SeftError("TRN-017", f"a window of {length} tokens is longer than max_position_embeddings")
    # TRN-018
    if int(text.min()) < 0 or int(text.max()) >= config["vocab_size"]:
        raise SeftError(
            "TRN-018", "the text has a token outside vocab_size: tokenizer and model do not belong together"
        )


def train_run(g: dict[str, Any]) -> dict[str, Any]:
    """Return losses, slots and bases after every event, and the final support and weights."""
    s, text = g["settings"], g["text"]
    settings = settings_of(s, len(text))
    check_text(text, s["length"], g["config"])
    model = model_of(g["config"], g["tensors"])
    masks = {name: torch.zeros(layer.weight.shape, dtype=torch.bool) for name, layer in targets_of(model).items()}
    for name, mask in masks.items():
        mask.view(-1)[g["stored"][f"{name}.weight"]] = True
    model = wrap(model, settings, masks)
    layers = list(layers_of(model).values())
    # OPT-003
    betas = s.get("beta1", 0.9), s.get("beta2", 0.999)
    optimizer = SeftOptimizer(
        model, betas=betas, eps=s.get("eps", 1e-8), weight_decay=s["weight_decay"], kind=settings.optimizer
    )
    evolution = Evolution(model, optimizer, settings, s["steps"], micro_batches=s["micro_batches"])
    losses: list[float] = []
    slots: list[list[Tensor]] = []
    bases: list[list[Tensor]] = []

    def losses_of(step: int) -> Iterator[Tensor]:
        """Yield the losses of the micro-batches; their sum is the loss of the step."""
        starts = training_starts(len(text), s["length"], s["seed"], step, s["rows"])
        tokens = torch.stack([text[start : start + s["length"]] for start in starts])
        for part in tokens.tensor_split(s["micro_batches"]):
            logits = model(input_ids=part, use_cache=False).logits[:, :-1].flatten(0, 1)
            # TRN-001, TRN-002
            total = nn.functional.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum")
            yield total / (s["rows"] * (s["length"] - 1))

    for step in range(1, s["steps"] + 1):
        evolution.before_step(step)
        optimizer.zero_grad()
        losses.append(0.0)
        for loss in losses_of(step):
            loss.backward()
            losses[-1] += float(loss.detach())
        evolution.before_optimizer(step)
        # TRN-007
        if not math.isfinite(losses[-1]):
            raise SeftError("TRN-007", f"the loss of step {step} is {losses[-1]}")
        if s["max_norm"]:
            gradients = [layer.values.grad for layer in layers if layer.values.grad is not None]
            # OPT-004: the norm in binary64
            norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients))
            for gradient in gradients:
                gradient *= clip_factor(norm, s["max_norm"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(s["schedule"], s["lr"], step, s["steps"], s["warmup"])
        optimizer.step()
        if evolution.after_step(step):
            slots.append([layer.positions[: layer.slots].clone() for layer in layers])
            bases.append([torch.nonzero(layer.base().view(-1)).flatten() for layer in layers])
    evolution.finish(lambda: losses_of(s["steps"]))
    supports = [torch.nonzero(mask.view(-1)).flatten() for mask in merge(model).values()]
    final = [layer.weight.detach().view(-1) for layer in targets_of(model).values()]
    return {
        "losses": torch.tensor(losses, dtype=final[0].dtype),
        "budgets": torch.tensor([layer.budget for layer in layers]),
        "delta_budgets": torch.tensor([layer.delta_budget for layer in layers]),
        "slots": slots,
        "bases": bases,
        "support": supports,
        "weights": [weight[positions] for weight, positions in zip(final, supports, strict=True)],
    }


def model_of(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """Return the transformers model with this config and these tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {key: value for key, value in config.items() if key != "model_type"}
    auto_config = AutoConfig.for_model(config["model_type"], **rest)
    model = AutoModelForCausalLM.from_config(
        auto_config, attn_implementation="eager", dtype=next(iter(tensors.values())).dtype
    )
    model.load_state_dict(tensors, strict=not auto_config.tie_word_embeddings)
    return model
