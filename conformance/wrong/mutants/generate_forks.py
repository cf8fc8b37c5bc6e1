"""Mutants of contexts: readings that change them, or do not see them (GEN-001)."""

import numpy as np

from conformance.wrong.mutants.base import Mutant, Values, mutants, right


def branches_in_a_row(a: Values) -> Values:
    """Append every branch to the context, so that later branches see it."""
    right("generate.fork")(a)
    logits, tokens = [], a["tokens"]
    for branch in a["branches"]:
        logits += right("generate.fork")(a | {"tokens": tokens, "branches": [branch]})["logits"]
        tokens = np.concatenate([tokens, branch], axis=1)
    return {"logits": logits}


def without_context(a: Values) -> Values:
    """Read the branches after the first token of the context only."""
    right("generate.fork")(a)
    return right("generate.fork")(a | {"tokens": a["tokens"][:, :1]})


def first_branch(a: Values) -> Values:
    """Return the logits of the first branch for all."""
    logits = right("generate.fork")(a)["logits"]
    return {"logits": [logits[0] for _ in logits]}


MUTANTS: list[Mutant] = [
    *mutants("generate.fork",
        ("GEN-001", branches_in_a_row, "a context that readings change"),
        ("GEN-001", without_context, "the first token for a context"),
        ("GEN-001", first_branch, "the first branch for all"),
        unchecked="GEN-002"),
]  # fmt: skip
