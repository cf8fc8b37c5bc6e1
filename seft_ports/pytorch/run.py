"""A whole run, from config and tensors to the final weights, with the model of transformers (chapter 10)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.counter import counter_key, draws
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.events import Evolution
from seft_ports.pytorch.model import layers_of, merge, targets_of, wrap
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.rules import learning_rate
from seft_ports.pytorch.settings import Settings

__all__ = ["train_run", "training_starts"]

_IGNORED = -100


def training_starts(tokens: int, length: int, seed: int, step: int, rows: int) -> list[int]:
    """Return where the windows of a step start in a text of so many tokens."""
    # TRN-003
    if tokens < length:
        raise SeftError("TRN-003", f"a text of {tokens} tokens is shorter than a window of {length}")
    key, places = counter_key(seed, 2), tokens - length + 1
    numbers = torch.arange((step - 1) * rows, step * rows)
    return [(int(bits) & (2**64 - 1)) % places for bits in draws(key, numbers)]


def train_run(g: dict[str, Any]) -> dict[str, Any]:
    """Return losses, slots and bases after every event, and the final support and weights."""
    s, text = g["settings"], g["text"]
    if min(s["steps"], s["rows"], s["micro_batches"]) < 1 or s["length"] < 2:
        raise SeftError("TRN-008", "steps, rows and micro_batches are at least 1, length at least 2")
    if not all(math.isfinite(s[name]) and s[name] >= 0 for name in ("lr", "max_norm", "weight_decay")):
        raise SeftError("TRN-008", "lr, max_norm and weight_decay are finite and not negative")
    settings = Settings(
        density=s["density"],
        evolve_every=s["evolve_every"],
        drop_fraction=s["drop_fraction"],
        gradient_window=s["gradient_window"],
        preset=s["preset"],
        start=s["start"],
        seed=s["seed"],
    )
    training_starts(len(text), s["length"], s["seed"], 1, 1)
    model = _model(g["config"], g["tensors"])
    masks = {name: torch.zeros(layer.weight.shape, dtype=torch.bool) for name, layer in targets_of(model).items()}
    for name, mask in masks.items():
        mask.view(-1)[g["stored"][f"{name}.weight"]] = True
    model = wrap(model, settings, masks)
    layers = layers_of(model)
    optimizer = SeftOptimizer(model, weight_decay=s["weight_decay"])
    evolution = Evolution(model, optimizer, settings, s["steps"])
    losses: list[float] = []
    slots: list[list[Tensor]] = []
    bases: list[list[Tensor]] = []

    def micro_batches(step: int) -> list[tuple[Tensor, Tensor]]:
        starts = training_starts(len(text), s["length"], s["seed"], step, s["rows"])
        tokens = torch.stack([text[start : start + s["length"]] for start in starts])
        return [(part, _labels(part)) for part in tokens.tensor_split(s["micro_batches"]) if len(part)]

    def loss_of(part: tuple[Tensor, Tensor]) -> Tensor:
        logits = model(input_ids=part[0], use_cache=False).logits
        # TRN-001, TRN-002
        total = nn.functional.cross_entropy(logits.flatten(0, 1), part[1].flatten(), ignore_index=_IGNORED, reduction="sum")
        return total / (s["rows"] * (s["length"] - 1))

    for step in range(1, s["steps"] + 1):
        evolution.before_step(step)
        optimizer.zero_grad()
        loss = 0.0
        for part in micro_batches(step):
            one = loss_of(part)
            one.backward()
            loss += float(one.detach())
        if not math.isfinite(loss):
            raise SeftError("TRN-007", f"the loss of step {step} is {loss}")
        losses.append(loss)
        evolution.before_optimizer(step)
        if s["max_norm"]:
            nn.utils.clip_grad_norm_([layer.values for layer in layers.values()], s["max_norm"])
        if not all(bool(torch.isfinite(layer.values.grad).all()) for layer in layers.values()):
            raise SeftError("TRN-007", f"a gradient of step {step} is NaN or infinite")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(s["schedule"], s["lr"], step, s["steps"], s["warmup"])
        optimizer.step()
        if evolution.after_step(step):
            slots.append([layer.positions[: layer.slots].clone() for layer in layers.values()])
            bases.append([torch.nonzero(layer.mask.view(-1)).flatten() for layer in layers.values()])
    evolution.finish(lambda: map(loss_of, micro_batches(s["steps"])))
    budgets = torch.tensor([layer.budget for layer in layers.values()])
    delta_budgets = torch.tensor([layer.delta_budget for layer in layers.values()])
    supports = [torch.nonzero(mask.view(-1)).flatten() for mask in merge(model).values()]
    final = [layer.weight.detach().view(-1) for layer in targets_of(model).values()]
    return {
        "losses": torch.tensor(losses, dtype=final[0].dtype),
        "budgets": budgets,
        "delta_budgets": delta_budgets,
        "slots": slots,
        "bases": bases,
        "support": supports,
        "weights": [weight[where] for weight, where in zip(final, supports, strict=True)],
    }


def _model(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {key: value for key, value in config.items() if key != "model_type"}
    made = AutoConfig.for_model(config["model_type"], **rest)
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager", dtype=next(iter(tensors.values())).dtype)
    model.load_state_dict(tensors, strict=not made.tie_word_embeddings)
    return model


def _labels(tokens: Tensor) -> Tensor:
    """Return the label of each position: the next token, none for the last."""
    return torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], _IGNORED)], dim=1)
