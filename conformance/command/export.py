"""Writes the cases as an archive that a port in any language reads without Python: values are those of the protocol.

    seft-vectors-1.0-r1.tar.gz
        README.md            how to read the rest
        SPEC.md              the clauses
        OPERATIONS.md        the operations for people; operations.json has them for programs
        cases/OPERATION.json one list of cases for each operation
        index.json           versions, and the SHA-256 of every other file
        schemas/             a JSON schema of each of these kinds of JSON

Beside it `NAME.sha256` has its digest, as `sha256sum -c` reads it.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.clauses import SPEC
from conformance.cases.inputs import prepared_inputs
from conformance.cases.ops import OPS, PROFILES, RECORDS
from conformance.cases.profiles import CLASSES
from conformance.judge.harness import can_ask
from conformance.judge.judgement import REVISION, kit_digest
from conformance.judge.slack import bound_of
from conformance.protocol.values import encode
from formats.atomic import write_file

__all__ = ["ARCHIVE", "SCHEMAS", "write"]

NAME = f"seft-vectors-{REVISION}"
ARCHIVE = Path(f"{NAME}.tar.gz")
"""The name of the archive of all cases of this revision."""
SCHEMAS = Path(__file__).parents[1] / "schemas"
"""The folder of the schemas, and of the page that the archive begins with."""
KINDS = ("cases", "index", "operations")
"""The schemas that the archive has; the others are of reports."""


def write(archive: Path, cases: Sequence[Case]) -> None:
    """Write an archive of these cases and its digest beside it; the same cases give the same bytes with one zlib."""
    packed = _packed({f"{NAME}/{name}": text for name, text in _files(cases).items()})
    line = f"{hashlib.sha256(packed).hexdigest()}  {archive.name}\n"
    write_file(archive, packed)
    write_file(archive.with_name(f"{archive.name}.sha256"), line.encode())


def _packed(files: dict[str, bytes]) -> bytes:
    """Return files as a tar in gzip, in the order of their names, without times, owners or the rights of this user."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as writing:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            writing.addfile(member, io.BytesIO(content))
    return gzip.compress(tar.getvalue(), compresslevel=9, mtime=0)


def _files(cases: Sequence[Case]) -> dict[str, bytes]:
    """Return the content of every file by its name in the archive."""
    by_op: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        by_op.setdefault(case.op, []).append(_record(case))
    files = {
        "README.md": (SCHEMAS / "README.md").read_bytes(),
        "SPEC.md": SPEC.read_bytes(),
        "OPERATIONS.md": (SCHEMAS.parent / "OPERATIONS.md").read_bytes(),
        "operations.json": _json(_operations()),
        **{f"schemas/{kind}.schema.json": (SCHEMAS / f"{kind}.schema.json").read_bytes() for kind in KINDS},
        **{f"cases/{op}.json": _lines(records) for op, records in by_op.items()},
    }
    index = {
        "spec": REVISION.split("-", maxsplit=1)[0],
        "kit": REVISION,
        "kit_sha256": kit_digest(),
        "cases": len(cases),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    return files | {"index.json": _json(index)}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    """Return a JSON list with one record a line."""
    return ("[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in records) + "\n]\n").encode()


def _operations() -> dict[str, Any]:
    """Return the records of the operations, with what stands in one text there as members."""
    operations = {
        name: {
            "profile": op.profile,
            "kind": op.kind,
            "says": op.says,
            "in": {one: {"type": wire, "optional": one in op.optional} for one, wire in op.inputs.items()},
            "out": {one: {"type": wire, "compare": op.outputs[one]} for one, wire in op.types.items()},
            "rests_on": list(op.rests_on),
        }
        for name, op in OPS.items()
    }
    records = {name: dict(members) for name, members in RECORDS.items()}
    return {"classes": CLASSES, "profiles": PROFILES, "records": records, "operations": operations}


def _record(case: Case) -> dict[str, Any]:
    """Return a case with its inputs and outputs in float64, and the dtypes in which it is asked."""
    dtypes = [dtype for dtype in CLASSES.values() if can_ask(case, dtype)]
    out: dict[str, Any] = {
        "id": case.id,
        "op": case.op,
        "clauses": list(case.clauses),
        "purpose": case.purpose,
        "dtypes": dtypes[:1] if OPS[case.op].kind == "scalar" else dtypes,
        "in": {name: encode(v) for name, v in prepared_inputs(case, "float64").items() if v is not None},
    }
    if case.refused:
        return out | {"rejected": list(case.refused)}
    out["out"] = {name: encode(value) for name, value in case.expected.items()}
    bounds: dict[str, Any] = {}
    for name in case.bounds:
        bound = bound_of(case, name)
        assert bound is not None
        bounds[name] = {"gauge": encode(np.asarray(bound.gauge)), "terms": bound.terms}
        if np.any(bound.slack):
            bounds[name]["slack"] = encode(np.asarray(bound.slack))
    if bounds:
        out["bounds"] = bounds
    if case.zeros:
        out["zeros"] = list(case.zeros)
    return out
