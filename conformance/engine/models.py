"""Whole models and runs of the engine, operation by operation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.matrix.target import Target, place
from seft_ref.matrix.window import AnyWindow, Window
from seft_ref.model.config import ATTENTION, MLP, ModelConfig
from seft_ref.model.decoder import model_forward
from seft_ref.model.weights import Weights, assemble, with_matrices
from seft_ref.prune.blockwise import prune_sparsegpt, prune_wanda
from seft_ref.text.batch import Batch
from seft_ref.text.evaluate import evaluate
from seft_ref.topology.csr import flat, from_flat, full
from seft_ref.train.gradients import every_gradient, loss_and_gradients
from seft_ref.train.loop import TrainState, finish, initial_state, step_batches, train, train_step
from seft_ref.train.settings import TrainSettings, settings_of
from seft_ref.update.delta import Base, Delta
from seft_ref.update.optimizers import OPTIMIZERS

Values = dict[str, Any]


def weights_of_case(config: ModelConfig, tensors: dict[str, Array], kernels: Any) -> Weights:
    """Return the engine's weights of a model in which every position is stored."""
    packed = {name: kernels.pack_dense(x) for name, x in tensors.items() if x.ndim == 2}
    if config.tie_word_embeddings:
        packed["lm_head.weight"] = packed["model.embed_tokens.weight"]
    return assemble(config, tensors, packed)


def _describe(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    return {
        "targets": [matrix.name for matrix in config.targets()],
        "biases": [projection for projection in (*ATTENTION, *MLP) if projection in config.biased],
        "windows": list(config.windows),
        "head_dim": config.head_dim,
        "kv_heads": config.num_key_value_heads,
    }


def _step(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    tokens, labels, mask, n = a["tokens"], a["labels"], a["mask"], a["rows_at_once"]
    batches = [
        Batch(tokens[i : i + n, :], labels[i : i + n, :], None if mask is None else mask[i : i + n, :])
        for i in range(0, tokens.shape[0], n)
    ]
    loss, gradients = every_gradient(weights, config, batches, a["kernels"])
    if a["recompute"]:
        # MDL-008: the gradients of the targets as a run takes them
        like = weights.norm
        everywhere = {m.name: full(m.shape, like) for m in config.targets()}
        again = loss_and_gradients(weights, config, batches, a["kernels"], everywhere, recompute=True)
        shapes = {m.name: m.shape for m in config.targets()}
        loss, xp = again.loss, array_namespace(like)
        gradients |= {name: xp.reshape(values, shapes[name]) for name, values in again.at.items()}
    parts = [model_forward(b.tokens, weights, config, a["kernels"], b.mask)[0] for b in batches]
    return {"loss": loss, "logits": array_namespace(tokens).concat(parts), "gradients": gradients}


def _perplexity(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    text = [int(t) for t in a["text"]]
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    found = evaluate(weights, config, text, a["kernels"], length=a["length"], windows=a["windows"], rows=2)
    return {"perplexity": found.perplexity, "targets": found.targets}


def _batches(tokens: Array) -> list[Array]:
    """Return calibration tokens as a batch of at most three rows and one of the rest: statistics are summed."""
    return [rows for rows in (tokens[:3, :], tokens[3:, :]) if rows.shape[0]]


def _prune(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    batches = _batches(a["tokens"])
    masks = prune_wanda(config, a["tensors"].__getitem__, batches, a["kernels"], a["sparsity"])
    return {"kept": {name: np.flatnonzero(np.asarray(mask)).astype(np.int64) for name, mask in masks}}


def _prune_sparsegpt(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    batches = _batches(a["tokens"])
    found = list(prune_sparsegpt(config, a["tensors"].__getitem__, batches, a["kernels"], a["sparsity"]))
    return {
        "kept": {name: np.flatnonzero(np.asarray(mask)).astype(np.int64) for name, mask, _ in found},
        "weights": {name: weight for name, _, weight in found},
    }


_OPTIMIZERS_OWN = ("beta1", "beta2", "eps", "momentum", "weight_decay")
_NAMES = {"start": "initial_positions", "warmup": "warmup_steps", "schedule": "lr_schedule"}


def settings_of_case(given: Values) -> TrainSettings:
    """Return the engine's settings of a run: those of the case, and the choices of its rule."""
    told = {_NAMES.get(key, key): value for key, value in given.items() if key not in ("rule", "rows", "preset")}
    told |= {key: _choice(key, value) for key, value in (given.get("rule") or {}).items()}
    if told.get("pattern") is not None:
        told["pattern"] = tuple(int(n) for n in told["pattern"])
    has = OPTIMIZERS[told.get("optimizer", "adamw")].__dataclass_fields__
    told = {key: value for key, value in told.items() if key not in _OPTIMIZERS_OWN or key in has}
    return settings_of(given.get("preset") or "seft", batch=given["rows"] // given["micro_batches"], **told)


def _choice(name: str, value: Any) -> Any:
    """Return a choice of a rule: the kit writes true and false as 1 and 0."""
    return bool(value) if name in ("evolves", "regrow", "event_replaces_step") else value


def _run(a: Values) -> Values:
    settings = settings_of_case(a["settings"])
    config = ModelConfig.from_json(a["config"])
    text = [int(t) for t in a["text"]]
    bases = {}
    for matrix in config.targets():
        where = a["stored"][matrix.name]
        values = array_namespace(where).take(a["tensors"][matrix.name].reshape(-1), where)
        bases[matrix.name] = Base(from_flat(matrix.shape, where), values)
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    state = initial_state(settings, config, weights, bases, a["kernels"], step_batches(settings, text, 1, weights))
    names = list(state.targets)
    budgets = [state.targets[name].budget for name in names]
    delta_budgets = [state.targets[name].delta_budget for name in names]
    losses, slots, stored = [], [], []
    for state, record in train(state, settings, config, text, a["kernels"]):  # noqa: B020  a state is used once
        losses.append(record.loss)
        if record.event is not None:
            slots.append([flat(state.targets[name].delta.topology) for name in names])
            stored.append([flat(state.targets[name].base.topology) for name in names])
    final = finish(state, settings, config, text, a["kernels"])
    return {
        "losses": np.array(losses, dtype=a["tensors"][names[0]].dtype),
        "budgets": np.array(budgets),
        "delta_budgets": np.array(delta_budgets),
        "slots": slots,
        "bases": stored,
        "support": [flat(final[name][0]) for name in names],
        "weights": [final[name][1] for name in names],
    }


def _train_step(a: Values) -> Values:
    settings, text = settings_of_case(a["settings"]), [int(t) for t in a["text"]]
    return _one_step(a, lambda weights: step_batches(settings, text, a["step"], weights))


def _train_batches(a: Values) -> Values:
    batches = [Batch(one["tokens"], one["labels"], one.get("mask")) for one in a["batches"]]
    return _one_step(a, lambda weights: batches)


def _one_step(a: Values, batches_for: Callable[[Weights], Sequence[Batch]]) -> Values:
    settings = settings_of_case(a["settings"])
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    targets: dict[str, Target] = {}
    packed = {}
    for matrix, part in zip(config.targets(), a["parts"], strict=True):
        base = Base(from_flat(matrix.shape, part["base"]), part["base_values"])
        xp = array_namespace(part["age"])
        kept = {"first_moment": part["m"], "second_moment": part["v"], "age": xp.astype(part["age"], xp.int32)}
        delta = Delta(from_flat(matrix.shape, part["delta"]), part["delta_values"], kept)
        nothing = part["delta"][:0]
        target = Target(base, delta, part["budget"], part["delta_budget"], nothing, part["m"][:0], nothing)
        targets[matrix.name], packed[matrix.name] = place(target, a["kernels"])
    windows: dict[str, AnyWindow] = {
        matrix.name: Window(matrix.shape, settings.rule.asks(), part["window_steps"], gradient=part["window"])
        for matrix, part in zip(config.targets(), a["parts"], strict=True)
        if "window" in part
    }
    state = TrainState(a["step"] - 1, targets, with_matrices(weights, packed), windows)
    batches = batches_for(state.weights)
    after, record = train_step(state, batches, settings, config, a["kernels"])
    found = list(after.targets.values())
    return {
        "loss": record.loss,
        "base": [flat(t.base.topology) for t in found],
        "base_values": [t.base.values for t in found],
        "delta": [flat(t.delta.topology) for t in found],
        "delta_values": [t.delta.values for t in found],
        "m": [t.delta.kept["first_moment"] for t in found],
        "v": [t.delta.kept["second_moment"] for t in found],
        "age": [array_namespace(t.delta.values).astype(t.delta.kept["age"], np.int64) for t in found],
    }


OPERATIONS: dict[str, Any] = {
    "config.describe": _describe,
    "model.step": _step,
    "evaluate.perplexity": _perplexity,
    "prune.model": _prune,
    "prune.model_sparsegpt": _prune_sparsegpt,
    "train.step": _train_step,
    "train.batches": _train_batches,
    "train.run": _run,
}
