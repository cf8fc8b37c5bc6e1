"""Writes the failures of a run into a manifest line by line, so that its comments and its order stay.

Of a changed entry only the lines of `status` and `match` are rewritten. Entries of cases and properties that were asked
and no longer fail are removed. New entries are added at the end. A comment on a line of its own is always kept.
"""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from conformance.cases.profiles import CLASSES
from conformance.expect.manifest import (
    STATUSES,
    Finding,
    Judged,
    ManifestError,
    entries,
    findings,
    is_glob,
    name_in,
)
from conformance.judge.harness import classes_of
from conformance.judge.judgement import PropertyResult
from formats.atomic import check_file, write_file

__all__ = ["check", "write"]

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*expect[ \t]*\]\][ \t]*(#.*)?$")
_LINE = re.compile(r"""^([ \t]*(\w+)[ \t]*=[ \t]*)("(?:[^"\\]|\\.)*"|'[^']*'|\d+)([ \t]*(?:#.*)?)$""")
_LONGEST = 80
_BEGIN = "# What is known to be wrong. Each entry needs the URL of the issue that tracks it.\n"


@dataclass(slots=True)
class _Block:
    """The lines of one entry, from its header on, and the table that they contain."""

    lines: list[str]
    row: dict[str, Any]


def write(path: Path, results: Sequence[Judged], classes: Sequence[str] = tuple(CLASSES)) -> None:
    """Write the failures of a run into the manifest at path, new or updated, whole or not at all.

    A new entry has an empty issue, which `read` refuses until it is filled in. Entries with a glob, and entries of
    cases, properties and classes that the run did not ask, stay as they are.

    classes  the numeric classes that were judged

    Raises:
        ManifestError: the old file is no manifest, or cannot be updated line by line; nothing is written.
    """
    old = _text(path)
    end = "\r\n" if "\r\n" in old else "\n"
    before, blocks = _blocks(old.replace("\r\n", "\n"), path.name)
    rows = [dict(block.row) for block in blocks]
    out = list(before)
    new: list[dict[str, Any]] = []
    for result in results:
        new += _settle(result, blocks, rows, classes)
    for block, row in zip(blocks, rows, strict=True):
        out += _edited(block, row, path.name)
    for row in new:
        if out and out[-1].strip():
            out.append("")
        out += ["[[expect]]", *(f"{key} = {_quoted(value)}" for key, value in row.items())]
        out += ['issue = ""  # the URL of the issue that tracks it']
    text = "\n".join(out).rstrip("\n") + "\n"
    right = [row for row in rows if row] + [row | {"issue": ""} for row in new]
    if entries(text, path.name) != right:
        msg = f"{path.name}: it cannot be updated line by line; write each key of an entry on a line of its own"
        raise ManifestError(msg)
    write_file(path, text.replace("\n", end).encode())


def check(path: Path) -> None:
    """Verify that a manifest can be written to a path, new or updated.

    Raises:
        ManifestError: the old file is no manifest, or cannot be updated line by line.
        OSError: nothing can be written there.
    """
    check_file(path)
    _blocks(_text(path).replace("\r\n", "\n"), path.name)


def _text(path: Path) -> str:
    """Return the text of the manifest at path, or of an empty one if there is none."""
    try:
        return path.read_bytes().decode("utf-8") if path.exists() else _BEGIN
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: it cannot be read: {error}"
        raise ManifestError(msg) from error


def _blocks(text: str, name: str) -> tuple[list[str], list[_Block]]:
    """Return the lines before the first entry, and the entries."""
    rows = entries(text, name)
    before: list[str] = []
    parts: list[list[str]] = []
    for line in text.split("\n"):
        if _HEADER.match(line):
            parts.append([line])
        else:
            (parts[-1] if parts else before).append(line)
    try:
        tables = [tomllib.loads("\n".join(part))["expect"][0] for part in parts]
    except (tomllib.TOMLDecodeError, KeyError):
        tables = []
    if tables != rows:
        msg = f"{name}: it cannot be updated line by line; write each entry as [[expect]] on a line of its own"
        raise ManifestError(msg)
    return before, [_Block(part, row) for part, row in zip(parts, rows, strict=True)]


def _settle(
    result: Judged, blocks: Sequence[_Block], rows: list[dict[str, Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Update `rows` in place by the findings of one case or property, and return the entries to add."""
    mine = [at for at, block in enumerate(blocks) if _is_for(block.row, result)]
    globs = [block.row for block in blocks if _is_glob_for(block.row, result)]
    tracked = [one for one in findings(result) if one[0] in STATUSES]
    unexpected = [one for one in tracked if not any(_expects(row, one) for row in [*globs, *(rows[at] for at in mine)])]
    stale = [at for at in mine if _reached(rows[at], result, classes) and not _tells(tracked, rows[at])]
    new = []
    for row in _rows(result, unexpected, classes):
        # an entry whose case now fails in another way keeps its place, its issue and its comments
        at = next((at for at in stale if rows[at].get("class") == row.get("class")), None)
        if at is None:
            new.append(row)
        else:
            stale.remove(at)
            rows[at] = rows[at] | row | ({"match": row.get("match", "")} if "match" in rows[at] else {})
    for at in stale:
        rows[at] = {}
    return new


def _rows(result: Judged, unexpected: Sequence[Finding], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return entries that expect these findings; they name a class unless all asked classes have the finding."""
    if isinstance(result, PropertyResult):
        return [{"property": result.name, "status": status} for status, _, _ in unexpected]
    by_failure: dict[tuple[str, str], list[str]] = {}
    for status, detail, in_class in unexpected:
        by_failure.setdefault((status, _beginning(status, detail)), []).append(in_class)
    case_classes = set(classes_of(result.case, classes))
    rows = []
    for (status, match), failing in by_failure.items():
        row = {"id": result.name, "status": status} | ({"match": match} if match else {})
        some = [] if "" in failing or case_classes <= set(failing) else list(dict.fromkeys(failing))
        rows += [row | {"class": name} for name in some] or [row]
    return rows


def _is_for(row: dict[str, Any], result: Judged) -> bool:
    key = "property" if isinstance(result, PropertyResult) else "id"
    return row.get(key) == result.name


def _is_glob_for(row: dict[str, Any], result: Judged) -> bool:
    pattern = str(row.get("id", ""))
    return not isinstance(result, PropertyResult) and is_glob(pattern) and fnmatchcase(result.name, pattern)


def _reached(row: dict[str, Any], result: Judged, classes: Sequence[str]) -> bool:
    """Return whether a run reached what an entry is about: the case was run, and the class of the entry was asked."""
    given_up = result.outcome == "notrun" or (not isinstance(result, PropertyResult) and result.reason == "notrun")
    return not given_up and row.get("class") in (None, *classes)


def _tells(tracked: Sequence[Finding], row: dict[str, Any]) -> bool:
    return any(_expects(row, one) for one in tracked)


def _expects(row: dict[str, Any], finding: Finding) -> bool:
    status, detail, in_class = finding
    fits = row.get("status") == status and detail.startswith(str(row.get("match", "")))
    return fits and row.get("class", in_class) == in_class


def _beginning(status: str, detail: str) -> str:
    """Return the part of a detail that the next run repeats: up to the answer, and nothing if it names the port."""
    if status == "unsupported":
        return ""
    first = detail.split("\n", maxsplit=1)[0].split(", got ", maxsplit=1)[0][:_LONGEST]
    return first[: next((at for at, c in enumerate(first) if not c.isprintable()), None)]


def _edited(block: _Block, row: dict[str, Any], name: str) -> list[str]:
    """Return the lines of an entry after its table became `row`; if `row` is empty, only its comments."""
    lines = list(block.lines)
    if not row:
        return [line for line in lines if line.lstrip().startswith("#")]
    for key in ("status", "match"):
        if row.get(key) == block.row.get(key):
            continue
        at = [n for n, line in enumerate(lines) if (fields := _LINE.match(line)) and fields[2] == key]
        if len(at) == 1 and (fields := _LINE.match(lines[at[0]])):
            lines[at[0]] = f"{fields[1]}{_quoted(row[key])}{fields[4]}"
        elif key not in block.row:
            lines.insert(1, f"{key} = {_quoted(row[key])}")
        else:
            msg = f"{name}: {key} of {name_in(row)[:80]} is not on a line of its own; write it so"
            raise ManifestError(msg)
    return lines


def _quoted(text: str) -> str:
    """Return a printable text as a TOML string."""
    return json.dumps(text, ensure_ascii=False)
