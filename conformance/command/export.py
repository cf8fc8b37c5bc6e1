"""Writes every case in the encoding of the protocol, for ports that cannot be a child process."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.ops import OPS
from conformance.judge.harness import prepared_inputs
from conformance.judge.judgement import REVISION, kit_digest
from conformance.judge.slack import bound_of
from conformance.protocol.values import encode
from formats.atomic import new_folder

__all__ = ["write"]


def write(folder: Path, cases: Sequence[Case]) -> None:
    """Write folder/OPERATION/CASE.json for every case, and an index; if that fails, write nothing."""
    with new_folder(folder) as making:
        for case in cases:
            place = making / case.op
            place.mkdir(exist_ok=True)
            text = json.dumps(_record(case), indent=1, ensure_ascii=False)
            (place / f"{case.id}.json").write_text(text + "\n", encoding="utf-8")
        index = {"spec": "1.0", "kit": REVISION, "kit_sha256": kit_digest(), "cases": {c.id: c.op for c in cases}}
        (making / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _record(case: Case) -> dict[str, Any]:
    """Return a case with a call for each dtype that it is meant for."""
    op = OPS[case.op]
    dtypes = ("float64",) if op.kind == "scalar" else case.dtypes
    calls = {
        dtype: {name: encode(v) for name, v in prepared_inputs(case, dtype).items() if v is not None}
        for dtype in dtypes
    }
    out: dict[str, Any] = {
        "id": case.id,
        "op": case.op,
        "clauses": list(case.clauses),
        "purpose": case.purpose,
        "in": calls,
    }
    if case.refused:
        return out | {"rejected": list(case.refused)}
    bounds: dict[str, Any] = {}
    for name, bound in ((k, bound_of(case, k)) for k in case.bounds):
        assert bound is not None
        bounds[name] = {"gauge": encode(np.asarray(bound.gauge)), "terms": bound.terms}
        if np.any(bound.slack):
            bounds[name]["slack"] = encode(np.asarray(bound.slack))
    return out | {
        "out": {name: encode(value) for name, value in case.expected.items()},
        "compare": dict(op.outputs),
        "bounds": bounds,
    }
