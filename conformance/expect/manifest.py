"""The expected failures of a port: a TOML file beside it lists known failures and the issues that track them.

    [[expect]]
    id = "select.largest-example"     # a case, or a glob with max_matches = 1 to 20
    status = "fail"                   # its outcome
    match = "at [0] expected 7"       # the beginning of the failure's detail
    issue = "https://..."
    class = "fp32"                    # the numeric class of the failure; may be left out
    until = "1.0-r3"                  # the last revision of the kit for which the entry holds; may be left out

    [[expect]]
    property = "select.largest"
    status = "fail"                   # or unsupported, blocked
    issue = "https://..."

A case is forgiven if entries expect each of its failures. A property is forgiven if an entry expects its status,
because its detail depends on the seed. An entry that does not hold is a complaint, and a complaint is a failure of the
run.
"""

import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conformance.cases.profiles import CLASSES
from conformance.judge.harness import Result
from conformance.judge.judgement import REVISION, PropertyResult

__all__ = [
    "OF_PROPERTIES",
    "STATUSES",
    "Expect",
    "Finding",
    "Judged",
    "ManifestError",
    "apply",
    "entries",
    "findings",
    "is_glob",
    "name_in",
    "read",
]

STATUSES = ("fail", "error", "crash", "timeout", "protocol", "unsupported", "blocked")
"""Statuses that may be expected. notrun may not, because the run was given up then."""
OF_PROPERTIES = ("fail", "unsupported", "blocked")
"""Statuses that may be expected of a property."""
MOST = 20
"""The most cases that one glob may match."""

_REVISION = re.compile(r"(\d+)\.(\d+)-r(\d+)")
_KEYS = {
    "id": str,
    "property": str,
    "status": str,
    "match": str,
    "class": str,
    "issue": str,
    "until": str,
    "max_matches": int,
}
_NO_MATCH = ("unsupported", "blocked")

Judged = Result | PropertyResult
Finding = tuple[str, str, str]
"""Status, detail, and numeric class (empty if unknown)."""


class ManifestError(Exception):
    """A file of expected failures is malformed; the message names the entry and says what to write."""


@dataclass(frozen=True, slots=True)
class Expect:
    """One entry of a manifest.

    Attributes:
        id: the id of a case, a glob of ids, or the name of a property.
        match: beginning of the failure's detail, or of the reason if the case was not judged.
        of_property: whether it names a property.
        in_class: the numeric class in which it holds, empty for all.
        until: the last revision of the kit for which it holds, empty for all.
        max_matches: the most cases that it may match.
    """

    id: str
    status: str
    match: str
    issue: str
    until: str = ""
    max_matches: int = 1
    of_property: bool = False
    in_class: str = ""

    @property
    def expired(self) -> bool:
        """Return whether this kit is newer than the entry allows."""
        return bool(self.until) and _revision(REVISION) > _revision(self.until)

    def names(self, name: str) -> bool:
        """Return whether the entry is for the case or property of this name."""
        return self.id == name or (not self.of_property and is_glob(self.id) and fnmatchcase(name, self.id))

    def means(self, result: Judged) -> bool:
        """Return whether the entry is for the case or property of a result."""
        return self.of_property == isinstance(result, PropertyResult) and self.names(result.name)

    def expects(self, status: str, detail: str, in_class: str = "") -> bool:
        """Return whether a failure is the one that the entry expects."""
        return status == self.status and detail.startswith(self.match) and self.in_class in ("", in_class)


def is_glob(name: str) -> bool:
    """Return whether an id is a glob, which may match several cases."""
    return any(mark in name for mark in "*?[")


def name_in(row: dict[str, Any]) -> str:
    """Return the property or the id of an entry, as written in the file."""
    return str(row.get("property") or row.get("id", ""))


def _revision(text: str) -> tuple[int, ...]:
    match = _REVISION.fullmatch(text)
    return tuple(int(part) for part in match.groups()) if match else ()


def read(path: Path) -> list[Expect]:
    """Return the entries of a file.

    Raises:
        ManifestError: the file cannot be read, or an entry is incomplete.
    """
    if path.exists() and not path.is_file():
        # refused, because reading a pipe may wait for ever
        msg = f"{path} is no regular file; copy what it holds into one"
        raise ManifestError(msg)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: it cannot be read: {error}"
        raise ManifestError(msg) from error
    return [_checked(row, f"{path.name}: entry {n}") for n, row in enumerate(entries(text, path.name), 1)]


def entries(text: str, name: str) -> list[dict[str, Any]]:
    """Return the tables of a manifest's text, complete or not.

    Raises:
        ManifestError: the text is no TOML, or has other tables or keys.
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


def _checked(row: dict[str, Any], place: str) -> Expect:
    if {"id", "property"} & set(row):
        place += f" ({name_in(row)[:80]})"
    fault = _form(row) or _content(row)
    if fault:
        msg = f"{place}: {fault}"
        raise ManifestError(msg)
    more = {key: row[key] for key in ("until", "max_matches") if key in row}
    return Expect(
        name_in(row),
        row["status"],
        row.get("match", ""),
        row["issue"],
        of_property="property" in row,
        in_class=row.get("class", ""),
        **more,
    )


def _form(row: dict[str, Any]) -> str:
    """Return an error text for a wrong key of an entry, or a value of the wrong type; empty if there is none."""
    for key, value in row.items():
        if key not in _KEYS:
            return f"{key} is not known; there are {', '.join(_KEYS)}"
        if type(value) is not _KEYS[key]:
            return f"{key} must be {'a number' if _KEYS[key] is int else 'text'}"
    if "property" in row:
        extra = [key for key in ("id", "class", "max_matches") if key in row]
        if extra:
            return f"{extra[0]} is not for properties"
    name = "property" if "property" in row else "id"
    missing = [key for key in (name, "status", "issue") if not row.get(key)]
    return f"{missing[0]} is missing" if missing else ""


def _content(row: dict[str, Any]) -> str:
    """Return an error text for a wrong value of an entry; empty if there is none."""
    statuses = OF_PROPERTIES if "property" in row else STATUSES
    if row["status"] not in statuses:
        return f"status must be one of {', '.join(statuses)}"
    if not row.get("match") and "property" not in row and row["status"] not in _NO_MATCH:
        return "match is missing; write how the detail of the failure begins"
    if not _is_url(row["issue"]):
        return "issue must be the URL of the issue that tracks it"
    if row.get("until") and not _revision(row["until"]):
        return f"until must be a revision of the kit such as {REVISION}"
    if row.get("class", "fp32") not in CLASSES:
        return f"class must be one of {', '.join(CLASSES)}"
    if "property" in row:
        return ""
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
    results: Sequence[Judged],
    case_ids: Collection[str] | None = None,
    properties: Collection[str] = (),
    classes: Sequence[str] = (),
) -> list[str]:
    """Mark the results that the manifest forgives as waived; return complaints about entries that do not hold.

    case_ids    ids of all cases of the kit: an entry for one that was not asked in this run is ignored; None if every
                case was asked
    properties  names of all properties of the kit: an entry for one that was not asked is ignored
    classes     numeric classes of the run: an entry for another class is ignored; empty if all were judged
    """
    complaints: list[str] = []
    good: list[Expect] = []
    for entry in manifest:
        if entry.in_class and classes and entry.in_class not in classes:
            continue
        hits = [r for r in results if entry.means(r)]
        wrong = _against(entry, hits, case_ids, properties)
        complaints += wrong
        if not wrong:
            good.append(entry)
    for result in results:
        mine = [entry for entry in good if entry.means(result)]
        if mine:
            complaints += _forgive(result, mine)
    return complaints


def _against(
    entry: Expect, hits: Sequence[Judged], case_ids: Collection[str] | None, properties: Collection[str]
) -> list[str]:
    """Return complaints about an entry that does not hold, and so forgives nothing; empty if it holds."""
    if not hits and not any(entry.names(name) for name in (properties if entry.of_property else case_ids or ())):
        other = next((name for name in properties if entry.names(name)), None)
        more = f'; {other} is a property: write property = "{other}"' if other is not None else ""
        return [f"{entry.id} matches no {'property' if entry.of_property else 'case'}{more}"]
    if entry.expired:
        return [f"{entry.id} was expected to fail until {entry.until}, this kit is {REVISION}: {entry.issue}"]
    if len(hits) > entry.max_matches:
        return [f"{entry.id} matches {len(hits)} cases, more than the {entry.max_matches} it declares"]
    return [text for result in hits for text in _differs(entry, result)]


def _differs(entry: Expect, result: Judged) -> list[str]:
    name, reported = result.name, findings(result)
    if any(entry.expects(*one) for one in reported):
        return []
    relevant = [one for one in reported if "" in (entry.in_class, one[2]) or entry.in_class == one[2]]
    if not relevant:
        place = f" in {entry.in_class}" if entry.in_class else ""
        return [f"{name} passes{place}, but is expected to come out as {entry.status}; remove the entry: {entry.issue}"]
    shown = next((detail for status, detail, _ in relevant if status == entry.status), None)
    if shown is not None:
        return [f"{name}: expected {entry.status} {entry.match!r}, it tells {shown[:160]!r}"]
    status, detail, _ = relevant[0]
    return [f"{name}: expected {entry.status}, it comes out as {status}: {detail[:160]!r}"]


def _forgive(result: Judged, mine: Sequence[Expect]) -> list[str]:
    reported = findings(result)
    more = [one for one in reported if not any(entry.expects(*one) for entry in mine)]
    if more:
        status, detail, _ = more[0]
        return [f"{result.name} also comes out as {status}, which no entry expects: {detail[:160]!r}"]
    used = [entry for entry in mine if any(entry.expects(*one) for one in reported)]
    result.waived = ", ".join(dict.fromkeys(entry.issue for entry in used))
    return []


def findings(result: Judged) -> list[Finding]:
    """Return the failures of a result, or the reason why it was not judged; empty if it passed."""
    if isinstance(result, PropertyResult):
        status = result.finding
        return [] if status == "pass" else [(status, result.failure or result.skipped, "")]
    if result.failures:
        return list(dict.fromkeys((f.status, f.detail, f.in_class) for f in result.failures))
    return [] if result.outcome == "pass" else [(result.reason or "unsupported", result.skipped, "")]
