"""Tiny runs of any rule.

run = begin(settings_of("seft", ...))            # a Run: state, settings, config, tokens
for before, after, record in walk(run): ...
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seft_ref.files.state import Origin, load_state, save_state
from seft_ref.kernels import reference
from seft_ref.matrix.target import Target
from seft_ref.matrix.window import FirstStepWindow
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights, assemble
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.loop import (
    StepRecord,
    TrainState,
    finish,
    first_batches,
    further_batches,
    initial_state,
    step_batches,
    train_step,
)
from seft_ref.train.settings import TrainSettings, settings_of
from seft_ref.update.delta import Base
from tests.seft_ref.tiny import VOCABULARY, parameters, token_stream

SHORT: dict[str, Any] = {
    "steps": 12,
    "batch": 3,
    "length": 9,
    "evolve_every": 4,
    "gradient_window": 1,
    "density": 0.1,
    "budget_by": "numel",
    "drop_fraction": 0.6,
    "lr": 0.02,
}
"""A short run with two events"""
SHORT_OF: dict[str, dict[str, Any]] = {
    # phases: events after 2 and 7
    "spiel-ag": {"evolve_every": 5, "gradient_window": 2},
    "spiel-adapt": {"evolve_every": 5, "gradient_window": 2},
    "spiel-ma": {"evolve_every": 5, "gradient_window": 2, "lr": 0.05},
    "rigl": {"budget_by": "nnz", "density": 1.0},
    "set": {"budget_by": "nnz", "density": 1.0},
}
ORIGIN = Origin("model", "text")


def short(preset: str = "seft", **changes: Any) -> TrainSettings:
    """Settings of a short run of a preset."""
    return settings_of(preset, **{**SHORT, **SHORT_OF.get(preset, {}), **changes})


def tiny_config(**changes: Any) -> ModelConfig:
    """One block: 15 hidden, 2 heads of 6 and one key head, 21 in the MLP."""
    return ModelConfig.from_json(
        {
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 15,
            "intermediate_size": 21,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6,
            **changes,
        }
    )


def config_of(pattern: tuple[int, int]) -> ModelConfig:
    """A tiny model whose rows divide into groups of M, for M 4, 5 and 8."""
    hidden, inner, head = {4: (12, 20, 8), 5: (15, 20, 10), 8: (16, 24, 8)}[pattern[1]]
    return tiny_config(hidden_size=hidden, intermediate_size=inner, head_dim=head)


def strongest(weight: np.ndarray, pattern: tuple[int, int] | None, share: float) -> np.ndarray:
    """Flat positions of the weights that stay: of every group the N largest, or a share of the matrix."""
    size = np.abs(weight)
    if pattern is None:
        stay = np.argsort(-size.reshape(-1), kind="stable")[: round(share * weight.size)]
        return np.sort(stay).astype(np.int64)
    n, m = pattern
    mask = np.zeros((weight.size // m, m), dtype=bool)
    np.put_along_axis(mask, np.argsort(-size.reshape(-1, m), axis=1, kind="stable")[:, :n], True, axis=1)
    return np.flatnonzero(mask).astype(np.int64)


TOKENS = token_stream(400)


@dataclass
class Run:
    """A run before some step."""

    settings: TrainSettings
    config: ModelConfig
    weights: Weights
    bases: dict[str, Base]
    state: TrainState
    records: list[StepRecord] = field(default_factory=list)


def packed_weights(config: ModelConfig, dense: dict, at: dict[str, tuple[Any, np.ndarray]]) -> Weights:
    """The model whose targets store values at topologies."""
    packed = {name: reference.pack(topology, values) for name, (topology, values) in at.items()}
    packed["lm_head.weight"] = reference.pack_dense(dense["lm_head.weight"])
    return assemble(config, dense, packed)


def begin(
    settings: TrainSettings,
    config: ModelConfig | None = None,
    dtype: type = np.float32,
    share: float = 0.4,
    thin: int = 0,
) -> Run:
    """A run before its first step; the base has the settings' pattern, or a share of the weights. thin: every so many
    of them are taken away.
    """
    config = config or (config_of(settings.pattern) if settings.pattern else tiny_config())
    dense = parameters(config, dtype)
    bases = {}
    for matrix in config.targets():
        at = strongest(dense[matrix.name], settings.pattern, share)
        at = np.delete(at, slice(0, None, thin)) if thin else at
        bases[matrix.name] = Base(from_flat(matrix.shape, at), dense[matrix.name].reshape(-1)[at])
    weights = packed_weights(config, dense, {n: (b.topology, b.values) for n, b in bases.items()})
    batches = first_batches(settings, TOKENS, weights)
    state = initial_state(settings, config, weights, bases, reference, batches)
    return Run(settings, config, weights, bases, state)


def one_step(run: Run, state: TrainState) -> tuple[TrainState, StepRecord]:
    """The step after a state."""
    batches = step_batches(run.settings, TOKENS, state.step + 1, state.weights)
    more = further_batches(run.settings, TOKENS, state.step + 1, state.weights)
    return train_step(state, batches, run.settings, run.config, reference, more=more)


def walk(run: Run) -> Iterator[tuple[TrainState, TrainState, StepRecord]]:
    """Every remaining step of a run: the states before and after it, and its record."""
    while run.state.step < run.settings.steps:
        before = run.state
        run.state, record = one_step(run, before)
        run.records.append(record)
        yield before, run.state, record


def end(run: Run) -> dict[str, tuple[Any, np.ndarray]]:
    """The final weights of a run that has taken its last step."""
    return finish(run.state, run.settings, run.config, TOKENS, reference)


def through_file(run: Run, state: TrainState, path: Path) -> TrainState:
    """A state saved and loaded into the weights of the model as it was at the start."""
    save_state(path, state, run.settings, ORIGIN)
    return load_state(path, run.weights, run.settings, ORIGIN, reference)


def arrays_of(state: TrainState) -> dict[str, np.ndarray]:
    """Every array of a state by name: targets, packed weights, and the open window."""
    found: dict[str, Any] = {}
    for name, target in state.targets.items():
        base, delta = target.base, target.delta
        found |= {
            f"{name}.base": flat(base.topology),
            f"{name}.base.values": base.values,
            f"{name}.delta": flat(delta.topology),
            f"{name}.delta.values": delta.values,
            f"{name}.where": target.where,
            f"{name}.under": target.under,
            f"{name}.lost": target.lost,
            f"{name}.budgets": np.asarray([target.budget, target.delta_budget]),
        }
        found |= {f"{name}.{part}": array for part, array in (*delta.kept.items(), *delta.shared.items())}
        for part in ("row_budget", "row_delta_budget"):
            if getattr(target, part) is not None:
                found[f"{name}.{part}"] = getattr(target, part)
        *_, layer, _, projection, _ = name.split(".")
        packed = getattr(state.weights.blocks[int(layer)], projection).weight
        found |= {f"{name}.packed": packed.values, f"{name}.packed.positions": packed.positions}
    for name, window in state.window.items():
        if isinstance(window, FirstStepWindow):
            found[f"{name}.window.candidates"] = window.candidates
            window = window.window
        for part in ("gradient", "absolute", "square", "tokens", "input_squares", "n_inputs", "settled_steps"):
            if getattr(window, part) is not None:
                found[f"{name}.window.{part}"] = np.asarray(getattr(window, part))
    return found


def digest(state: TrainState) -> str:
    """A hash of every array of a state, by name."""
    seen = hashlib.sha256()
    for name, array in sorted(arrays_of(state).items()):
        seen.update(f"{name} {array.dtype} {array.shape}".encode())
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()


def content(final: dict[str, tuple[Any, np.ndarray]]) -> dict[str, tuple[bytes, bytes]]:
    """The bytes of final weights."""
    return {name: (flat(topology).tobytes(), values.tobytes()) for name, (topology, values) in final.items()}


def support_of(target: Target) -> set[int]:
    """The flat positions of B and η."""
    return set(flat(target.base.topology).tolist()) | set(flat(target.delta.topology).tolist())
