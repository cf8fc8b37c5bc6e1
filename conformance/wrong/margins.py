"""Measure how far right implementations and mutants are from the bounds of numeric cases.

`python -m conformance.command.selftest --write` writes them, because it has judged every mutant anyway.

A row has three entries. The first is the largest part of the bound that a right implementation uses. The second is the
smallest error of a mutant that the case refuses, as a multiple of the bound. The third is that mutant. The last two are
null if no mutant has a finite multiple.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from conformance.cases.case import Case
from conformance.cases.ops import OPS
from conformance.engine import sums
from conformance.engine.port import EnginePort, compiled_kernels, strict_like
from conformance.judge.harness import Variant, run
from conformance.wrong.kills import Matrix

__all__ = [
    "ALLOWED",
    "MARGINS",
    "Row",
    "allowed",
    "engine_variants",
    "margins_of",
    "numeric",
    "read",
    "right_variants",
    "text",
    "too_narrow",
]

_REGISTRY = Path(__file__).parents[1] / "registry"
MARGINS = _REGISTRY / "margins.json"
ALLOWED = _REGISTRY / "margins_allowed.json"
"""File of case id -> reason why its margin may be narrower."""

LARGEST_RIGHT, SMALLEST_WRONG = 0.5, 4.0

Row = tuple[float, float | None, str | None]


def numeric(case: Case) -> bool:
    """Return whether an output of a case is compared within a bound that is not 0."""
    return not case.refused and bool({"gauge", "relative", "binary64"} & set(OPS[case.op].outputs.values()))


def engine_variants() -> list[Variant]:
    """Return the engine with all its kernel sets and array libraries, called in this process."""
    engine, arrays = EnginePort("engine"), ("rule", "layer", "whole")
    out = [Variant(engine, "float64"), Variant(engine, "float32", arrays)]
    compiled = compiled_kernels()
    if compiled is not None:
        port = EnginePort("engine with kernels.cpu", kernels=compiled)
        out += [Variant(port, dtype, ("layer", "whole")) for dtype in ("float64", "float32")]
    like = strict_like()
    if like is not None:
        out.append(Variant(EnginePort("engine on array-api-strict", like), "float32", ("rule", "layer")))
    return out


def right_variants() -> list[Variant]:
    """Return all right implementations: the engine on its libraries, and engines that sum in other orders."""
    ports = [sums.permuted(), sums.split(), sums.fused()]
    dtypes = ("float64", "float32")
    return engine_variants() + [Variant(port, dtype, ("layer", "whole")) for port in ports for dtype in dtypes]


def margins_of(matrix: Matrix, cases: Sequence[Case]) -> dict[str, Row]:
    """Return the row of every numeric case."""
    mine = [case for case in cases if numeric(case)]
    nearest: dict[str, tuple[float, str]] = {}
    for name, kills in matrix.kills.items():
        for kill in kills:
            if math.isfinite(kill.ratio) and kill.ratio < nearest.get(kill.case, (math.inf, ""))[0]:
                nearest[kill.case] = (kill.ratio, name)
    rows: dict[str, Row] = {}
    for result in run(mine, right_variants()):
        wrong = nearest.get(result.case.id)
        used = _short(result.ratio if not result.failures else math.inf)
        rows[result.case.id] = (used, None, None) if wrong is None else (used, _short(wrong[0]), wrong[1])
    return rows


def _short(x: float) -> float:
    """Return x rounded to three digits, because further digits differ from machine to machine."""
    return float(f"{x:.3g}")


def too_narrow(rows: dict[str, Row], allowed: dict[str, str]) -> list[str]:
    """Return complaints: margins that are too narrow without allowance, and allowances that are not needed."""
    complaints = []
    for case, (right, wrong, mutant) in rows.items():
        bad = []
        if right > LARGEST_RIGHT:
            bad.append(f"a right implementation uses {right} of the bound")
        if wrong is not None and wrong < SMALLEST_WRONG:
            bad.append(f"{mutant} lies at {wrong} times the bound")
        if bad and case not in allowed:
            complaints.append(f"{case}: {' and '.join(bad)}")
        if not bad and case in allowed:
            complaints.append(f"{case}: needs no allowance")
    return complaints + [f"{case}: no such numeric case" for case in allowed if case not in rows]


def text(rows: dict[str, Row]) -> str:
    """Return the text of the file of margins, one case a line."""
    lines = [f" {json.dumps(case)}: {json.dumps(row, ensure_ascii=False)}" for case, row in rows.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read() -> dict[str, Row]:
    """Return the rows of the file of margins."""
    return {case: tuple(row) for case, row in json.loads(MARGINS.read_text(encoding="utf-8")).items()}


def allowed() -> dict[str, str]:
    """Return the cases whose margin may be narrower, with reasons."""
    table: dict[str, str] = json.loads(ALLOWED.read_text(encoding="utf-8"))
    return table
