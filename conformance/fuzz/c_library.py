"""The reader in C as a loaded library: compiled once, its memory counted by its own allocator (FMT-096)."""

import ctypes
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "c" / "seft_read.c"

_STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
_ROOM = 1 << 16


class CLibrary:
    """Asks `seft_verdict`.

    Raises:
        FileNotFoundError: if there is no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("needs a C compiler named cc")
        library = folder / "seft.so"
        subprocess.run([compiler, *_STRICT, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        self._verdict = ctypes.CDLL(str(library)).seft_verdict
        self._verdict.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
        self._clause, self._lines = ctypes.create_string_buffer(8), ctypes.create_string_buffer(_ROOM)

    def judge(self, raw: bytes) -> tuple[int, str, list[dict[str, Any]]]:
        """Return 0, 1 or 2, the clause, and the lines that were printed.

        2 stands for memory past 64 times the file and 16 MiB: the reader took it for a number and not for bytes.
        """
        if len(self._lines) < 4 * len(raw) + 4096:
            self._lines = ctypes.create_string_buffer(4 * len(raw) + 4096)
        code = self._verdict(raw, len(raw), self._clause, self._lines, len(self._lines))
        text = self._lines.value.decode() if code == 0 else ""
        # strings may hold characters that splitlines would take for ends of lines
        return code, self._clause.value.decode(), [json.loads(line) for line in text.split("\n")[:-1]]
