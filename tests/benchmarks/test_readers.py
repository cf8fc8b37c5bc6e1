"""Readers asked about bad files: crashes, hangs and memory are answers, and the page says what the JSON holds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import readers, readers_child
from benchmarks.readers_page import page

ROOT = Path(__file__).resolve().parents[2]
INDEX = json.loads((readers.PACK / "index.json").read_text(encoding="utf-8"))
FILES = {entry["file"]: entry for entry in INDEX["files"]}


class Panic(BaseException):
    """What a panic of Rust looks like."""


def ends(path):
    raise Panic(path)


def fails(path):
    raise ValueError(path)


def ask(load):
    return readers_child.ask(load, "a.safetensors")


def test_every_way_to_end_is_an_answer(monkeypatch):
    monkeypatch.setattr(readers_child, "SECONDS", 0.5)
    monkeypatch.setattr(readers_child, "MEMORY", 1 << 28)
    assert ask(lambda path: [readers_child.entry("a", "torch.float32", (1,), b"1234")])["tensors"] == [
        {"name": "a", "dtype": "F32", "shape": [1], "bytes": "31323334"}
    ]
    assert ask(fails)["error"] == "ValueError: a.safetensors"
    assert ask(fails)["outcome"] == "refuse"
    assert ask(ends)["outcome"] == "panic"
    assert ask(lambda path: os.kill(os.getpid(), signal.SIGKILL))["error"] == "SIGKILL"
    assert ask(lambda path: os._exit(3))["outcome"] == "crash"
    assert ask(lambda path: time.sleep(9))["outcome"] == "timeout"
    assert ask(lambda path: bytes(1 << 30))["outcome"] == "memory"


def test_a_reader_that_is_not_there_is_named():
    child = [sys.executable, str(readers.CHILD), "fastsafetensors-of-nowhere", str(readers.PACK)]
    assert subprocess.run(child, capture_output=True, check=False).returncode == 1  # KeyError: no such reader is known
    blocked = "import sys; sys.modules['gguf'] = None; sys.argv = ['child', 'gguf', '.']\n"
    blocked += "from benchmarks import readers_child; sys.exit(readers_child.main())"
    ended = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "gguf" in json.loads(ended.stdout)["missing"]


def answers(**other):
    """Answers of a reader that is right about every file, but for those named with the verdict and `__` before."""
    told = {name.replace("__", "/", 1).replace("_", "-") + ".safetensors": answer for name, answer in other.items()}
    assert told.keys() <= FILES.keys()
    for file, entry in FILES.items():
        right = {"outcome": "refuse"} if entry["verdict"] == "refuse" else {"outcome": "accept"}
        if right["outcome"] == "accept":
            right["tensors"] = entry["tensors"] or []
        yield {"file": file, "seconds": 0.1} | right | told.get(file, {})


def test_surprises_are_what_is_neither_right_nor_open():
    other = [{"name": "a", "dtype": "F32", "shape": [2], "bytes": ""}]
    result = readers.compared(
        "one@1.5",
        "",
        list(
            answers(
                refuse__empty_file={"outcome": "crash", "error": "SIGSEGV"},
                refuse__data_cut={"outcome": "accept", "tensors": []},
                accept__plain={"outcome": "accept", "tensors": other},
                accept__scalar={"outcome": "refuse", "error": f"OSError: {readers.PACK}/accept/scalar.safetensors"},
                open__rank_65={"outcome": "refuse", "error": "x", "seconds": 7},
            )
        ),
        FILES,
    )
    assert (result["reader"], result["version"]) == ("one", "1.5")
    assert result["surprises"] == {
        "refuse/empty-file": {"outcome": "crash", "error": "SIGSEGV"},
        "refuse/data-cut": {"outcome": "accept"},
        "accept/plain": {
            "outcome": "other",
            "found": ["'b' is missing", "bytes , not 0000c03f000000c0"],
        },
        "accept/scalar": {"outcome": "refuse", "error": "OSError: accept/scalar.safetensors"},
    }
    assert result["open"]["rank-65"] == "refuse"
    assert result["slow"] == {"open/rank-65": 7}
    verdicts = [entry["verdict"] for entry in FILES.values()]
    assert result["counts"] == {
        "refuse accept": 1,
        "refuse refuse": verdicts.count("refuse") - 2,
        "refuse crash": 1,
        "accept accept": verdicts.count("accept") - 2,
        "accept refuse": 1,
        "accept other": 1,
    }
    text = page(
        {"date": "", "machine": dict.fromkeys(("cpu", "cores", "python"), ""), "readers": [result], "missing": []},
        INDEX,
    )
    assert "| one | 1.5 | 1 | 1 | 1 | 1 |" in text
    assert "| `data-cut` | data that lacks its last byte | all |" in text
    assert "crashed or hung: one." in text


def test_our_reader_is_asked_as_the_others(tmp_path):
    (tmp_path / "plain.safetensors").write_bytes((readers.PACK / "accept/plain.safetensors").read_bytes())
    (tmp_path / "cut.safetensors").write_bytes((readers.PACK / "refuse/data-cut.safetensors").read_bytes())
    ended = subprocess.run(
        [sys.executable, str(readers.CHILD), "seft", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    _, cut, plain = (json.loads(line) for line in ended.stdout.splitlines())
    assert cut["outcome"] == "refuse"
    assert "FMT-121" in cut["error"]
    assert plain["tensors"] == FILES["accept/plain.safetensors"]["tensors"]


def test_the_page_is_made_from_the_results():
    results = ROOT / "docs" / "results"
    made = page(json.loads((results / "bad-files.json").read_text(encoding="utf-8")), INDEX)
    assert (results / "bad-files.md").read_text(encoding="utf-8") == made


@pytest.mark.parametrize("name", ["refuse", "accept", "open"])
def test_the_results_name_files_of_the_pack(name):
    result = json.loads((ROOT / "docs" / "results" / "bad-files.json").read_text(encoding="utf-8"))
    for reader in result["readers"]:
        assert all(f"{file}.safetensors" in FILES for file in reader["surprises"])
        assert sum(count for key, count in reader["counts"].items() if key.startswith(name)) == (
            0 if name == "open" else sum(entry["verdict"] == name for entry in FILES.values())
        )
