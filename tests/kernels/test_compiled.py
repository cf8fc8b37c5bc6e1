"""Compiled loops are kept on disk, and are compiled anew after an edit of any file that they may be made of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from numba import cfunc, types

import seft_ref
from seft_ref.kernels.cpu.compiled import _CodeFiles
from seft_ref.kernels.cpu.vectors import in_whole_registers

LOOP = """
from seft_ref.kernels.cpu.panels import vectors_for
assert vectors_for(5, 4) == 2
print(sum(vectors_for.stats.cache_hits.values()))
"""


def loaded(house):
    """How often a loop of this copy of the engine came from the cache, when it ran in a new process."""
    places = (house, Path(seft_ref.__file__).parents[1])
    paths = {"PYTHONPATH": os.pathsep.join(map(str, places)), "NUMBA_CACHE_DIR": str(house / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", LOOP], env=os.environ | paths, cwd=house, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_an_edit_of_another_file_of_the_folder_is_compiled(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(seft_ref.__file__).parent, tmp_path / "seft_ref", ignore=ignored)
    assert [loaded(tmp_path), loaded(tmp_path)] == [0, 1]
    path = tmp_path / "seft_ref" / "kernels" / "cpu" / "vectors.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n# edited\n", encoding="utf-8")
    assert loaded(tmp_path) == 0
    path.write_text(text, encoding="utf-8")
    assert loaded(tmp_path) == 1


def test_whole_registers_are_asked_for():
    """Only the pace would tell otherwise."""

    def loop():
        in_whole_registers()

    assert '"prefer-vector-width"="512"' in cfunc(types.void())(loop).inspect_llvm()


class Stale(_CodeFiles):
    """A process that read the index before any other wrote it."""

    def __init__(self, folder):
        super().__init__(str(folder), "loop", "stamp")

    def _load_index(self):
        return {}


def test_processes_that_save_at_once_do_not_take_the_code_of_another(tmp_path):
    """With numba's numbers for files, the index named one signature and its file held the code of the other."""

    class First(Stale):
        def _save_data(self, name, data):
            Stale(tmp_path).save("float64", "code for float64")
            super()._save_data(name, data)

    First(tmp_path).save("float32", "code for float32")
    files = _CodeFiles(str(tmp_path), "loop", "stamp")
    assert files.load("float32") == "code for float32"
    assert files.load("float64") in (None, "code for float64")
