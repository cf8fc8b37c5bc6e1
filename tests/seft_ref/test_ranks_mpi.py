"""Ranks over MPI answer what threads of one process do, bit for bit (TRN-013)."""

import pickle
import subprocess
import sys

import numpy as np

from tests.mpirun import needs_mpi, together
from tests.seft_ref.threads_as_ranks import on_ranks

SHAPES = [(), (0,), (1,), (2,), (3,), (10_001,), (3, 5), (0, 4), (1, 1, 1)]
ROWS = [(0, 2, 5), (4, 0, 0), (1, 1, 1), (700, 3, 90)]


def answers(ranks):
    """What a rank hears, to questions that depend on it."""
    rng = np.random.default_rng(ranks.rank)
    found = []
    for dtype in (np.float32, np.float64):
        # of many magnitudes: another order of adding up would show
        scale = np.exp(8 * np.random.default_rng(9).normal(size=10_001))
        for shape in SHAPES:
            x = rng.normal(size=shape) * scale[: int(np.prod(shape))].reshape(shape)
            found.append(ranks.sum(np.asarray(x, dtype=dtype)))
        for counts in ROWS:
            rows = rng.normal(size=(7, counts[ranks.rank])).astype(dtype).T
            found.append(ranks.join(rows))
    found.append(ranks.every({"rank": ranks.rank}))
    return found


@needs_mpi
def test_TRN_013_mpi_answers_as_threads_do(tmp_path):
    script = tmp_path / "ask.py"
    script.write_text(
        "import pickle, sys\nfrom seft_ref.ranks import over_mpi\nfrom tests.seft_ref.test_ranks_mpi import answers\n"
        "ranks = over_mpi()\n"
        "pickle.dump(answers(ranks), open(f'{sys.argv[1]}/{ranks.rank}', 'wb'))\n"
    )
    done = together(3, [script, tmp_path])
    assert done.returncode == 0, done.stderr
    expected = on_ranks(3, answers)
    for rank in range(3):
        found = pickle.loads((tmp_path / str(rank)).read_bytes())
        assert len(found) == len(expected[rank]) == 2 * (len(SHAPES) + len(ROWS)) + 1
        assert found[-1] == expected[rank][-1] == [{"rank": r} for r in range(3)]
        for a, b in zip(found[:-1], expected[rank][:-1], strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert a.tobytes() == b.tobytes()


def test_TRN_013_nothing_needs_mpi_until_it_is_asked_for():
    code = "import sys, seft_ref, seft_ref.ranks; assert 'mpi4py' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
