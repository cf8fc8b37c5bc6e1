"""Mutants of the tokens that end a text (GEN-008)."""

import json

from conformance.wrong.mutants.base import (
    Mutant,
    Values,
    after,
    mutant,
    right,
    unchecked,
)


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
    mutant("GEN-008", "generate.stops", after("generate.stops", of_config), "the config alone"),
    mutant("GEN-008", "generate.stops", true_if_any, "0 taken for none"),
    mutant("GEN-008", "generate.stops", after("generate.stops", first_alone), "the first of a list"),
    *unchecked("generate.stops", "GEN-008"),
]
