"""Save a failing example as a folder, and ask its cases again without hypothesis.

result = replay(folder, [Variant(port, "float64")])
freeze(folder, ["SEL-001"], "three-equal-scores")
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance.cases.case import VECTORS, Case, dump, load
from conformance.cases.clauses import read_clauses
from conformance.cases.ops import OPS
from conformance.judge.harness import Result, Variant, run
from conformance.judge.judgement import kit_digest
from conformance.properties.trial import RELATION, NotOffered, Seen, ask_all
from conformance.protocol.values import encode
from formats.atomic import write_file

__all__ = ["folder_of", "freeze", "read", "replay", "save"]


def save(folder: Path, failing: Seen, port: str, seed: str) -> Path:
    """Write a failing example into a folder and return it.

    ``case.json`` holds the cases in the form of the frozen ones, ``got.json`` the answers, ``README.txt`` the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(dump(failing.cases), encoding="utf-8", newline="\n")
    failure = {"failure": failing.failure.detail, "output": failing.failure.output, "status": failing.failure.status}
    answers = [_sent(answer) for answer in failing.answers]
    (folder / "got.json").write_text(json.dumps(failure | {"answers": answers}, indent=1) + "\n", encoding="utf-8")
    first = failing.cases[0]
    compared = first.oracle.removeprefix(RELATION) if _related(first) else "with what case.json expects"
    lines = [
        f"{first.id}: {first.purpose}",
        f"clauses: {' '.join(first.clauses)}",
        f"asked: {', '.join(case.op for case in failing.cases)}",
        f"compared: {compared}",
        f"port: {port}, asked as {failing.failure.variant}",
        (
            f"what is wrong ({failing.failure.status}): "
            f"{' '.join(filter(None, (failing.failure.output, failing.failure.detail)))}"
        ),
        f"kit: {kit_digest()}",
        f"seed: {seed}",
        "",
        "To ask again, with the options that name the port; hypothesis is not needed:",
        f"    seft verify replay {folder} ...",
    ]
    # half a surrogate pair in the port's own words has no UTF-8
    (folder / "README.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
    return folder


def _sent(answer: Any) -> Any:
    try:
        return encode(answer)
    except TypeError as error:
        # a port in this process may return a value that the protocol cannot encode
        return f"{error}: {answer!r}"[:2000]


def _related(case: Case) -> bool:
    return case.oracle.startswith(RELATION)


def read(folder: Path | str) -> list[Case]:
    """Return the cases of a folder.

    Raises:
        ValueError: its case.json is missing or damaged, or asks for an operation that there is not.
    """
    path = Path(folder) / "case.json"
    if not path.is_file():
        msg = f"{folder} holds no case.json; name a folder that a failed property left"
        raise ValueError(msg)
    try:
        cases = load(path)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        msg = f"{path} holds no case that can be asked; run the property again to have it written anew"
        raise ValueError(msg) from error
    unknown = [case.op for case in cases if case.op not in OPS]
    if unknown or not cases:
        msg = f"{path} asks for {unknown[0]!r:.80}, which is no operation" if unknown else f"{path} holds no case"
        raise ValueError(msg)
    return cases


def replay(folder: Path | str, variants: Sequence[Variant]) -> Result:
    """Ask the cases of a folder again and return the result; the result of a relation names its last case."""
    cases = read(folder)
    if not _related(cases[0]):
        return run(cases, variants)[-1]
    result = Result(cases[-1])
    for variant in variants:
        try:
            failure, _ = ask_all(cases, variant)
        except NotOffered as missing:
            result.skipped = f"{variant.port.name} does not offer {missing}"
            continue
        result.ran += 1
        result.failures += [] if failure is None else [failure]
    return result


def freeze(folder: Path | str, clauses: Sequence[str], name: str, vectors: Path = VECTORS) -> Path:
    """Add the case of a folder to the frozen ones, as ``found.name`` in ``found.json``; return that file.

    Raises:
        ValueError: the folder compares two answers of a port, a clause does not exist, or the name is taken.
    """
    cases = read(folder)
    if len(cases) != 1 or _related(cases[0]):
        msg = f"{folder} compares answers of a port with each other; a vector needs an expected answer"
        raise ValueError(msg)
    unknown = sorted(set(clauses) - set(read_clauses()))
    if unknown or not clauses:
        msg = f"SPEC.md has no clause {unknown[0]}" if unknown else "a vector needs a clause of SPEC.md"
        raise ValueError(msg)
    path = vectors / "found.json"
    frozen = load(path) if path.is_file() else []
    case = replace(cases[0], id=f"found.{name}", clauses=tuple(clauses))
    if any(case.id == old.id for old in frozen):
        msg = f"there is a case {case.id} already; give another name"
        raise ValueError(msg)
    write_file(path, dump([*frozen, case]).encode())
    return path


def folder_of(artifacts: Path, name: str) -> Path:
    """Return the folder of a property that failed."""
    return artifacts / name.replace(".", "-")
