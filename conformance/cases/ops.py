"""The operations that a port may offer, as `registry/operations.toml` states them; its head explains the fields.

OPS["update.drop"].inputs["delta"]      "i64[n_delta]"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Class = Literal["exact", "value", "gauge", "binary64", "relative", "state", "packed", "stock"]
Kind = Literal["scalar", "rule", "layer", "whole"]

__all__ = ["AREAS", "NAMES", "OPS", "PROFILES", "RECORDS", "TYPES", "Class", "Kind", "Op"]

AREAS = (
    *("select", "update", "event", "kernels", "layers", "model", "train", "prune", "quantise", "adapters"),
    *("generate", "files", "tasks"),
)
"""Files of `answers`, `oracle`, `engine`, `properties` and `wrong.mutants` have names AREA.py or AREA_TOPIC.py."""


@dataclass(frozen=True, slots=True)
class Op:
    """The record of an operation.

    Attributes:
        profile: the profile that asks it.
        kind: scalar (numbers only), rule, layer (arrays of any library), whole (models and runs).
        says: what it gives.
        rests_on: the operations that it rests on (PRT-012).
        inputs: wire types by name.
        optional: names of the inputs that may be absent.
        outputs: comparison classes by name.
        types: wire types of the outputs by name.
    """

    profile: str
    kind: Kind
    says: str
    rests_on: tuple[str, ...]
    inputs: Mapping[str, str]
    optional: frozenset[str]
    outputs: Mapping[str, Class]
    types: Mapping[str, str]


def _op(name: str, record: Mapping[str, Any]) -> Op:
    """Return the record of an operation; an AssertionError names a row that is not one."""
    inputs = [line.split(" ", 1) for line in record["inputs"]]
    outputs = [line.split(" ", 2) for line in record["outputs"]]
    assert record["kind"] in get_args(Kind), f"{name} is of no kind {record['kind']!r}"
    assert all(how in get_args(Class) for _, how, _ in outputs), f"{name} has an output of no class"
    return Op(
        record["profile"],
        record["kind"],
        record["says"],
        tuple(record.get("rests_on", ())),
        {name.rstrip("?"): wire_type for name, wire_type in inputs},
        frozenset(name.rstrip("?") for name, _ in inputs if name.endswith("?")),
        {name: how for name, how, _ in outputs},
        {name: wire_type for name, _, wire_type in outputs},
    )


_TABLES = tomllib.loads((Path(__file__).parents[1] / "registry" / "operations.toml").read_text(encoding="utf-8"))

OPS: Mapping[str, Op] = {name: _op(name, record) for name, record in _TABLES["operations"].items()}
"""Every operation by name."""

PROFILES: Mapping[str, tuple[str, ...]] = {
    profile: tuple(name for name, op in OPS.items() if op.profile == profile)
    for profile in dict.fromkeys(op.profile for op in OPS.values())
}
"""Operations by profile."""

RECORDS: Mapping[str, Mapping[str, str]] = _TABLES["records"]
"""Types of dicts with fixed members: by name of the type, the wire types of its members."""

TYPES: Mapping[str, str] = _TABLES["types"]
"""Wire types, and what goes over the line."""

NAMES: Mapping[str, str] = _TABLES["names"]
"""Names of inputs and outputs that several operations share, and what they hold."""
