"""Ports of two operations, to start from: `new-port LANGUAGE DIR` copies one. Start with `python/my_port.py`.

Whole ports are in `seft_ports`.
"""

import shutil
from pathlib import Path

from formats.atomic import new_folder

__all__ = ["LANGUAGES", "write"]

HERE = Path(__file__).parent
C_PORT = HERE.parents[1] / "seft_ports" / "c"
SHARED = {"c": ("json.c", "json.h")}
"""Files that a template takes from the port in its language."""
LANGUAGES: dict[str, tuple[str, ...]] = {
    "python": ("seft verify doctor --port-py my_port:Port      # from {folder}, or with it on PYTHONPATH",),
    "c": ("make -C {folder}", 'seft verify doctor --port "{folder}/my_port"'),
    "rust": (
        "cargo build --release --manifest-path {folder}/Cargo.toml",
        'seft verify doctor --port "{folder}/target/release/my_port"',
    ),
    "js": ('seft verify doctor --port "node {folder}/my_port.js"',),
}
"""Languages, and the commands to type after the files are written."""


def write(language: str, folder: Path) -> list[str]:
    """Copy a template, whole or not at all, to a folder that does not exist; return lines that say how to go on."""
    with new_folder(folder) as making:
        ignored = shutil.ignore_patterns("__pycache__", "target")
        shutil.copytree(HERE / language, making, ignore=ignored, dirs_exist_ok=True)
        for name in SHARED.get(language, ()):
            shutil.copy(C_PORT / name, making / name)
    return [f"wrote a port in {language} to {folder}; try it:", *(f"  {c}" for c in commands(language, folder))]


def commands(language: str, folder: Path) -> list[str]:
    """Return the commands that build and examine a template."""
    return [command.format(folder=folder) for command in LANGUAGES[language]]
