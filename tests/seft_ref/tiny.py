"""A tiny LLaMA-family model from seeded NumPy arrays, pruned bases, and a token stream that can be learnt."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from seft_ref.kernels import reference
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights, assemble
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.loop import TrainState, finish, first_batches, initial_state, train
from seft_ref.train.settings import TrainSettings, settings_of
from seft_ref.update.delta import ADAMW_KEEPS, Base
from tests.seft_ref.update.by_hand import Matrix, Slot

VOCABULARY = 29


def tiny_json(**changes: Any) -> dict[str, Any]:
    """A config.json of two blocks of widths that differ: 15 hidden, 3 heads of 6 and one key head, 21 in the MLP."""
    return {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 15,
        "intermediate_size": 21,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        **changes,
    }


def tiny_config(**changes: Any) -> ModelConfig:
    """The config of that JSON."""
    return ModelConfig.from_json(tiny_json(**changes))


def n_m_config() -> ModelConfig:
    """The tiny model with rows that divide into groups of 4."""
    return tiny_config(hidden_size=12, intermediate_size=20, num_attention_heads=2, head_dim=8)


def parameters(config: ModelConfig, dtype: type = np.float32, seed: int = 7) -> dict[str, np.ndarray]:
    """Every parameter by name."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in config.parameters().items():
        values = rng.normal(size=shape) * 0.4
        made[name] = (1 + 0.1 * values if "norm" in name else values).astype(dtype)
    return made


def magnitude_keep(sparsity: float) -> Callable[[np.ndarray], np.ndarray]:
    """Which weights stay: all but the share of them with the smallest magnitudes."""

    def keep(weight: np.ndarray) -> np.ndarray:
        removed = int(sparsity * weight.size)
        mask = np.ones(weight.size, dtype=bool)
        mask[np.argsort(np.abs(weight).reshape(-1), kind="stable")[:removed]] = False
        return mask.reshape(weight.shape)

    return keep


def n_of_m_keep(n: int, m: int) -> Callable[[np.ndarray], np.ndarray]:
    """Which weights stay: the n largest of every m in a row."""

    def keep(weight: np.ndarray) -> np.ndarray:
        order = np.argsort(-np.abs(weight).reshape(-1, m), axis=1, kind="stable")
        mask = np.zeros(order.shape, dtype=bool)
        np.put_along_axis(mask, order[:, :n], True, axis=1)
        return mask.reshape(weight.shape)

    return keep


def pruned_bases(config: ModelConfig, dense: dict, keep: Callable[[np.ndarray], np.ndarray]) -> dict[str, Base]:
    """A base for every target."""
    bases = {}
    for matrix in config.targets():
        mask = keep(dense[matrix.name]).reshape(-1)
        positions = np.flatnonzero(mask).astype(np.int64)
        bases[matrix.name] = Base(from_flat(matrix.shape, positions), dense[matrix.name].reshape(-1)[positions])
    return bases


def packed_weights(config: ModelConfig, dense: dict, bases: dict[str, Base]) -> Weights:
    """The model whose targets are the bases."""
    packed = {name: reference.pack(base.topology, base.values) for name, base in bases.items()}
    packed["lm_head.weight"] = reference.pack_dense(
        dense["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
    )
    return assemble(config, dense, packed)


def token_stream(n: int = 700, seed: int = 11) -> list[int]:
    """Tokens of which most follow from the one before."""
    rng = np.random.default_rng(seed)
    tokens = [1]
    for surprise in rng.random(n - 1):
        tokens.append(int(rng.integers(VOCABULARY)) if surprise < 0.1 else (tokens[-1] * 5 + 3) % VOCABULARY)
    return tokens


def tiny_settings(preset: str = "seft", **changes: Any) -> TrainSettings:
    """A short run with two events."""
    short = {
        "initial_positions": "random",
        "steps": 12,
        "batch": 3,
        "length": 9,
        "density": 0.08,
        "evolve_every": 4,
        "drop_fraction": 0.6,
        "lr": 0.02,
    }
    return settings_of(preset, **{**short, **changes})


def without_events(settings: TrainSettings) -> TrainSettings:
    """The same run with no events."""
    return replace(settings, rule=replace(settings.rule, evolves=False))


def start(
    settings: TrainSettings, config: ModelConfig, dense: dict, bases: dict[str, Base], tokens: list[int]
) -> TrainState:
    """The state before the first step."""
    weights = packed_weights(config, dense, bases)
    return initial_state(settings, config, weights, bases, reference, first_batches(settings, tokens, weights))


def matrix_of(weights: Weights, name: str) -> np.ndarray:
    """A target's weight as the layers see it: the product with the identity."""
    _, _, layer, _, projection, _ = name.split(".")
    packed = getattr(weights.blocks[int(layer)], projection).weight
    n_in = packed.shape[1]
    return reference.matmul(np.eye(n_in, dtype=packed.dtype), packed).T


def dense_of(topology: Any, values: np.ndarray) -> np.ndarray:
    """Stored values as a dense matrix, zero where nothing is stored."""
    out = np.zeros(topology.numel, dtype=values.dtype)
    out[flat(topology)] = values
    return out.reshape(topology.shape)


CONFIG = tiny_config()
TOKENS = token_stream()


def model(dtype=np.float32, config=CONFIG, keep=None):
    """All parameters, and the bases of the targets: by default the 40 % of largest magnitude."""
    dense = parameters(config, dtype)
    return dense, pruned_bases(config, dense, keep or magnitude_keep(0.6))


def states(settings, config=CONFIG, dtype=np.float32, keep=None):
    """The state before the first step and the pairs of the run."""
    dense, bases = model(dtype, config, keep)
    first = start(settings, config, dense, bases, TOKENS)
    return first, train(first, settings, config, TOKENS, reference)


def positions(topology):
    """The flat positions of a topology as a set."""
    return set(flat(topology).tolist())


def by_position(topology, values):
    """Flat position to value."""
    return dict(zip(flat(topology).tolist(), values.tolist(), strict=True))


def as_matrix(target):
    """A target as dictionaries."""
    d = target.delta
    parts = (d.values.tolist(), *(d.kept[name].tolist() for name in ADAMW_KEEPS))
    slots = {p: Slot(*of) for p, *of in zip(flat(d.topology).tolist(), *parts, strict=True)}
    return Matrix(target.base.topology.shape, by_position(target.base.topology, target.base.values), slots)


def digest(targets):
    """A hash of every array of every target, in the order of the targets."""
    seen = hashlib.sha256()
    for name, target in targets.items():
        seen.update(name.encode())
        base, delta = target.base, target.delta
        for part in (
            flat(base.topology),
            base.values,
            flat(delta.topology),
            delta.values,
            *(delta.kept[key] for key in sorted(delta.kept)),
            *(delta.shared[key] for key in sorted(delta.shared)),
            target.lost,
        ):
            seen.update(np.ascontiguousarray(part).tobytes())
    return seen.hexdigest()


def final_digest():
    """A hash of a whole run; here, so that a process can ask for it without what tests import."""
    settings = tiny_settings(density=0.3, gradient_window=2, seed=9)
    _, run = states(settings)
    *_, (state, record) = run
    seen = hashlib.sha256(digest(state.targets).encode())
    seen.update(repr((record.loss, record.gradient_norm)).encode())
    for name, (topology, values) in finish(state, settings, CONFIG, TOKENS, reference).items():
        seen.update(name.encode() + flat(topology).tobytes() + values.tobytes())
    return seen.hexdigest()
