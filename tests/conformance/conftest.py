"""What the tests of the conformance kit share."""

import ctypes
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import seft_ref
from conformance.command import app
from conformance.oracle.second_reader import read

SOURCE = Path(seft_ref.__file__).parents[1] / "seft_ports" / "c" / "seft_read.c"


class CReader:
    """The reader in C: as a loaded library, and as a command line with sanitizers."""

    def __init__(self, library, command):
        self.library, self.command = ctypes.CDLL(str(library)), command

    def judge(self, data):
        """0 or 1, the clause, and what the reader printed; 2 would mean memory past 64 times the file and 16 MiB."""
        clause, lines = ctypes.create_string_buffer(8), ctypes.create_string_buffer(4 * len(data) + 4096)
        size = ctypes.c_size_t(len(data))
        code = self.library.seft_verdict(data, size, clause, lines, ctypes.c_size_t(len(lines)))
        assert code in (0, 1), code
        # strings may hold characters that splitlines would take for ends of lines
        return code, clause.value.decode(), [json.loads(line) for line in lines.value.decode().split("\n")[:-1]]

    def judge_many(self, files, folder):
        """The verdicts of one process with sanitizers: lines of 0 and - or 1 and a clause."""
        for at, data in enumerate(files):
            (folder / str(at)).write_bytes(data)
        (folder / "list").write_text("".join(f"{folder / str(at)}\n" for at in range(len(files))), encoding="utf-8")
        command = [self.command, "--many", folder / "list"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")
        return found.stdout.splitlines()


@pytest.fixture(scope="session")
def c_reader(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler named cc")
    folder = tmp_path_factory.mktemp("c")
    strict = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([*strict, "-O2", "-shared", "-fPIC", "-o", folder / "seft.so", SOURCE], check=True)
    subprocess.run([*strict, *sanitizers, "-o", folder / "seft_read", SOURCE], check=True)
    return CReader(folder / "seft.so", folder / "seft_read")


@pytest.fixture
def try_read(tmp_path):
    def run(raw):
        (tmp_path / "x.seft").write_bytes(raw)
        return read(tmp_path / "x.seft")

    return run


@pytest.fixture
def verify(monkeypatch, capsys):
    """Run tools/verify.py in this process; return (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["verify.py", *map(str, arguments)])
        status = app.main()
        return status, *capsys.readouterr()

    return run
