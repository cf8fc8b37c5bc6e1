"""The expected failures of a port, in a TOML file beside it: what is known to be wrong, and who tracks it.

    [[expect]]
    id = "select.largest-ties"        # a case, or a glob with max_matches = 1 to 20
    status = "fail"                   # how it comes out
    match = "at [0] expected 7"       # how what it tells begins
    issue = "https://..."
    until = "1.0-r3"                  # the last revision of the kit for which this holds; may be left out

A case is forgiven if each of its failures is one that an entry expects. Whatever else an entry says that is not so is
a complaint, and a complaint is a failure of the run. Properties cannot be listed.
"""

import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conformance.harness import Result
from conformance.judgement import REVISION

__all__ = ["STATUSES", "Expect", "ManifestError", "apply", "entries", "findings", "is_glob", "read"]

STATUSES = ("fail", "error", "crash", "timeout", "protocol", "unsupported", "blocked")
"""What may be expected: not that a run was given up."""
MOST = 20
"""Cases that one glob may stand for."""

_REVISION = re.compile(r"(\d+)\.(\d+)-r(\d+)")
_KEYS = {"id": str, "status": str, "match": str, "issue": str, "until": str, "max_matches": int}


class ManifestError(Exception):
    """A file of expected failures that is none; the message names the entry and says what to write."""


@dataclass(frozen=True, slots=True)
class Expect:
    """One entry.

    Attributes:
        id: the id of a case, or a glob.
        match: how the detail of the failure begins; the reason, where nothing was answered.
        until: the last revision of the kit for which it holds, empty for all.
        max_matches: how many cases it may stand for.
    """

    id: str
    status: str
    match: str
    issue: str
    until: str = ""
    max_matches: int = 1

    @property
    def expired(self) -> bool:
        """Tell whether this kit is newer than the entry allows."""
        return bool(self.until) and _revision(REVISION) > _revision(self.until)

    def names(self, case: str) -> bool:
        """Tell whether the entry stands for a case."""
        return self.id == case or (is_glob(self.id) and fnmatchcase(case, self.id))

    def expects(self, status: str, detail: str) -> bool:
        """Tell whether a failure is the one that the entry expects."""
        return status == self.status and detail.startswith(self.match)


def is_glob(name: str) -> bool:
    """Tell whether an id stands for several."""
    return any(mark in name for mark in "*?[")


def _revision(text: str) -> tuple[int, ...]:
    found = _REVISION.fullmatch(text)
    return tuple(int(part) for part in found.groups()) if found else ()


def read(path: Path) -> list[Expect]:
    """Return the entries of a file.

    Raises:
        ManifestError: it cannot be read, or an entry is incomplete.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: it cannot be read: {error}"
        raise ManifestError(msg) from error
    return [_checked(row, f"{path.name}: entry {n}") for n, row in enumerate(entries(text, path.name), 1)]


def entries(text: str, name: str) -> list[dict[str, Any]]:
    """Return the tables of a manifest's text as they stand, complete or not.

    Raises:
        ManifestError: it is no TOML, or holds something else.
    """
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{name}: {error}"
        raise ManifestError(msg) from error
    rows = whole.pop("expect", [])
    if whole or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        other = next(iter(whole), "expect")
        msg = f"{name}: {other} is not known; write every expected failure as [[expect]]"
        raise ManifestError(msg)
    return rows


def _checked(row: dict[str, Any], where: str) -> Expect:
    if isinstance(row.get("id"), str):
        where += f" ({row['id'][:80]})"
    told = _form(row) or _content(row)
    if told:
        msg = f"{where}: {told}"
        raise ManifestError(msg)
    return Expect(**{"match": "", **row})


def _form(row: dict[str, Any]) -> str:
    """Return what is wrong with the keys of an entry, and the types of their values."""
    for key, value in row.items():
        if key not in _KEYS:
            return f"{key} is not known; there are {', '.join(_KEYS)}"
        if type(value) is not _KEYS[key]:
            return f"{key} must be {'a number' if _KEYS[key] is int else 'text'}"
    missing = [key for key in ("id", "status", "issue") if not row.get(key)]
    return f"{missing[0]} is missing" if missing else ""


def _content(row: dict[str, Any]) -> str:
    """Return what is wrong with the values of an entry."""
    if row["status"] not in STATUSES:
        return f"status must be one of {', '.join(STATUSES)}"
    if not row.get("match") and row["status"] not in ("unsupported", "blocked"):
        return "match is missing; write how the detail of the failure begins"
    if not _is_url(row["issue"]):
        return "issue must be the URL of the issue that tracks it"
    if row.get("until") and not _revision(row["until"]):
        return f"until must be a revision of the kit such as {REVISION}"
    if is_glob(row["id"]) and not 1 <= row.get("max_matches", 0) <= MOST:
        return f"a glob needs max_matches from 1 to {MOST}"
    if not is_glob(row["id"]) and row.get("max_matches", 1) != 1:
        return "max_matches is for globs"
    return ""


def _is_url(text: str) -> bool:
    try:
        address = urlsplit(text)
        return address.scheme in ("http", "https") and bool(address.hostname)
    except ValueError:
        return False


def apply(
    manifest: Sequence[Expect],
    results: Sequence[Result],
    known: Collection[str] | None = None,
    properties: Collection[str] = (),
) -> list[str]:
    """Mark the results that the manifest forgives, and return what in it is not so.

    known       ids of all cases of the kit: an entry for one that was not asked in this run is let be; None if every
                case was asked
    properties  names of properties, none of which can be listed
    """
    complaints: list[str] = []
    good: list[Expect] = []
    for entry in manifest:
        hits = [r for r in results if entry.names(r.case.id)]
        wrong = _against(entry, hits, known, properties)
        complaints += wrong
        if not wrong:
            good.append(entry)
    for result in results:
        mine = [entry for entry in good if entry.names(result.case.id)]
        if mine:
            complaints += _forgive(result, mine)
    return complaints


def _against(
    entry: Expect, hits: Sequence[Result], known: Collection[str] | None, properties: Collection[str]
) -> list[str]:
    """Return why an entry forgives nothing."""
    if any(entry.names(name) for name in properties):
        return [f"{entry.id} names a property; only cases can be expected to fail"]
    if not hits and not any(entry.names(name) for name in known or ()):
        return [f"{entry.id} matches no case"]
    if entry.expired:
        return [f"{entry.id} was expected to fail until {entry.until}, this kit is {REVISION}: {entry.issue}"]
    if len(hits) > entry.max_matches:
        return [f"{entry.id} matches {len(hits)} cases, more than the {entry.max_matches} it declares"]
    return [text for result in hits for text in _differs(entry, result)]


def _differs(entry: Expect, result: Result) -> list[str]:
    name = result.case.id
    if result.outcome == "pass":
        return [f"{name} passes, but is expected to come out as {entry.status}; remove the entry: {entry.issue}"]
    told = findings(result)
    if any(entry.expects(status, detail) for status, detail in told):
        return []
    status, detail = told[0]
    if entry.status in [status for status, _ in told]:
        shown = next(detail for status, detail in told if status == entry.status)
        return [f"{name}: expected {entry.status} {entry.match!r}, it tells {shown[:160]!r}"]
    return [f"{name}: expected {entry.status}, it comes out as {status}: {detail[:160]!r}"]


def _forgive(result: Result, mine: Sequence[Expect]) -> list[str]:
    more = [told for told in findings(result) if not any(entry.expects(*told) for entry in mine)]
    if more:
        status, detail = more[0]
        return [f"{result.case.id} also comes out as {status}, which no entry expects: {detail[:160]!r}"]
    used = [entry for entry in mine if any(entry.expects(*told) for told in findings(result))]
    result.waived = ", ".join(dict.fromkeys(entry.issue for entry in used))
    return []


def findings(result: Result) -> list[tuple[str, str]]:
    """Return status and detail of all that is wrong with a result; the reason where it was not judged."""
    if result.failures:
        return list(dict.fromkeys((f.status, f.detail) for f in result.failures))
    return [] if result.outcome == "pass" else [(result.reason or "unsupported", result.skipped)]
