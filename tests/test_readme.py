"""The README's tour runs as it is printed, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

from seft_cli.app import COMMANDS

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


def test_every_command_of_the_readme_exists():
    root = Path(__file__).resolve().parents[1]
    for tool in set(re.findall(r"python (tools/\w+\.py)", README)):
        assert (root / tool).is_file(), tool
    for name in set(re.findall(r"^(?:mpirun -n 2 )?seft (\w+)", README, re.MULTILINE)):
        assert name in COMMANDS, name
    targets = re.findall(r"^(\w+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in set(re.findall(r"`make (\w+)", README)):
        assert target in targets, target
