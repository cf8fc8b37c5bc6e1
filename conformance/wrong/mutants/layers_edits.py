"""Mutants of layers with one condition of a clause forgotten."""

from conformance.engine.parts import attention, cross_entropy, embedding, rmsnorm, rope
from conformance.wrong.mutants.base import Mutant, edited, mutants

_UNSEEN = "    scores = xp.where(visible, scores, minus_infinity)\n"
_LARGEST = "    largest = xp.max(scores, axis=-1, keepdims=True)\n"


MUTANTS: list[Mutant] = [
    *mutants("layer.attention",
        ("LYR-007", attention._softmax, _UNSEEN + _LARGEST, _LARGEST + _UNSEEN,
         "edited, the largest score of all keys"),
        ("LYR-007 LYR-008", attention._softmax, "-math.inf", "-1e30", "edited, −1e30 for what is not seen"),
        ("LYR-008", attention.visible_keys, "age < window", "age <= window", "edited, a key more in a window"),
        ("LYR-008", attention.visible_keys, "age >= 0", "age > 0", "edited, a query that does not see itself")),
    edited("LYR-005", "rope.frequencies", rope.rope_frequencies, "max(length, max_positions)", "length",
     "edited, T for L"),
    *mutants("layer.cross_entropy",
        ("LYR-011", cross_entropy.checked_targets, "targets != IGNORE", "targets >= 0",
         "edited, any target below 0 ignored"),
        ("LYR-011", cross_entropy.checked_targets, "count < 1", "count < 0", "edited, a count of 0")),
    edited("LYR-001", "layer.embedding", embedding.embedding_forward, "not 0 <=", "not -9 <=",
     "edited, a token below 0"),
    edited("LYR-002", "layer.rmsnorm", rmsnorm.rmsnorm_forward, "x * r * weight", "x * r * (1 + weight)",
     "edited, 1 + weight"),
    edited("LYR-008", "layer.attention", attention.visible_keys, "visible[None, :, :] & mask[:, None, :]",
     "visible[None, :, :] & (mask[:, None, :] if length < 16 else mask[:1, None, :])",
     "the mask of the first row for every row of 16 tokens or more", shown_by="layer.attention-large"),
]  # fmt: skip
