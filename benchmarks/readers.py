"""Read the pack of bad files (conformance/badfiles) with every reader of safetensors that is installed here.

    python -m benchmarks readers --python VENV/bin/python --json docs/results/bad-files.json
    python -m benchmarks readers-page docs/results/bad-files.json docs/results/bad-files.md

`readers_child.py` loads each file in a process of its own, so that crashes, hangs and lack of memory are recorded.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.readers_child import READERS, SECONDS
from benchmarks.rounds import JsonFile, machine
from seft_cli.output import write_json
from seft_cli.threads import NAMES

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT / "conformance" / "badfiles"
CHILD = Path(__file__).with_name("readers_child.py")
NO_TENSORS = ("modelvet",)
"""Readers that validate a file and return no tensors."""
SLOW = 5.0
"""Files that take more seconds than this are listed."""

Pythons = Annotated[
    list[str] | None,
    typer.Option("--python", help="An interpreter that has further readers; the first that has one is used. Repeat."),
]
Programs = Annotated[
    list[str] | None,
    typer.Option("--program", help="NAME@VERSION=PATH of a reader that is a program (benchmarks/drivers). Repeat."),
]


def readers(python: Pythons = None, program: Programs = None, json_file: JsonFile = None) -> None:
    """Load every file of the pack of bad files with every reader that is installed."""
    index = {entry["file"]: entry for entry in json.loads((PACK / "index.json").read_text(encoding="utf-8"))["files"]}
    results, missing = [], []
    for name, words in _commands([sys.executable, *(python or ())], program or ()):
        lines = next((lines for command in words if (lines := _lines(command))), [])
        if not lines:
            missing.append(name)
            print(f"{name}: not installed")
            continue
        results.append(compared(name, lines[0]["version"], lines[1:], index))
        print(f"{name}: {results[-1]['counts']}", flush=True)
    about = {key: value for key, value in machine(1).items() if key in ("cpu", "cores", "python", "system")}
    write_json(
        json_file,
        {"date": datetime.now(UTC).date().isoformat(), "machine": about, "readers": results, "missing": missing},
    )


def _commands(pythons: Sequence[str], programs: Sequence[str]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the name of each reader, with the commands that are tried for it: one for each interpreter."""
    for name in READERS:
        yield name, [[python, str(CHILD), name, str(PACK)] for python in pythons]
    for program in programs:
        name, equals, path = program.partition("=")
        if not (equals and Path(path).is_file()):
            raise typer.BadParameter(f"--program {program} is not NAME@VERSION=PATH of a program")
        yield name, [[sys.executable, str(CHILD), name, str(PACK), str(Path(path).resolve())]]


def _lines(command: list[str]) -> list[dict[str, Any]]:
    """Run a command of one reader and return its lines of JSON; none if its interpreter does not have the reader."""
    environment = os.environ | dict.fromkeys(NAMES, "1") | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    if ended.returncode == 3 or "missing" in (lines or [{}])[0]:
        return []
    if ended.returncode:
        raise typer.BadParameter(f"{' '.join(command[:3])} ended with {ended.returncode}: {ended.stderr[-500:]}")
    return lines


def compared(
    name: str, version: str, answers: Sequence[Mapping[str, Any]], index: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the result of one reader: counts, surprises, outcomes on files that the format leaves open, slow files.

    A surprise is a bad file that it does not refuse, a good one that it does not read, tensors other than those of the
    index, and any outcome but reading and refusing.
    """
    name, _, own = name.partition("@")
    surprises: dict[str, dict[str, Any]] = {}
    taken: dict[str, str] = {}
    slow: dict[str, float] = {}
    for answer in answers:
        entry, outcome = index[answer["file"]], answer["outcome"]
        file = answer["file"].removesuffix(".safetensors")
        more: dict[str, Any] = {"error": _plain(answer["error"])} if "error" in answer else {}
        wanted = entry["tensors"]
        if outcome == "accept" and wanted is not None and name not in NO_TENSORS:
            others = _others(answer["tensors"], wanted)
            outcome, more = ("other", {"found": others}) if others else (outcome, more)
        if entry["verdict"] == "open":
            taken[file.partition("/")[2]] = outcome
        if outcome not in ("accept", "refuse") or (entry["verdict"] != "open" and outcome != entry["verdict"]):
            surprises[file] = {"outcome": outcome} | more
        if answer["seconds"] > SLOW:
            slow[file] = answer["seconds"]
    counts = {
        f"{verdict} {outcome}": sum(
            _outcome(surprises, a) == outcome and index[a["file"]]["verdict"] == verdict for a in answers
        )
        for verdict in ("refuse", "accept")
        for outcome in ("accept", "refuse", "other", "crash", "panic", "memory", "timeout")
    }
    return {
        "reader": name,
        "version": own or version,
        "counts": {key: count for key, count in counts.items() if count},
        "surprises": surprises,
        "open": taken,
        "slow": slow,
    }


def _outcome(surprises: Mapping[str, Mapping[str, Any]], answer: Mapping[str, Any]) -> Any:
    return surprises.get(answer["file"].removesuffix(".safetensors"), answer)["outcome"]


def _plain(error: str) -> str:
    """Return an error without the folder of the pack, which differs from machine to machine."""
    return error.replace(f"{PACK}/", "").replace(str(ROOT), "")[:120]


def _others(tensors: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the differences between a reader's tensors and those of the index, as texts."""
    found, right = ({t["name"]: t for t in listed} for listed in (tensors, wanted))
    texts = [f"{n!r} is missing" for n in right if n not in found] + [f"{n!r} is new" for n in found if n not in right]
    for name in right.keys() & found.keys():
        texts += [
            f"{key} {str(found[name][key])[:60]}, not {str(right[name][key])[:60]}"
            for key in ("dtype", "shape", "bytes")
            if found[name][key] != right[name][key]
        ]
    return sorted(texts)


def readers_page(
    results: Annotated[Path, typer.Argument(help="What `readers --json` wrote.", exists=True, dir_okay=False)],
    markdown: Annotated[Path, typer.Argument(help="The page to write.")],
) -> None:
    """Write the page of bad files from results."""
    from benchmarks.readers_page import page

    index = json.loads((PACK / "index.json").read_text(encoding="utf-8"))
    markdown.write_text(page(json.loads(results.read_text(encoding="utf-8")), index), encoding="utf-8")


assert SECONDS > SLOW
