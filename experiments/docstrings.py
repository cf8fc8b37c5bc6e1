"""Write the text of a task shift: the docstrings of Python's standard library, every seventh module for validation.

python -m experiments.docstrings FOLDER        FOLDER/train.txt and FOLDER/valid.txt

Another Python has other docstrings, so the pages name the version, and results name a digest of the tokens.
"""

import ast
import sys
import sysconfig
from pathlib import Path

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"}
"""Folders that are left out: tests, programs, and packages outside the standard library."""
EVERY = 7
"""The first of every so many modules with docstrings is held out."""


def docstrings_of(source: str) -> list[str]:
    """Return the docstrings of a module, its classes and its functions; none if it does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    with_text = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, with_text) and (text := ast.get_docstring(node))]


def texts_of(root: Path) -> tuple[str, str]:
    """Return a training and a validation text: the docstrings of the modules below a folder, in the order of paths."""
    modules: list[str] = []
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED.intersection(path.relative_to(root).parts[:-1]):
            try:
                found = docstrings_of(path.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                continue
            modules += ["\n\n".join(found)] if found else []
    held = modules[::EVERY]
    rest = [text for number, text in enumerate(modules) if number % EVERY]
    return "\n\n".join(rest) + "\n", "\n\n".join(held) + "\n"


def main(folder: Path) -> None:
    """Write both texts into a folder."""
    folder.mkdir(exist_ok=True)
    train, valid = texts_of(Path(sysconfig.get_paths()["stdlib"]))
    (folder / "train.txt").write_text(train, encoding="utf-8")
    (folder / "valid.txt").write_text(valid, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
