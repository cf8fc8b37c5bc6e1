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


def test_a_section_that_describes_operations_has_five_headings_in_order_and_an_example_that_runs():
    """Chapters without operations are skipped: how to read (1), the format (12), tables (14, 15) and the kit (16)."""
    chapters = re.split(r"^## (?=[0-9])", SPEC, flags=re.MULTILINE)[1:]
    numbers = [int(chapter.split(".")[0]) for chapter in chapters]
    assert numbers == list(range(1, 20))
    checked = 0
    for number, chapter in zip(numbers, chapters, strict=True):
        if number in (1, 12, 14, 15, 16):
            continue
        sections = re.split(r"^### ", chapter, flags=re.MULTILINE)
        for section in sections[1:] or sections:
            title = section.partition("\n")[0]
            found = re.findall(r"^\*\*(Semantics|Inputs|Outputs|Constraints|Examples)\.\*\*", section, re.MULTILINE)
            assert found == ["Semantics", "Inputs", "Outputs", "Constraints", "Examples"], (number, title)
            assert "```python" in section, title
            checked += 1
    assert checked > 20
