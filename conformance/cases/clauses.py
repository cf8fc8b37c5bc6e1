"""The clauses of SPEC.md as records, and the lock file that shows when one of them changed.

A clause of several statements has parts. The first part has the id of the clause, later parts append a number to it:

**SEL-007** (MUST) A selection in *pools* ... [paper-silent]

**SEL-007.2** (MUST) Of the pool p ...

A record is a whole clause: cases, errors and mutants name clauses, not parts.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from conformance.oracle import SPEC

LOCK = Path(__file__).resolve().parents[1] / "registry" / "clauses.json"

__all__ = ["LOCK", "SPEC", "Clause", "ClauseError", "check_lock", "extract", "lock_text", "read_clauses"]

_START = re.compile(r"^\*\*([^*]+)\*\*(.*)$")
_ID = re.compile(r"^[A-Z]{3,4}-\d{3}(?:\.\d+)?$")
_LEVEL = re.compile(r"^ \((MUST|SHOULD|MAY)\) (\S.*)$", re.DOTALL)
_TAG = re.compile(r"\s*\[(paper-silent|untestable: [^\]]+)\]")


class ClauseError(Exception):
    """A document has a malformed clause, or two clauses with one id."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One numbered clause with all its parts.

    Attributes:
        id: for example ``"SEL-001"``.
        level: MUST, SHOULD or MAY, the level of the first part.
        text: the statements without their tags, every run of white space as one space. Each part but the first begins
            with its id and its level.
        paper_silent: whether a part rests on our choice, because the paper does not settle it.
        untestable: why no test can decide any of the parts, empty if a test can decide one.
        shown: the text as a terminal shows it, with later parts and the rows of a table on lines of their own.
        parts: ids of the parts after the first, for example ``("SEL-007.2",)``.
    """

    id: str
    level: str
    text: str
    paper_silent: bool
    untestable: str
    shown: str
    parts: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The SHA-256 of level and text, which the lock file stores."""
        return hashlib.sha256(f"{self.level} {self.text}".encode()).hexdigest()


def _clause(line_number: int, name: str, rest: str) -> Clause:
    match = _LEVEL.match(rest)
    if not match:
        msg = f"line {line_number}: {name} is not followed by (MUST), (SHOULD) or (MAY) and a statement"
        raise ClauseError(msg)
    text = match[2]
    tags = _TAG.findall(text)
    if text.count("[paper-silent") + text.count("[untestable") != len(tags):
        msg = f"line {line_number}: {name} has a tag other than [paper-silent] or [untestable: reason]"
        raise ClauseError(msg)
    reasons = [" ".join(tag.removeprefix("untestable: ").split()) for tag in tags if tag.startswith("untestable")]
    return Clause(
        id=name,
        level=match[1],
        text=" ".join(_TAG.sub("", text).split()),
        paper_silent="paper-silent" in tags,
        untestable=reasons[0] if reasons else "",
        shown=_shown(_TAG.sub("", text)),
    )


def _shown(text: str) -> str:
    """Return the prose as one line, then the rows of the table with bars unescaped, without the rule below its head."""
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    rows = [line.replace("\\|", "|") for line in text.splitlines() if line.startswith("|") and set(line) - set("|-")]
    return "\n".join([" ".join(" ".join(prose).split()), *rows])


def _with_part(clause: Clause, part: Clause) -> Clause:
    """Return the clause with a part appended."""
    head = f"{part.id} ({part.level})"
    reasons = dict.fromkeys((clause.untestable, part.untestable))
    return Clause(
        id=clause.id,
        level=clause.level,
        text=f"{clause.text} {head} {part.text}",
        paper_silent=clause.paper_silent or part.paper_silent,
        untestable="" if "" in reasons else "; ".join(reasons),
        shown=f"{clause.shown}\n{head} {part.shown}",
        parts=(*clause.parts, part.id),
    )


def extract(document: str) -> list[Clause]:
    """Return the clauses of a Markdown document, in the order of the document.

    Raises:
        ClauseError: an id is malformed or comes twice, a clause has no level or no statement, a tag is broken, or a
            part does not follow the one before it.
    """
    lines = document.splitlines()
    clauses: list[Clause] = []
    for number, line in enumerate(lines, 1):
        start = _START.match(line)
        if not start or "-" not in start[1]:
            continue
        if not _ID.match(start[1]):
            msg = f"line {number}: {start[1]!r} is not an id of the form AREA-nnn or AREA-nnn.n"
            raise ClauseError(msg)
        end = next((i for i in range(number, len(lines)) if not lines[i].strip()), len(lines))
        part = _clause(number, start[1], "\n".join([start[2], *lines[number:end]]))
        if "." not in part.id:
            clauses.append(part)
            continue
        before = clauses[-1] if clauses else None
        if before is None or part.id != f"{before.id}.{len(before.parts) + 2}":
            msg = f"line {number}: {part.id} does not follow the part before it"
            raise ClauseError(msg)
        clauses[-1] = _with_part(before, part)
    twice = [name for name, n in Counter(c.id for c in clauses).items() if n > 1]
    if twice:
        msg = f"{twice[0]} is given twice"
        raise ClauseError(msg)
    return clauses


def read_clauses(path: Path = SPEC) -> dict[str, Clause]:
    """Return the clauses of the file at path by id, in the order of the file."""
    return {clause.id: clause for clause in extract(path.read_text(encoding="utf-8"))}


def lock_text(clauses: dict[str, Clause]) -> str:
    """Return the text of the lock file for these clauses."""
    rows = {
        c.id: {
            "level": c.level,
            "sha256": c.digest,
            **({"paper_silent": True} if c.paper_silent else {}),
            **({"untestable": c.untestable} if c.untestable else {}),
        }
        for c in clauses.values()
    }
    body = ",\n".join(f' "{name}": {json.dumps(row)}' for name, row in rows.items())
    return "{\n" + body + "\n}\n"


def check_lock(clauses: dict[str, Clause], lock: Path = LOCK) -> list[str]:
    """Return one line for each clause that differs from the lock file, empty if none does."""
    old = json.loads(lock.read_text(encoding="utf-8"))
    new = json.loads(lock_text(clauses))
    lines = [f"{name}: in the lock file, not in the document" for name in old if name not in new]
    lines += [f"{name}: in the document, not in the lock file" for name in new if name not in old]
    lines += [f"{name}: changed since it was locked" for name in new if name in old and new[name] != old[name]]
    return lines


def main() -> int:
    """Write the lock file, or with ``--check`` compare it and return 1 if it differs."""
    import sys

    clauses = read_clauses()
    if "--check" not in sys.argv[1:]:
        LOCK.write_text(lock_text(clauses), encoding="utf-8", newline="\n")
        return 0
    wrong = check_lock(clauses)
    for line in wrong:
        print(f"{line}; run python -m conformance.cases.clauses after reviewing it")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
