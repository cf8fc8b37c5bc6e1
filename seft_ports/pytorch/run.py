"""Runs, steps and evaluations of a transformers model, in the form that the kit requests (chapters 10 and 11)."""

import math
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.counter import counter_key, draws
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.events import Evolution
from seft_ports.pytorch.model import layers_of, merge, show_overflow, targets_of, wrap
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.presets import CHOICES, DEFAULTS
from seft_ports.pytorch.schedule import learning_rate
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.slot_step import clip
from seft_ports.pytorch.update import SparseUpdate

__all__ = [
    *("evaluation_starts", "model_of", "perplexity", "settings_named", "settings_of", "train_run", "train_step"),
    "training_starts",
]


def training_starts(tokens: int, length: int, seed: int, step: int, rows: int) -> list[int]:
    """Return where the windows of a step start in a text of `tokens` tokens, one start per row (TRN-003)."""
    # TRN-003
    if tokens < length:
        raise SeftError("TRN-003", f"a text of {tokens} tokens is shorter than a window of {length}")
    key, n_starts = counter_key(seed, 2), tokens - length + 1
    numbers = torch.arange((step - 1) * rows, step * rows)
    return [(int(bits) & (2**64 - 1)) % n_starts for bits in draws(key, numbers)]


def settings_of(s: dict[str, Any], tokens: int) -> Settings:
    """Return the settings of a run on a text of `tokens` tokens, after checking TRN-003 and TRN-008."""
    # TRN-008
    counts = [s.get(name, 1) for name in ("steps", "rows", "micro_batches", "start_batches", "event_batches")]
    if min(counts) < 1 or s["length"] < 2 or s["warmup"] < 0:
        raise SeftError("TRN-008", "steps, rows and *batches are at least 1, length at least 2, warmup at least 0")
    if not all(math.isfinite(s[name]) and s[name] >= 0 for name in ("lr", "max_norm", "weight_decay")):
        raise SeftError("TRN-008", "lr, max_norm and weight_decay are finite and not negative")
    if not all(0 <= s.get(name, 0.0) < 1 for name in ("beta1", "beta2", "momentum")):
        raise SeftError("TRN-008", "beta1, beta2 and momentum are at least 0 and below 1")
    settings = Settings(**settings_named(s))
    training_starts(tokens, s["length"], s["seed"], 1, 1)
    return settings


def settings_named(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and choices of a case under the names of `Settings`.

    The kit calls `initial_positions` `start`, writes true and false as 1 and 0, and a rule as an object of its own.
    """
    flat = settings | (settings.get("rule") or {})
    if "start" in flat:
        flat["initial_positions"] = flat["start"]
    booleans = [name for name, value in CHOICES.items() if isinstance(value, bool)]
    flat |= {name: bool(flat[name]) for name in booleans if name in flat}
    if flat.get("pattern") is not None:
        flat["pattern"] = tuple(int(n) for n in flat["pattern"])
    names = (*DEFAULTS, "preset", "pattern", "seed")
    return {"preset": "seft"} | {name: flat[name] for name in names if flat.get(name) is not None}


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


def evaluation_starts(tokens: int, length: int, windows: int | None) -> list[int]:
    """Return where the evaluation windows start in a text of `tokens` tokens: spread evenly, or side by side (EVL-001).

    windows  how many are spread; None for windows side by side
    """
    # EVL-002
    if length < 2 or tokens < length:
        raise SeftError("EVL-002", f"a text of {tokens} tokens has no window of {length}; a window has at least 2")
    if windows is None:
        # EVL-001.3
        return [i * length for i in range(tokens // length)]
    # EVL-001.2
    return [i * (tokens - length) // max(windows - 1, 1) for i in range(windows)]


class _Run:
    """A wrapped model with its optimizer and its events, and the text that it trains on."""

    def __init__(self, g: dict[str, Any], stored: dict[str, Tensor]) -> None:
        self.s, self.text = g["settings"], g["text"]
        self.settings = settings_of(self.s, len(self.text))
        check_text(self.text, self.s["length"], g["config"])
        model = model_of(g["config"], g["tensors"])
        masks = {name: torch.zeros(layer.weight.shape, dtype=torch.bool) for name, layer in targets_of(model).items()}
        for name, mask in masks.items():
            mask.view(-1)[stored[f"{name}.weight"]] = True
        self.model = wrap(model, self.settings, masks)
        self.layers = list(layers_of(self.model).values())
        s = self.s
        # OPT-003
        numbers = {"betas": (s.get("beta1", 0.9), s.get("beta2", 0.999)), "eps": s.get("eps", 1e-8)}
        numbers |= {"weight_decay": s["weight_decay"], "momentum": s.get("momentum", 0.9)}
        self.optimizer = SeftOptimizer(self.model, **numbers)
        self.more = range(1, s.get("event_batches", 1))
        self.evolution = Evolution(
            *(self.model, self.optimizer, self.settings, s["steps"]),
            micro_batches=s["micro_batches"],
            event_batches=s.get("event_batches", 1),
        )
        # DLT-004.3
        if s.get("start_batches", 1) > 1:
            self.evolution.start(loss for step in range(s["start_batches"]) for loss in self.losses_of(1 + step))

    def losses_of(self, step: int) -> Iterator[Tensor]:
        """Yield the losses of the micro-batches; their sum is the loss of the step."""
        s, text = self.s, self.text
        starts = training_starts(len(text), s["length"], s["seed"], step, s["rows"])
        tokens = torch.stack([text[start : start + s["length"]] for start in starts])
        for part in tokens.tensor_split(s["micro_batches"]):
            # TRN-001, TRN-002
            yield _nll(self.model, part) / (s["rows"] * (s["length"] - 1))

    def step(self, step: int) -> tuple[float, bool]:
        """Take a step, with its event if it has one, and return its loss and whether it had an event."""
        s = self.s
        self.evolution.before_step(step)
        self.optimizer.zero_grad()
        total = 0.0
        for loss in self.losses_of(step):
            loss.backward()
            total += float(loss.detach())
        for i in self.more if self.evolution.has_event(step) else ():
            self.evolution.look(self.losses_of(step + i))
        self.evolution.before_optimizer(step)
        # TRN-007
        if not math.isfinite(total):
            raise SeftError("TRN-007", f"the loss of step {step} is {total}")
        clip([layer.values.grad for layer in self.layers], s["max_norm"])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(s["schedule"], s["lr"], step, s["steps"], s["warmup"])
        self.optimizer.step()
        return total, bool(self.evolution.after_step(step))


def _nll(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the sum of cross-entropies of all tokens of rows but the first ones."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum")


def train_run(g: dict[str, Any]) -> dict[str, Any]:
    """Return losses, slots and bases after every event, and the final support and weights."""
    run = _Run(g, g["stored"])
    losses: list[float] = []
    slots: list[list[Tensor]] = []
    bases: list[list[Tensor]] = []
    for step in range(1, run.s["steps"] + 1):
        loss, moved = run.step(step)
        losses.append(loss)
        if moved:
            slots.append([layer.positions[: layer.slots].clone() for layer in run.layers])
            bases.append([torch.nonzero(layer.base().view(-1)).flatten() for layer in run.layers])
    last = run.s["steps"]
    run.evolution.finish(*(partial(run.losses_of, last + i) for i in (0, *run.more)))
    supports = [torch.nonzero(mask.view(-1)).flatten() for mask in merge(run.model).values()]
    final = [layer.weight.detach().view(-1) for layer in targets_of(run.model).values()]
    return {
        "losses": torch.tensor(losses, dtype=final[0].dtype),
        "budgets": torch.tensor([layer.budget for layer in run.layers]),
        "delta_budgets": torch.tensor([layer.delta_budget for layer in run.layers]),
        "slots": slots,
        "bases": bases,
        "support": supports,
        "weights": [weight[positions] for weight, positions in zip(final, supports, strict=True)],
    }


_KEPT = {"m": "first_moment", "v": "second_moment", "age": "age"}


def train_step(g: dict[str, Any]) -> dict[str, Any]:
    """Return base, delta and optimizer state of every matrix after one step of a run, and the loss."""
    names = [f"{name}.weight" for name in targets_of(model_of(g["config"], g["tensors"]))]
    tensors = dict(g["tensors"])
    for name, part in zip(names, g["parts"], strict=True):
        weight = torch.zeros_like(tensors[name])
        weight.view(-1)[part["base"]] = part["base_values"]
        tensors[name] = weight
    # with start gradient no positions are chosen yet, because the parts of the case have their own
    settings = g["settings"] | {"start": "gradient"}
    stored = {name: part["base"] for name, part in zip(names, g["parts"], strict=True)}
    run = _Run(g | {"tensors": tensors, "settings": settings}, stored)
    for layer, part in zip(run.layers, g["parts"], strict=True):
        _restore(layer, part, run)
    loss, _ = run.step(g["step"])
    answer: dict[str, Any] = {"loss": float(loss)}
    for name in ("base", "base_values", "delta", "delta_values", *_KEPT):
        answer[name] = []
    for layer in run.layers:
        n, base = layer.slots, layer.base().view(-1)
        values = layer.effective().view(-1).clone()
        values[layer.positions[:n]] = layer.held[:n]
        answer["base"].append(torch.nonzero(base).flatten())
        answer["base_values"].append(values[base])
        answer["delta"].append(layer.positions[:n])
        answer["delta_values"].append(layer.values[:n])
        state = run.optimizer.kept(layer)
        for short, name in _KEPT.items():
            answer[short].append(state[name][:n])
    return answer


def _restore(layer: SparseUpdate, part: dict[str, Any], run: _Run) -> None:
    """Give a layer the slots, the budgets and the open window of a part of a case."""
    layer.budget, layer.delta_budget = part["budget"], part["delta_budget"]
    layer.budgets = torch.tensor([layer.budget])
    layer.make_room(part["delta_budget"], {})
    run.optimizer.follow()
    layer.place(part["delta"])
    n = layer.slots
    layer.values.data[:n] = part["delta_values"]
    layer.effective()
    state = run.optimizer.kept(layer)
    for short, name in _KEPT.items():
        state[name][:n] = part[short]
    # a part without sums begins its window with this step
    asks = run.settings.asks()
    layer.watch(asks, keeps=run.settings.keeps())
    if "window" in part and "gradient" in asks:
        layer.take_sum("gradient", part["window"])
    if "window" in part and "tokens" in asks:
        tokens = torch.zeros_like(part["window"])
        tokens[layer.support()] = part["window_tokens"]
        layer.take_sum("tokens", tokens)


@torch.no_grad()
def perplexity(g: dict[str, Any]) -> dict[str, Any]:
    """Return the perplexity of a model on windows of a text, and how many tokens were predicted (chapter 11)."""
    starts = evaluation_starts(len(g["text"]), g["length"], g["windows"])
    check_text(g["text"], g["length"], g["config"])
    model = model_of(g["config"], g["tensors"]).eval()
    show_overflow(model)
    rows = torch.stack([g["text"][start : start + g["length"]] for start in starts])
    targets = rows.shape[0] * (g["length"] - 1)
    # EVL-001, EVL-003: the losses are summed in binary64
    mean = sum(float(_nll(model, row[None])) for row in rows) / targets
    if not mean <= math.log(sys.float_info.max):
        raise SeftError("EVL-003", f"the mean cross-entropy is {mean}; the model is damaged, or its dtype too narrow")
    return {"perplexity": math.exp(mean), "targets": targets}


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
