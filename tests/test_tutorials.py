"""The commands of tutorials are typed as they stand, and print what the page shows."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.seft_cli.calling import call

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
OLD = ROOT / "tests" / "formats" / "fixtures" / "compressed_tensors" / "0.9.0-sparse-bitmask"


def damage(folder):
    """Leave beside v1 a copy with one changed byte."""
    if not (folder / "v1").is_dir() or (folder / "damaged").exists():
        return
    shutil.copytree(folder / "v1", folder / "damaged")
    (file,) = (folder / "damaged").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def shows(shown, printed):
    """Tell whether printed lines hold the lines of a page in their order; ... stands for anything."""
    rest = iter(printed)
    patterns = [".*".join(map(re.escape, line.split("..."))) for line in shown if line.strip() != "..."]
    return all(any(re.fullmatch(f"{pattern}.*", line.strip()) for line in rest) for pattern in patterns)


@pytest.mark.parametrize("page", ["ship", "rescue"])
def test_commands_print_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD, tmp_path / "old")
    names: dict[str, object] = {}
    typed = 0
    text = (TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, f"{page}.md", "exec"), names)
            capsys.readouterr()
            continue
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = one.splitlines()
            program, name, *arguments = shlex.split(command)
            assert program == "seft"
            damage(tmp_path)
            code, out, err = call(monkeypatch, capsys, name, *arguments)
            assert shows(shown, (out + err).splitlines()), f"{command}\n{out}{err}"
            fails = any(line.startswith("error: ") or line.endswith("1 rule is broken") for line in shown)
            assert bool(code) == fails, command
            typed += 1
    assert typed >= 5


def test_figures_of_the_manual_are_drawn(tmp_path):
    path = ROOT / "docs" / "figures" / "draw.py"
    subprocess.run([sys.executable, path, tmp_path], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert {file.name for file in tmp_path.iterdir()} == {"event.svg", "round.svg"}
