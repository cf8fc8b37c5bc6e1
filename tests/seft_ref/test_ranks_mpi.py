"""Ranks over MPI answer what threads of one process do, bit for bit (TRN-013)."""

import pickle
import subprocess
import sys
from pathlib import Path

import array_api_strict
import numpy as np

import seft_ref.arrays.ranks
from seft_ref.arrays.library import to_numpy
from tests.mpirun import needs_mpi, together
from tests.seft_ref.pending_arrays import Pending
from tests.seft_ref.threads_as_ranks import on_ranks

SHAPES = [(), (0,), (1,), (2,), (3,), (10_001,), (3, 5), (0, 4), (1, 1, 1)]
ROWS = [(0, 2, 5), (4, 0, 0), (1, 1, 1), (700, 3, 90)]


PLACES = {
    "host": lambda x: x,
    "foreign": lambda x: array_api_strict.asarray(x, device=array_api_strict.Device("device1")),
    "gpu": Pending.of,
    "unaware": Pending.of,
    "hasty": Pending.of,
}
"""Where the arrays are. MPI reaches those of `gpu`; `hasty` does too, and does not wait for the device."""


def answers(ranks, there=PLACES["host"]):
    """What a rank hears, to questions that depend on it."""
    rng = np.random.default_rng(ranks.rank)
    found = []
    for dtype in (np.float32, np.float64):
        # of many magnitudes: another order of adding up would show
        scale = np.exp(8 * np.random.default_rng(9).normal(size=10_001))
        for shape in SHAPES:
            x = rng.normal(size=shape) * scale[: int(np.prod(shape))].reshape(shape)
            found.append(to_numpy(ranks.sum(there(np.asarray(x, dtype=dtype)))))
        for counts in ROWS:
            rows = rng.normal(size=(7, counts[ranks.rank])).astype(dtype).T
            found.append(to_numpy(ranks.join(there(rows))))
    found.append(ranks.every({"rank": ranks.rank}))
    return found


def ask(folder):
    """Write down what a process hears, with its arrays in every place in turn."""
    from mpi4py import MPI

    found = {}
    for place, there in PLACES.items():
        # the last one, so that the others wait
        if place == "hasty":
            seft_ref.arrays.ranks.computed = lambda x: x
        ranks = seft_ref.arrays.ranks.Mpi(MPI.COMM_WORLD, direct=place in ("gpu", "hasty"))
        found[place] = answers(ranks, there)
    (Path(folder) / str(ranks.rank)).write_bytes(pickle.dumps(found))


@needs_mpi
def test_TRN_013_mpi_answers_as_threads_do(tmp_path):
    script = tmp_path / "ask.py"
    script.write_text("import sys\nfrom tests.seft_ref.test_ranks_mpi import ask\nask(*sys.argv[1:])\n")
    done = together(3, [script, tmp_path])
    assert done.returncode == 0, done.stderr
    expected = on_ranks(3, answers)
    wrong = dict.fromkeys(PLACES, 0)
    for rank in range(3):
        heard = pickle.loads((tmp_path / str(rank)).read_bytes())
        assert list(heard) == list(PLACES)
        for place, found in heard.items():
            assert len(found) == len(expected[rank]) == 2 * (len(SHAPES) + len(ROWS)) + 1
            assert found[-1] == expected[rank][-1] == [{"rank": r} for r in range(3)]
            for a, b in zip(found[:-1], expected[rank][:-1], strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype), place
                wrong[place] += a.tobytes() != b.tobytes()
    assert {place for place, n in wrong.items() if n} == {"hasty"}


@needs_mpi
def test_TRN_013_what_no_mpi_says_of_gpus_is_no():
    code = (
        "import _ctypes, seft_ref.arrays.ranks as r; print(r.over_mpi()._direct, "
        "r._reaches_gpus(_ctypes.__file__), r._reaches_gpus('no-such-library.so'))"
    )
    done = together(1, ["-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["False", "False"]


def test_TRN_013_nothing_needs_mpi_until_it_is_asked_for():
    code = "import sys, seft_ref, seft_ref.arrays.ranks; assert 'mpi4py' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
