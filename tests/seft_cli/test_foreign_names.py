"""What a file says is shown, and never obeyed: markup, escape sequences, halves of surrogate pairs, forged lines."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import formats
from conformance.report.visible import visible
from formats.dialects.hf import write_hf
from formats.dialects.stock import outline
from tests.formats.conftest import apart
from tests.seft_cli.calling import call

HOSTILE = ["w[/x]", "[bold]b[/bold]", "c:smile:", "d\u202ed", "e\x9b2J", "[link=file:///etc]f"]
"""Names that FMT-009 allows, and that a terminal or a library of markup would act on."""


@pytest.fixture
def cli(monkeypatch, capfd):
    """As every test's, with what other programs print."""
    return lambda name, *arguments: call(monkeypatch, capfd, name, *arguments)


def is_safe(text):
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.fixture
def named(tmp_path):
    """A checkpoint whose tensors, ties and attributes have hostile names."""
    matrix = np.eye(3, dtype=np.float32)
    tensors = {name: formats.from_dense(matrix) for name in HOSTILE}
    attributes = {"[/red]": "x\x1b[2Jy", "\x1b]0;owned\x07": ["[/]"]}
    checkpoint = formats.Checkpoint("model", tensors, attributes, {"tied[/y]": HOSTILE[0]})
    formats.write(tmp_path / "m[/z]", checkpoint)
    return tmp_path / "m[/z]"


def test_FMT_167_show_prints_every_name_as_it_is(cli, named):
    code, out, err = cli("show", named)
    assert code == 0, err
    assert is_safe(out)
    for name in (*map(visible, HOSTILE), "tied[/y] is w[/x]", "[/red]: x\\x1b[2Jy", "m[/z]"):
        assert name in out, name
    assert cli("show", named, "--digests")[0] == 0


def test_FMT_167_json_is_ascii_and_holds_every_name(cli, named):
    code, out, _ = cli("show", named, "--json")
    assert code == 0
    assert is_safe(out)
    assert out.isascii()
    assert sorted(json.loads(out)["tensors"]) == sorted(HOSTILE)


def test_FMT_167_convert_names_what_it_leaves_out_and_where_it_writes(cli, named, tmp_path):
    code, out, err = cli("convert", named, tmp_path / "out[/a]", "--to", "hf")
    assert code == 0, err
    assert "[/red]" in err
    assert "out[/a]: " in out
    assert is_safe(out + err)


def test_FMT_167_long_names_are_folded_and_none_is_cut(cli, tmp_path):
    name = "x" * 500
    formats.write(tmp_path / "m", formats.Checkpoint("model", {name: formats.Dense(np.zeros(2, np.float32))}))
    _, out, _ = cli("show", tmp_path / "m")
    assert out.count("x") >= 500
    assert "\u2026" not in out


def test_FMT_167_an_error_shows_a_path_in_one_line(cli, tmp_path):
    code, out, err = cli("show", tmp_path / "a\x1b[31m\nerror: b[/x]")
    assert code == 2
    assert not out
    assert err.count("\n") == 1
    assert is_safe(err)
    assert "b[/x]" in err


@pytest.mark.parametrize("as_json", [False, True])
def test_FMT_167_check_lists_a_manifest_with_half_a_surrogate_pair(cli, tmp_path, as_json):
    formats.write_file(tmp_path / "m.x", formats.Checkpoint("model", {"w": formats.from_dense(np.eye(3, dtype="f4"))}))
    pieces = apart((tmp_path / "m.x").read_bytes())
    entry = pieces.manifest["tensors"].pop("w")
    pieces.manifest["tensors"] |= {"\ud800": entry, "a\x1b[2J": {}, "\n./: no rule is broken": 1}
    text = json.dumps(pieces.manifest)
    pieces.of_header.append(lambda header: header["__metadata__"].update({"seft.manifest": text}))
    (tmp_path / "bad.x").write_bytes(pieces.pack())
    code, out, err = cli("check", tmp_path / "bad.x", *(["--json"] if as_json else []))
    assert code == 1, err
    assert is_safe(out)
    assert "\\ud800" in out
    assert not any(line.startswith("./") for line in out.splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes")
def test_FMT_167_a_file_name_that_is_no_utf8_is_shown(cli, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.sparse"))
    path.write_bytes(b"short")
    code, out, err = cli("check", path)
    assert code == 1, err
    assert "\\udcff.sparse" in out


def test_FMT_167_progress_shows_names(cli, tmp_path, monkeypatch):
    tools = importlib.import_module("seft_cli.console")
    with tools.progress("pruning [/x]", 1) as advance:
        advance("w[/y]\x1b[2J")


def test_FMT_167_show_of_a_hugging_face_folder(cli, tmp_path):
    names = [*HOSTILE, "g\x07"]
    write_hf(tmp_path / "hf", [outline(n, "F32", (2,)) for n in names], lambda n: np.zeros(2, np.float32), {})
    code, out, err = cli("show", tmp_path / "hf")
    assert code == 0, err
    assert is_safe(out)
    assert all(visible(name) in out for name in names)


def test_visible_keeps_what_is_harmless_and_names_the_rest():
    assert visible("é 漢 \u00a0 a\\n") == "é 漢 \u00a0 a\\n"
    hidden = "\x00\x1b\x7f\x9b\u061c\u200b\u200e\u2028\u202e\u2066\ufeff\ud800\udfff\ufffe\U000e0001\r\n\t"
    assert visible(hidden).isascii()
    assert visible(hidden).isprintable()
    assert visible("a\nb\tc", keep="\n\t") == "a\nb\tc"
