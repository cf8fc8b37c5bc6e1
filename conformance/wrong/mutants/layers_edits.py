"""Mutants of layers with one condition of a clause forgotten."""

from typing import Any

from conformance.engine.parts import (
    attention,
    cross_entropy,
    embedding,
    rmsnorm,
    rope,
)
from conformance.wrong.mutants.base import Mutant, Rows, edited, edits

_UNSEEN = "    scores = xp.where(visible, scores, minus_infinity)\n"
_LARGEST = "    largest = xp.max(scores, axis=-1, keepdims=True)\n"

_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "layer.attention",
        "LYR-007",
        attention._softmax,
        _UNSEEN + _LARGEST,
        _LARGEST + _UNSEEN,
        "the largest score of all keys",
    ),
    ("layer.attention", "LYR-007 LYR-008", attention._softmax, "-math.inf", "-1e30", "−1e30 for what is not seen"),
)

_EDITS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    ("rope.frequencies", "LYR-005", rope.rope_frequencies, "max(length, max_positions)", "length", "T for L"),
    ("layer.attention", "LYR-008", attention.visible_keys, "age < window", "age <= window", "a key more in a window"),
    ("layer.attention", "LYR-008", attention.visible_keys, "age >= 0", "age > 0", "a query that does not see itself"),
    (
        "layer.cross_entropy",
        "LYR-011",
        cross_entropy.checked_targets,
        "targets != IGNORE",
        "targets >= 0",
        "any target below 0 ignored",
    ),
    ("layer.cross_entropy", "LYR-011", cross_entropy.checked_targets, "count < 1", "count < 0", "a count of 0"),
    ("layer.embedding", "LYR-001", embedding.embedding_forward, "not 0 <=", "not -9 <=", "a token below 0"),
    ("layer.rmsnorm", "LYR-002", rmsnorm.rmsnorm_forward, "x * r * weight", "x * r * (1 + weight)", "1 + weight"),
)

_LARGE: Rows = (
    (
        "layer.attention",
        "LYR-008",
        attention.visible_keys,
        "visible[None, :, :] & mask[:, None, :]",
        "visible[None, :, :] & (mask[:, None, :] if length < 16 else mask[:1, None, :])",
        "the mask of the first row for every row of 16 tokens or more",
    ),
)

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _EDITS),
    *edits(_LARGE, shown_by="layer.attention-large"),
]
