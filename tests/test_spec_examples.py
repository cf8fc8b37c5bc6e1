"""The examples of SPEC.md run as they are printed, and print what they say."""

import contextlib
import io
import re
from pathlib import Path

SPEC = (Path(__file__).resolve().parents[1] / "SPEC.md").read_text(encoding="utf-8")


def test_every_example_prints_what_it_says():
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", SPEC, re.DOTALL)
    for block in blocks:
        said = re.findall(r"^print\(.*\)\s+# (.+?)\s*$", block, re.MULTILINE)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "SPEC.md", "exec"), names)
        assert printed.getvalue().split("\n")[:-1] == said, block
        assert said


def test_the_chapters_of_the_method_have_an_example():
    chapters = re.split(r"^## ", SPEC, flags=re.MULTILINE)
    for title in ("2 ", "6", "7", "8", "9", "10", "14"):
        (chapter,) = [c for c in chapters if c.startswith(title.strip() + ".")]
        assert "```python" in chapter, title
    eight = next(c for c in chapters if c.startswith("8."))
    for section in re.split(r"^### ", eight, flags=re.MULTILINE)[1:]:
        assert "```python" in section, section[:20]
