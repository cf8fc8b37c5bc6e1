"""Checks a report.jsonl that somebody else wrote: its verdict must follow from its lines and from this kit."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import SPEC
from conformance.cases.ops import OPS
from conformance.cases.profiles import CLASSES, PROFILES, profiles_of_case
from conformance.judge.harness import Failure, Result, classes_of
from conformance.judge.judgement import PROTOCOL, REVISION, PropertyResult, Run, asked_in, cases_of, kit_digest
from conformance.report.lines import VERSION, footer, verdict_row
from conformance.report.summary import OUTCOMES, WRONG

__all__ = ["check_report"]

_LONGEST_LINE = 1 << 24
_SHOWN = 5

# the members of each kind of line, and their types
_LINES: dict[str, dict[str, tuple[type, ...]]] = {
    "header": {
        "report": (int,),
        "kit": (str,),
        "spec_sha256": (str,),
        "kit_sha256": (str,),
        "seed": (str,),
        "fresh": (bool,),
        "deterministic": (bool,),
        "zstd": (bool,),
        "port": (dict,),
        "options": (dict,),
        "complaints": (list,),
        "verdict": (dict,),
    },
    "case": {
        "id": (str,),
        "op": (str,),
        "clauses": (list,),
        "profiles": (list,),
        "outcome": (str,),
        "ran": (int,),
        "ratio": (int, float, type(None)),
        "reason": (str,),
        "skipped": (str,),
        "waived": (str,),
        "failures": (list,),
    },
    "property": {
        "id": (str,),
        "clauses": (list,),
        "profile": (str,),
        "outcome": (str,),
        "examples": (int,),
        "skipped": (str,),
        "failure": (str,),
        "waived": (str,),
        "counts": (dict,),
        "asked_new": (list,),
    },
    "footer": {"cases": (int,), "properties": (int,), "outcomes": (dict,), "property_outcomes": (dict,)},
}
_FAILURE: dict[str, tuple[type, ...]] = {
    "variant": (str,),
    "output": (str,),
    "status": (str,),
    "detail": (str,),
    "ratio": (int, float, type(None)),
}
_Row = dict[str, Any]


def check_report(
    path: Path, properties: Mapping[str, str] | None = None, asks: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Return a sentence for each error in the report at path; empty if it is a report that this kit could have written.

    properties  profiles of the properties and of the checks of the protocol, by name; None leaves them unchecked
    asks        operations that each property asks, by name; None leaves unchecked which of them it says it asked

    No report can prove that answers were given, or that the named program gave them.
    """
    rows, wrong = _read(path)
    if wrong:
        return wrong
    if _types(rows) != ["header", *sorted(t for t in _types(rows)[1:-1] if t in ("case", "property")), "footer"]:
        return ["The lines are not a header, cases, properties and a footer, in this order."]
    wrong = [text for number, row in enumerate(rows, 1) for text in _shape(row, number)]
    if wrong:
        return wrong
    header, foot = rows[0], rows[-1]
    wrong = _options(header)
    if wrong:
        return wrong
    cases, property_rows = [r for r in rows if r["type"] == "case"], [r for r in rows if r["type"] == "property"]
    wrong = _twice([r["id"] for r in cases + property_rows])
    foreign = _digests(header)
    if foreign:
        # only the form can be checked, because this kit does not have the cases of another kit
        return wrong + foreign + _totals(cases, property_rows, foot)
    cases_by_id = {case.id: case for case in load_all()}
    wrong += _ids(header["options"], cases, cases_by_id)
    if properties is not None:
        wrong += _property_ids(header["options"], property_rows, properties)
    if wrong:
        return wrong
    run = _run(header, cases, property_rows, cases_by_id)
    wrong = [text for row, result in zip(cases, run.results, strict=True) for text in _case(row, result, run.classes)]
    wrong += [text for row, one in zip(property_rows, run.properties, strict=True) for text in _property(row, one, run)]
    wrong += [] if asks is None else _asked(run, asks)
    return wrong + _told(run, header, foot)


def _types(rows: Sequence[_Row]) -> list[str]:
    return [str(row.get("type")) for row in rows]


def _read(path: Path) -> tuple[list[_Row], list[str]]:
    """Return the lines of a file and no error, or no lines and an error."""
    rows: list[_Row] = []
    try:
        with path.open("rb") as file:
            while raw := file.readline(_LONGEST_LINE):
                number = len(rows) + 1
                if not raw.endswith(b"\n"):
                    return [], [f"Line {number} does not end; the report was cut off or is no report."]
                row = _parse(raw)
                if row is None:
                    return [], [f"Line {number} is no JSON object of distinct names and finite numbers."]
                rows.append(row)
    except OSError as error:
        return [], [f"It cannot be read: {error}."]
    if not rows:
        return [], ["It is empty."]
    if rows[-1].get("type") != "footer":
        return [], ["It has no footer; it was cut off, or the run did not end."]
    return rows, []


def _parse(raw: bytes) -> _Row | None:
    try:
        row = json.loads(raw.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _distinct(pairs: list[tuple[str, Any]]) -> _Row:
    out = dict(pairs)
    if len(out) != len(pairs):
        msg = "a name stands twice"
        raise ValueError(msg)
    return out


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _shape(row: _Row, number: int) -> list[str]:
    """Return an error for each member of a line that is missing or of another type."""
    wrong = _members(row, _LINES[row["type"]], f"Line {number}")
    if not wrong and row["type"] == "case":
        for one in row["failures"]:
            if not isinstance(one, dict):
                return [f"Line {number}: a failure is no object."]
            wrong += _members(one, _FAILURE, f"A failure of line {number}")
            if not wrong and one["status"] not in WRONG:
                wrong.append(f"A failure of line {number} has the unknown status {one['status']!r}.")
    return wrong


def _members(row: _Row, members: dict[str, tuple[type, ...]], place: str) -> list[str]:
    return [
        f"{place} has no {name} of the right type."
        for name, types in members.items()
        # bool is a subclass of int in Python, but true is no number in JSON
        if not isinstance(row.get(name, ...), types) or (isinstance(row[name], bool) and bool not in types)
    ]


def _options(header: _Row) -> list[str]:
    options = header["options"]
    wrong = [] if header["report"] == VERSION else [f"It has the form {header['report']}; this kit knows {VERSION}."]
    for name, table in (("profiles", PROFILES), ("classes", CLASSES)):
        names = options.get(name)
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            wrong.append(f"The header has no list of {name}.")
        else:
            wrong += [f"The header names {one!r}, which is none of the {name}." for one in names if one not in table]
            wrong += [f"The header names {one} twice." for one, n in Counter(names).items() if n > 1]
    if not isinstance(options.get("filtered"), str) or not all(isinstance(one, str) for one in header["complaints"]):
        wrong.append("The header does not tell what was left out, or complaints that are text.")
    if not options.get("classes"):
        wrong.append("The header names no numeric class.")
    return wrong


def _digests(header: _Row) -> list[str]:
    ours = {"kit": REVISION, "spec_sha256": hashlib.sha256(SPEC.read_bytes()).hexdigest(), "kit_sha256": kit_digest()}
    return [
        f"Its {name} is {str(header[name])[:80]}, that of this kit is {value}."
        for name, value in ours.items()
        if header[name] != value
    ]


def _twice(ids: Iterable[str]) -> list[str]:
    return [f"{name[:80]} is told {n} times." for name, n in Counter(ids).items() if n > 1]


def _ids(options: _Row, rows: Sequence[_Row], cases_by_id: dict[str, Case]) -> list[str]:
    """Return errors for cases that are unknown, in no profile of the header, or missing from an unfiltered run."""
    stated = {row["id"] for row in rows}
    mine = {case.id: case for case in cases_of(options["profiles"], list(cases_by_id.values()))}
    wrong = _named(
        "is no case of this kit", "are no cases of this kit", [name for name in stated if name not in cases_by_id]
    )
    strange = [name for name in stated if name in cases_by_id and name not in mine]
    wrong += _named("belongs to no profile of the header", "belong to no profile of the header", strange)
    if not options["filtered"]:
        missing = [n for n, case in mine.items() if n not in stated and classes_of(case, options["classes"])]
        wrong += _named("is missing", "are missing", missing)
    return wrong


def _property_ids(options: _Row, rows: Sequence[_Row], properties: Mapping[str, str]) -> list[str]:
    stated = {row["id"] for row in rows}
    wrong = _named(
        "is no property of this kit", "are no properties of this kit", [n for n in stated if n not in properties]
    )
    mine = [name for name, profile in properties.items() if profile in (*options["profiles"], PROTOCOL)]
    missing = [] if options["filtered"] else [name for name in mine if name not in stated]
    return wrong + _named("is a property and missing", "are properties and missing", missing)


def _asked(run: Run, asks: Mapping[str, Sequence[str]]) -> list[str]:
    """Return an error for each property that says it asked what it does not ask in this kit (PRT-018.2)."""
    wrong = []
    for one in run.properties:
        may = {asked_in(op, name) for op in asks.get(one.name, ()) if op in OPS for name in run.classes}
        if strange := sorted(set(one.asked_new) - may):
            wrong.append(f"{one.name[:80]} is told to have asked {strange[0][:80]}, which it does not ask.")
    return wrong


def _named(one: str, many: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(name[:80] for name in sorted(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{shown}{more} {one if len(names) == 1 else many}."]


def _run(header: _Row, cases: Sequence[_Row], property_rows: Sequence[_Row], cases_by_id: dict[str, Case]) -> Run:
    """Return the run that a report describes."""
    options = header["options"]
    return Run(
        port=header["port"],
        profiles=tuple(options["profiles"]),
        classes=tuple(options["classes"]),
        results=[_result(row, cases_by_id[row["id"]]) for row in cases],
        coverage=[],
        clauses={},
        properties=[
            PropertyResult(
                row["id"],
                tuple(row["clauses"]),
                row["profile"],
                row["examples"],
                failure=row["failure"],
                skipped=row["skipped"],
                waived=row["waived"],
                asked_new=tuple(map(str, row["asked_new"])),
            )
            for row in property_rows
        ],
        # `_ids` and `_property_ids` have checked already that no case and no property is missing
        chosen=dict.fromkeys([row["id"] for row in (*cases, *property_rows)], 0),
        seed=header["seed"],
        fresh=header["fresh"],
        filtered=options["filtered"],
        deterministic=header["deterministic"],
        zstd=header["zstd"],
        complaints=header["complaints"],
        spec_sha256=header["spec_sha256"],
        kit_sha256=header["kit_sha256"],
    )


def _result(row: _Row, case: Case) -> Result:
    failures = [
        Failure(f["variant"], f["output"], f["detail"], math.inf if f["ratio"] is None else f["ratio"], f["status"])
        for f in row["failures"]
    ]
    ratio = math.inf if row["ratio"] is None else row["ratio"]
    return Result(case, failures, row["ran"], ratio, row["skipped"], row["reason"], row["waived"])


def _case(row: _Row, result: Result, classes: Sequence[str]) -> list[str]:
    """Return an error for each member of a case's line that contradicts the case, or the rest of the line."""
    case, name = result.case, row["id"]
    of_case = (case.op, list(case.clauses), sorted(profiles_of_case(case)))
    wrong = []
    if (row["op"], row["clauses"], row["profiles"]) != of_case:
        wrong.append(f"{name} has another operation, other clauses or other profiles than in this kit.")
    if row["outcome"] not in OUTCOMES or row["outcome"] != result.outcome:
        wrong.append(f"{name} is told as {row['outcome'][:40]}, its own line shows {result.outcome}.")
    elif row["reason"] not in ("", "unsupported", "blocked", "notrun"):
        wrong.append(f"{name} was not judged for the unknown reason {row['reason'][:40]!r}.")
    elif row["outcome"] == "pass":
        if not 0 <= result.ratio <= 1:
            wrong.append(f"{name} is told as a pass that used {result.ratio:.3g} times its bound.")
        if row["ran"] < (ways := len(classes_of(case, classes))):
            wrong.append(f"{name} is told as a pass, but was asked in {row['ran']} of {ways} classes.")
    elif row["outcome"] == "waived" and not (row["failures"] or row["skipped"]):
        wrong.append(f"{name} is told as waived, but its line has nothing to forgive.")
    return wrong


def _property(row: _Row, one: PropertyResult, run: Run) -> list[str]:
    wrong = []
    if row["profile"] not in (*run.profiles, PROTOCOL):
        wrong.append(f"{row['id'][:80]} belongs to no profile of the header.")
    if row["outcome"] != one.status:
        wrong.append(f"{row['id'][:80]} is told as {row['outcome'][:40]}, its own line shows {one.status}.")
    elif one.status == "passed" and row["examples"] < 1 and row["profile"] != PROTOCOL:
        wrong.append(f"{row['id'][:80]} is told as passed, but no example was tried.")
    elif one.waived and not (row["failure"] or row["skipped"]):
        wrong.append(f"{row['id'][:80]} is told as waived, but its line has nothing to forgive.")
    return wrong


def _totals(cases: Sequence[_Row], property_rows: Sequence[_Row], foot: _Row) -> list[str]:
    """Return an error for each count of the footer that differs from the lines."""
    counted = {
        "cases": len(cases),
        "properties": len(property_rows),
        "outcomes": dict(Counter(row["outcome"] for row in cases)),
        "property_outcomes": dict(Counter(row["outcome"] for row in property_rows)),
    }
    return [
        f"The footer tells {str(foot[name])[:120]} for {name}, the lines have {value}."
        for name, value in counted.items()
        if foot[name] != value
    ]


def _told(run: Run, header: _Row, foot: _Row) -> list[str]:
    """Return an error for each count of the footer, and each member of the verdict, that differs from the lines."""
    wrong = [
        f"The footer tells {str(foot.get(name))[:120]} for {name}, the lines have {value}."
        for name, value in footer(run).items()
        if foot.get(name) != value
    ]
    right = verdict_row(run)
    wrong += [
        f"The verdict has {str(header['verdict'].get(name))[:200]!r} for {name}, the lines give {str(value)[:200]!r}."
        for name, value in right.items()
        if header["verdict"].get(name) != value
    ]
    return wrong
