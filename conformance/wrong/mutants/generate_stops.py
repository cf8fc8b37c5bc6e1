"""Mutants of the tokens that end a text (GEN-008)."""

import json

from conformance.wrong.mutants.base import Mutant, Values, mutants, right


def of_config(out: Values, a: Values) -> Values:
    """Read the config only."""
    return right("generate.stops")({"config": a["config"]})


def true_if_any(a: Values) -> Values:
    """Treat 0 and an empty list as absent."""
    generation = json.loads(a.get("generation") or "{}")
    if not generation.get("eos_token_id"):
        return right("generate.stops")({"config": a["config"]})
    return right("generate.stops")(a)


def first_alone(out: Values, a: Values) -> Values:
    return {"stops": out["stops"][:1]}


MUTANTS: list[Mutant] = [
    *mutants("generate.stops",
        ("GEN-008", of_config, "the config alone"),
        ("GEN-008", true_if_any, "0 taken for none"),
        ("GEN-008", first_alone, "the first of a list"),
        unchecked="GEN-008"),
]  # fmt: skip
