"""The reader in C, built twice: as a library with a limit on memory, and as a command with sanitizers (FMT-096)."""

import ctypes
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "seft_ports" / "c" / "seft_read.c"

_STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
_SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_ROOM = 1 << 16


def _compile(target: Path, *flags: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("needs a C compiler named cc")
    subprocess.run([compiler, *_STRICT, *flags, "-o", target, SOURCE], check=True)
    return target


class CLibrary:
    """The reader in C as a shared library, called through `seft_verdict`.

    Raises:
        FileNotFoundError: if there is no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        library = _compile(folder / "seft.so", "-O2", "-shared", "-fPIC")
        self._verdict = ctypes.CDLL(str(library)).seft_verdict
        self._verdict.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
        self._clause, self._lines = ctypes.create_string_buffer(8), ctypes.create_string_buffer(_ROOM)

    def judge(self, raw: bytes) -> tuple[int, str, list[dict[str, Any]]]:
        """Return the status, the clause of a refusal, and the JSON lines that describe an accepted file.

        The status is 0 if the file is read and 1 if it is refused.
        It is 2 if the reader asks for more memory than 64 times the file and 16 MiB.
        """
        if len(self._lines) < 4 * len(raw) + 4096:
            self._lines = ctypes.create_string_buffer(4 * len(raw) + 4096)
        code = self._verdict(raw, len(raw), self._clause, self._lines, len(self._lines))
        text = self._lines.value.decode() if code == 0 else ""
        # not splitlines, because strings may hold other characters that it splits at
        return code, self._clause.value.decode(), [json.loads(line) for line in text.split("\n")[:-1]]


# lifts the limit on memory for the child process, because sanitizers map far more memory than they use
_UNBOUNDED = ("sh", "-c", 'ulimit -S -d "$(ulimit -H -d)"; exec "$0" "$@"')


class CCommand:
    """The reader in C, compiled with sanitizers, so that it aborts at the first access outside its memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "many"
        self._folder.mkdir()
        self._command = _compile(folder / "seft_read", *_SANITIZERS)

    def complaint(self, inputs: Sequence[bytes], clauses: Sequence[str]) -> tuple[int, str] | None:
        """Return index and error text of the first input that crashes, or that does not get its clause in `clauses`.

        Returns None if there is no such input.
        """
        answers, errors = self._run(inputs)
        expected = [f"1 {clause}" if clause else "0 -" for clause in clauses]
        if answers == expected and not errors:
            return None
        for number, (raw, line) in enumerate(zip(inputs, expected, strict=True)):
            answers, errors = self._run([raw])
            if answers != [line] or errors:
                return number, f"{answers} for {line!r}: {errors[:1000]}"
        return len(inputs) - 1, "only the inputs before this one together with it"

    def _run(self, inputs: Sequence[bytes]) -> tuple[list[str], str]:
        paths = [self._folder / str(number) for number in range(len(inputs))]
        for path, raw in zip(paths, inputs, strict=True):
            path.write_bytes(raw)
        listed = self._folder / "list"
        listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        command: list[str | Path] = [*_UNBOUNDED, self._command, "--many", listed]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.splitlines(), done.stderr
