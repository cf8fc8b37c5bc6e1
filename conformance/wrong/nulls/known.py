"""Null ports that are right about every frozen case, or about every small input.

Only new or large inputs distinguish them from the engine.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.cases.case import VECTORS, Case, load
from conformance.cases.inputs import prepared_inputs
from conformance.cases.ops import OPS, PROFILES
from conformance.protocol.port import Port, Refused, Unsupported
from conformance.wrong.nulls.answers import Table, Values, cast, key

__all__ = ["FOUND_BY", "HONEST", "MODES", "Frozen", "cases_of_mode"]

HONEST: dict[str, tuple[str, ...]] = {
    "core": ("select.largest", "select.smallest"),
    "rules": ("select.pools",),
    "layers": ("layer.linear",),
    "train": ("text.training", "text.evaluation"),
    "prune": ("text.calibration", "prune.magnitude", "prune.wanda"),
    "quant": ("quantise.weights",),
    "adapters": ("adapter.lora",),
    "generate": ("generate.pick",),
    "ckpt-read": ("delta.apply",),
    "ckpt-write": (),
    "state": ("state.write",),
    "folders": ("folder.write",),
    "checkpoints": ("checkpoint.dtype",),
    "runs": ("ranks.rows",),
    "convert": ("convert.to_hf",),
    "codes": (),
    "kept-codes": (),
    "bitmasks": (),
    "foreign": (),
    "held": (),
    "tasks": ("task.metrics",),
}
"""Profile -> operations that its null port really computes; it answers the others from a table."""
_POSITIONS = ("ids", "positions", "base", "delta", "old", "new", "dropped")
"""Names of inputs that are positions or ids."""
ABOVE = 1300
"""The number of entries above which a null port returns empty arrays."""


def _engine() -> Port:
    # the import is here, because the other null ports start faster without the engine
    from conformance.engine.port import reference_numpy

    return reference_numpy()


class Frozen(Table):
    """A port that computes some operations and has a table of frozen cases for all others.

    It refuses every input that the table does not have.
    """

    def __init__(self, name: str, ops: tuple[str, ...], honest: tuple[str, ...]) -> None:
        self.name, self.ops, self._honest, self._engine = name, ops, honest, _engine()
        self._known = {}
        for case in _cases_of([op for op in ops if op not in honest]):
            dtypes = ("float64",) if OPS[case.op].kind == "scalar" else case.dtypes
            for dtype in dtypes:
                answer = {name: _cast(value, dtype) for name, value in case.expected.items()}
                self._known[key(case.op, prepared_inputs(case, dtype), dtype)] = (answer, case.refused)

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the computed answer, or the one from the table."""
        if op in self._honest:
            return self._engine.call(op, inputs, dtype)
        if op not in self.ops:
            raise Unsupported(op)
        answer, refused = self._known.get(key(op, inputs, dtype), ({}, ("SEL-004",)))
        if refused:
            raise Refused(refused[0])
        return dict(answer)


def _cases_of(ops: Sequence[str]) -> list[Case]:
    """Return the frozen cases of operations; files that name none of them are not parsed."""
    named = [f'"op": "{op}"' for op in ops]
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(VECTORS.glob("*.json"))}
    files = [path for path, text in texts.items() if any(name in text for name in named)]
    return [case for path in files for case in load(path) if case.op in ops]


def _cast(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        return {name: _cast(one, dtype) for name, one in value.items()}
    return [_cast(one, dtype) for one in value] if isinstance(value, list) else cast(value, dtype)


class Sized(Table):
    """The engine as a base of ports that fail for some sizes."""

    ops = tuple(op for op in OPS if op in PROFILES["core"])

    def __init__(self) -> None:
        self._engine = _engine()

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the engine's answer."""
        if op not in self.ops:
            raise Unsupported(op)
        return self._engine.call(op, inputs, dtype)


class Empty(Sized):
    """A port that answers like the engine up to 1,300 entries, and with empty arrays above."""

    name = "empty-above-1300"

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the answer, with empty arrays if an input has more than ABOVE entries."""
        answer = super().call(op, inputs, dtype)
        most = max((x.size for x in inputs.values() if isinstance(x, np.ndarray)), default=0)
        if most <= ABOVE:
            return answer
        return {name: x[:0] if isinstance(x, np.ndarray) else x for name, x in answer.items()}


class Narrow(Sized):
    """A port that answers like the engine, but cuts positions and ids to 32 bits."""

    name = "int32-positions"

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the answer to inputs with positions and ids cut to 32 bits."""
        positions = {name: x for name, x in inputs.items() if name in _POSITIONS and x.dtype == np.int64}
        cut = {name: x.astype(np.int32).astype(np.int64) for name, x in positions.items()}
        return super().call(op, inputs | cut, dtype)


def _frozen(profile: str) -> Callable[[], Frozen]:
    return lambda: Frozen(f"table-{profile}", PROFILES[profile], HONEST[profile])


MODES: dict[str, Callable[[], Table]] = {f"table-{profile}": _frozen(profile) for profile in HONEST}
MODES |= {"empty-above-1300": Empty, "int32-positions": Narrow}
"""Null ports by name."""

FOUND_BY = {
    "table-core": ("core", "update.drop"),
    "table-rules": ("rules", "gradient.norm"),
    "table-layers": ("layers", "model.step"),
    "table-train": ("train", "train.run"),
    "table-prune": ("prune", "prune.model"),
    "table-quant": ("quant", "quantise.nearest"),
    "table-adapters": ("adapters", "adapter.initial"),
    "table-generate": ("generate", "generate.text"),
    "table-ckpt-read": ("ckpt-read", "file.read"),
    "table-ckpt-write": ("ckpt-write", "file.write"),
    "table-state": ("state", "state.resumed"),
    "table-folders": ("folders", "folder.both-ways"),
    "table-checkpoints": ("checkpoints", "checkpoint.final"),
    "table-runs": ("runs", "run.warnings"),
    "table-convert": ("convert", "convert.from_hf"),
    "table-codes": ("codes", "convert.codes"),
    "table-kept-codes": ("kept-codes", "convert.kept_codes"),
    "table-bitmasks": ("bitmasks", "convert.bitmasks"),
    "table-foreign": ("foreign", "convert.gguf"),
    "table-held": ("held", "train.held"),
    "table-tasks": ("tasks", "tasks.filter"),
    "empty-above-1300": ("core", "change.large"),
    "int32-positions": ("core", "topology.large"),
}
"""Null port -> the profile that it would claim, and a property that it fails."""


def cases_of_mode(mode: str) -> list[Case]:
    """Return a frozen case of each operation of the profile that a null port would claim; it passes them all."""
    cases: dict[str, Case] = {}
    for case in _cases_of(PROFILES[FOUND_BY[mode][0]]):
        if not case.refused and ("float32" in case.dtypes or OPS[case.op].kind == "scalar"):
            cases.setdefault(case.op, case)
    return list(cases.values())
