"""docs/reference/json.md says what the tools tell as JSON: these keys, of these types, and no others."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import formats
from formats import delta
from tests.seft_cli.calling import call
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
TYPES = {
    "string": lambda x: isinstance(x, str),
    "integer": lambda x: type(x) is int,
    "number": lambda x: type(x) in (int, float),
    "object": lambda x: isinstance(x, dict),
    "integer or null": lambda x: x is None or type(x) is int,
    "number or null": lambda x: x is None or type(x) in (int, float),
    "object or null": lambda x: x is None or isinstance(x, dict),
    "array of strings": lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
    "integer or string": lambda x: type(x) is int or isinstance(x, str),
    "array of numbers": lambda x: isinstance(x, list) and all(type(y) in (int, float) for y in x),
    "array of booleans": lambda x: isinstance(x, list) and all(type(y) is bool for y in x),
    "array of integers": lambda x: isinstance(x, list) and all(type(y) is int for y in x),
    "array of objects": lambda x: isinstance(x, list) and all(isinstance(y, dict) for y in x),
}


def tables(schema):
    """Return the tables under a heading of the page: key -> (type, when it is there)."""
    (section,) = re.findall(rf"^## `{schema}`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^\| key[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", section, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()] for table in found]
    return [{key.strip("`"): (kind, there) for key, kind, there, _ in table} for table in rows]


def assert_as_told(found, table, *when):
    wanted = {key for key, (_, there) in table.items() if there in ("always", *when)}
    assert set(found) == wanted
    for key, value in found.items():
        assert TYPES[table[key][0]](value), key


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command; return (exit code, stdout)."""
    return lambda name, *arguments: call(monkeypatch, capsys, name, *arguments)[:2]


def models():
    eye = np.eye(9, dtype=np.float32)
    tensors = {"w": formats.from_dense(eye), "v": formats.Dense(eye[0]), "m": formats.from_flat((9, 9), np.arange(3))}
    return (formats.Checkpoint("model", tensors | {"w": formats.from_dense(eye * n)}, {"a": 1}) for n in (1, 2))


def test_show_prints_what_the_page_says(cli, tmp_path):
    of_all, of_tensor = tables("seft.show/1")
    before, after = models()
    formats.write(tmp_path / "model", before)
    formats.write(tmp_path / "delta", delta.diff(before, after))
    for name, when in (("model", ("sparse",)), ("delta", ("sparse", "delta"))):
        for more in ((), ("--digests",)):
            code, out = cli("show", tmp_path / name, "--json", *more)
            told = json.loads(out)
            assert (code, told["schema"]) == (0, "seft.show/1")
            assert_as_told(told, of_all, *when)
            for tensor in told["tensors"].values():
                assert_as_told(tensor, of_tensor, *when, *(f"`{option}`" for option in more))
    told = json.loads(cli("show", hf_folder(tmp_path / "hf"), "--json")[1])
    assert_as_told(told, of_all)
    assert told["kind"] in PAGE
    for tensor in told["tensors"].values():
        assert_as_told(tensor, of_tensor)


def test_check_prints_what_the_page_says(cli, tmp_path):
    of_all, of_rule = tables("seft.check/1")
    formats.write(tmp_path / "m", next(models()))
    code, out = cli("check", tmp_path / "m", "--json")
    assert code == 0
    assert_as_told(json.loads(out), of_all)
    assert json.loads(out)["broken"] == []
    part = tmp_path / "m" / "model.sparse.safetensors"
    raw = bytearray(part.read_bytes())
    raw[-1] ^= 1
    part.write_bytes(bytes(raw))
    code, out = cli("check", tmp_path / "m", "--json")
    told = json.loads(out)
    assert (code, told["schema"], told["path"]) == (1, "seft.check/1", str(tmp_path / "m"))
    assert told["broken"]
    for rule in told["broken"]:
        assert_as_told(rule, of_rule)
        assert rule["message"].startswith(rule["clause"])
    assert cli("check", tmp_path / "absent", "--json") == (2, "")


def test_finetune_writes_what_the_page_says(cli, tmp_path):
    of_all, of_step, of_measurement = tables("seft.finetune/1")
    (tmp_path / "text").write_text(TEXT)
    shape = ("--text", tmp_path / "text", "--length", 16, "--batch", 2, "--steps", 4, "--evolve-every", 2)
    command = ("finetune", sparse_folder(tmp_path / "m"), tmp_path / "out", *shape, "--json", tmp_path / "run.json")
    valid = ("--valid", tmp_path / "text", "--valid-every", 2)
    for more, steps, when in (
        (("--stop-after", 2), [1, 2], ()),
        (("--resume", "--stop-after", 2), [], ()),
        (("--resume",), [3, 4], ("ended",)),
        (valid, [1, 2, 3, 4], ("ended", "measured")),
    ):
        if more == valid:
            command = (*command[:2], tmp_path / "another", *command[3:])
        assert cli(*command, *more)[0] == 0
        told = json.loads((tmp_path / "run.json").read_text())
        (tmp_path / "run.json").unlink()
        assert told["schema"] == "seft.finetune/1"
        assert_as_told(told, of_all, *when)
        assert [step["step"] for step in told["records"]] == steps
        for step in told["records"]:
            assert_as_told(step, of_step)
        for measurement in told.get("validation", ()):
            assert_as_told(measurement, of_measurement)
    assert [one["step"] for one in told["validation"]] == [2, 4]


def test_eval_writes_what_the_page_says(cli, tmp_path):
    (of_all,) = tables("seft.eval/1")
    (tmp_path / "text").write_text(TEXT)
    options = ("--text", tmp_path / "text", "--length", 16, "--whole", "--json", tmp_path / "eval.json")
    assert cli("eval", sparse_folder(tmp_path / "m"), *options)[0] == 0
    told = json.loads((tmp_path / "eval.json").read_text())
    assert told["schema"] == "seft.eval/1"
    assert_as_told(told, of_all)
