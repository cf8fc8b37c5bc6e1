"""Contexts that a reading changes (GEN-001)."""

import numpy as np

from conformance.wrong.mutants.base import Mutant, Values, mutant, right, unchecked


def branches_in_a_row(a: Values) -> Values:
    """Every reading changes the context in place."""
    right("generate.fork")(a)
    found, tokens = [], a["tokens"]
    for branch in a["branches"]:
        found += right("generate.fork")(a | {"tokens": tokens, "branches": [branch]})["logits"]
        tokens = np.concatenate([tokens, branch], axis=1)
    return {"logits": found}


def without_context(a: Values) -> Values:
    """The branches are read behind the first token alone."""
    right("generate.fork")(a)
    return right("generate.fork")(a | {"tokens": a["tokens"][:, :1]})


def first_branch(a: Values) -> Values:
    """All branches are the first."""
    found = right("generate.fork")(a)["logits"]
    return {"logits": [found[0] for _ in found]}


MUTANTS: list[Mutant] = [
    mutant("GEN-001", "generate.fork", branches_in_a_row, "a context that readings change"),
    mutant("GEN-001", "generate.fork", without_context, "the first token for a context"),
    mutant("GEN-001", "generate.fork", first_branch, "the first branch for all"),
    *unchecked("generate.fork", "GEN-002"),
]
