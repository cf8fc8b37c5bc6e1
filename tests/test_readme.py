"""The README's tour runs as it is printed, and prints what it says."""

import contextlib
import io
import re
import tomllib
from pathlib import Path

from seft_cli.app import COMMANDS
from tests.seft_ref.folders import CONFIG, TEXT, hf_folder

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_tour_prints_what_it_says():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    said, printed = [], io.StringIO()
    for block in blocks:
        said += re.findall(r"^print\(.*\)\s+# (.+?)\s*$", block, re.MULTILINE)
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README.md", "exec"), names)
    assert printed.getvalue().split("\n")[:-1] == said
    assert said


def test_the_round_runs_in_another_folder(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 12
    hf_folder(tmp_path / "llama", CONFIG | {"max_position_embeddings": 256})
    for name in ("train.txt", "valid.txt"):
        (tmp_path / name).write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("steps=80", "steps=2"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["1", "2", "pruned", "repaired"]
    assert (tmp_path / "repaired-hf" / "config.json").is_file()


def test_the_version_stands_in_the_changelog_with_its_date():
    root = Path(__file__).resolve().parents[1]
    number = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    first = re.search(r"^## (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(number)} \(\d{{4}}-\d\d-\d\d\)", first[1])


def test_every_command_of_the_readme_exists():
    root = Path(__file__).resolve().parents[1]
    for tool in set(re.findall(r"python (tools/\w+\.py)", README)):
        assert (root / tool).is_file(), tool
    for name in set(re.findall(r"^(?:mpirun -n 2 )?seft (\w+)", README, re.MULTILINE)):
        assert name in COMMANDS, name
    targets = re.findall(r"^(\w+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in set(re.findall(r"`make (\w+)", README)):
        assert target in targets, target
