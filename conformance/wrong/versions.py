"""Run the frozen cases on wrong versions of the engine, each of which has one edit of the source.

    python -m conformance.wrong.versions docs/results/wrong-versions.json --page docs/results/wrong-versions.md

A mutant (`conformance.wrong.mutants`) was written with the cases at hand. The author of a wrong version has SPEC.md and
the engine, and has seen neither mutants nor cases. A version that no case refuses shows a hole in the kit.

A record is an object of `id`, `file`, `old`, `new`, `clauses` (ids, in one text) and `mistake`. The text `old`, which
stands in the file exactly once, becomes `new`. The result adds `killed_by`, the first case that refuses the version;
cases of its clauses are asked first. It also adds `linked`, whether that case is one of them. A record may have `batch`
and `at_first`, the result of its first measurement; both are kept.

Exit status: 0 if every version is refused by a case of its clauses, 1 if not, 2 for records that cannot be applied.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conformance.threads import NAMES
from formats.atomic import write_file

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("seft_ref", "formats")
"""The packages that an edit may change."""
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
"""Signals that a program gets for a fault of its own."""

Record = dict[str, Any]


class BadRecordError(Exception):
    """Raised when a record names no unique place in the engine."""


def edited(record: Record, root: Path) -> None:
    """Apply the edit of a record to a copy of the engine below root.

    Raises:
        BadRecordError: if `old` does not stand exactly once in `file`.
    """
    path = root / record["file"]
    if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
        raise BadRecordError(f"{record['id']}: {record['file']} is no file of {' or '.join(PACKAGES)}")
    text = path.read_text(encoding="utf-8")
    if text.count(record["old"]) != 1 or record["old"] == record["new"]:
        raise BadRecordError(
            f"{record['id']}: old stands {text.count(record['old'])} times in {record['file']}, not once"
        )
    path.write_text(text.replace(record["old"], record["new"]), encoding="utf-8")


def judged(record: Record, seconds: float = 900) -> Record:
    """Return a record with the first case that refuses it; the changed engine runs in a child process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for package in PACKAGES:
            # copytree keeps the times of files, so that the copied cache of compiled loops stays valid
            shutil.copytree(ROOT / package, root / package)
        (root / "conformance").symlink_to(ROOT / "conformance")
        edited(record, root)
        words = [sys.executable, "-m", "conformance.wrong.versions", "--child", record["clauses"]]
        environment = os.environ | {"PYTHONPATH": folder} | dict.fromkeys(NAMES, "1")
        try:
            child = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return record | {"killed_by": f"no answer in {seconds:.0f} s", "linked": False}
        printed = child.stdout.splitlines()
        # a version that dies is refused by the case it was asked, which the last line names
        if not printed or (child.returncode and -child.returncode not in _FAULTS):
            return record | {"killed_by": "the engine does not start", "linked": False}
        return record | json.loads(printed[-1])


def first_refusal(clauses: set[str]) -> Record:
    """Return the first case that refuses the engine of this process; cases of `clauses` come first."""
    from conformance.cases.case import load_all
    from conformance.engine.port import reference_numpy
    from conformance.judge.harness import Variant, run

    cases = load_all()
    linked = [case for case in cases if clauses & set(case.clauses)]
    port = reference_numpy()
    for case in [*linked, *(case for case in cases if not clauses & set(case.clauses))]:
        if case.op not in port.ops:
            continue
        refusal = {"killed_by": case.id, "linked": bool(clauses & set(case.clauses))}
        print(json.dumps(refusal), flush=True)
        (result,) = run([case], [Variant(port, dtype) for dtype in ("float64", "float32")])
        if result.failures:
            return refusal
    return {"killed_by": "", "linked": False}


def page(records: Sequence[Record]) -> str:
    """Return the results as a page in Markdown."""
    killed = [r for r in records if r["killed_by"]]
    linked = [r for r in records if r["linked"]]
    lines = [
        "# Wrong versions that the kit had never seen",
        "",
        "Each row is one realistic mistake.",
        "Its author had SPEC.md and the engine, and saw neither mutants nor cases.",
        "The kit refuses a version if one of its frozen cases gets a wrong answer or none.",
        "A case counts as linked if it shows a clause that the mistake breaks.",
        "The edits are in [wrong-versions.json](wrong-versions.json).",
        "`python -m conformance.wrong.versions` made this page.",
        "",
        f"{len(killed)} of {len(records)} are refused, {len(linked)} of them by a linked case.",
        *_at_first(records),
        "",
        "| mistake | where | clauses | first case that refuses it |",
        "|---|---|---|---|",
    ]
    for r in records:
        by = f"`{r['killed_by']}`{'' if r['linked'] else ' (not linked)'}" if r["killed_by"] else "**none**"
        lines.append(f"| {r['mistake'].replace('|', '¦')} | `{r['file']}` | {r['clauses']} | {by} |")
    return "\n".join(lines) + "\n"


def _at_first(records: Sequence[Record]) -> list[str]:
    """Return a table of each batch's first results, before the kit was improved by them."""
    batches = sorted({r["batch"] for r in records if "batch" in r})
    if not batches:
        return []
    lines = [
        "",
        "When a batch was first put to the kit:",
        "",
        "| batch | versions | refused | by a linked case |",
        "|---|---:|---:|---:|",
    ]
    for batch in batches:
        own = [r for r in records if r.get("batch") == batch]
        refused, linked = (sum(bool(r["at_first"][key]) for r in own) for key in ("killed_by", "linked"))
        lines.append(f"| {batch} | {len(own)} | {refused} | {linked} |")
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Run the records of a file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m conformance.wrong.versions", description=__doc__)
    parser.add_argument("records", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, help="write records and results as JSON")
    parser.add_argument("--page", type=Path, help="write the page")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child is not None:
        print(json.dumps(first_refusal(set(options.child.split()))))
        return 0
    if options.records is None:
        parser.error("name a file of records")
    records: list[Record] = json.loads(options.records.read_text(encoding="utf-8"))
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            rows = list(pool.map(judged, records))
    except BadRecordError as error:
        print(error, file=sys.stderr)
        return 2
    for r in rows:
        if not r["linked"]:
            print(f"{r['id']}: {r['mistake']} ({r['clauses']}): {r['killed_by'] or 'refused by no case'}")
    if options.out:
        write_file(options.out, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
    if options.page:
        write_file(options.page, page(rows).encode())
    print(f"{sum(bool(r['killed_by']) for r in rows)} of {len(rows)} refused, {sum(r['linked'] for r in rows)} linked")
    return 0 if all(r["linked"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
