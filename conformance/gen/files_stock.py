"""Write the pack of bad safetensors files, conformance/badfiles, or check it. A bad file breaks one rule.

    python -m conformance.gen.files_stock            write it
    python -m conformance.gen.files_stock --check    compare it byte for byte

The files come from files_stock_bytes, files_stock_entries and files_stock_open, their twins from files_stock_good.
"""

import json
import shutil
import sys
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from conformance.gen import files_stock_bytes, files_stock_entries, files_stock_good, files_stock_open
from conformance.gen.files_stock_parts import COMMIT, SOURCES, File

PACK = Path(__file__).resolve().parents[1] / "badfiles"
VERDICTS = ("accept", "refuse", "open")


def files() -> list[File]:
    """Return every file of the pack, in the order of its index."""
    parts = (files_stock_good, files_stock_bytes, files_stock_entries, files_stock_open)
    return list(chain.from_iterable(part.files() for part in parts))


def index() -> dict[str, Any]:
    """Return the content of index.json."""
    return {
        "format": f"safetensors, README.md and docs/safetensors.schema.json at commit {COMMIT}",
        "licence": "Apache-2.0",
        "verdicts": {
            "accept": "the file keeps every rule of the format",
            "refuse": "the file breaks one rule of the format, and its twin does not",
            "open": "the format does not say, or its texts contradict each other",
        },
        "sources": {key: {"text": text, "where": place} for key, (text, place) in SOURCES.items()},
        "files": [_entry(file) for file in files()],
    }


def _entry(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file": file.path,
        "verdict": file.verdict,
        "rule": file.rule,
        "sources": list(file.cites),
        "twin": _twin(file.twin),
        "sha256": sha256(file.raw).hexdigest(),
        "tensors": None if file.tensors is None else list(file.tensors),
        "seft_clauses": (file.clause or "").split(),
    }
    return entry | ({"note": file.note} if file.note else {})


def _twin(name: str | None) -> str | None:
    if name is None:
        return None
    return f"{name}.safetensors" if "/" in name else f"accept/{name}.safetensors"


def content() -> dict[str, bytes]:
    """Return path -> bytes of all that the command writes: the index and the files."""
    lines = json.dumps(index(), indent=1, ensure_ascii=True) + "\n"
    return {"index.json": lines.encode()} | {file.path: file.raw for file in files()}


def main() -> int:
    """Write the pack, or check it; return 1 if a file differs, is missing or is there in excess."""
    expected = content()
    if "--check" in sys.argv[1:]:
        there = {path.relative_to(PACK).as_posix(): path for path in PACK.rglob("*") if path.is_file()}
        there.pop("README.md", None)
        wrong = [name for name, raw in expected.items() if name not in there or there[name].read_bytes() != raw]
        wrong += sorted(there.keys() - expected.keys())
        for name in wrong:
            print(
                f"badfiles/{name} is not what the generator writes; run python -m conformance.gen.files_stock and look"
            )
        return 1 if wrong else 0
    for verdict in VERDICTS:
        shutil.rmtree(PACK / verdict, ignore_errors=True)
        (PACK / verdict).mkdir(parents=True)
    for name, raw in expected.items():
        (PACK / name).write_bytes(raw)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
