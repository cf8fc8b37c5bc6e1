"""What bounds a product: every row is timed, and the loop that it times computes what it should."""

import json

import numpy as np

from benchmarks import bounds, chains
from seft_ref.kernels.cpu.panels import run


def test_bounds_times_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bounds, "restart_in_clean_environment", lambda threads: None)
    bounds.bounds(json_file=tmp_path / "bounds.json", n_rounds=1, work=0.001)
    rows = json.loads((tmp_path / "bounds.json").read_text())["rows"]
    assert len(rows) in (5, 6)
    assert all(row["billions"] > 0 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_a_chain_makes_as_many_multiply_adds_as_it_says():
    """Each adds 1 · 1 to a sum; a row adds each of its products once for each repeat."""
    lines = np.ones(64 * 128, dtype=np.float32)
    for task in (chains.from_registers, chains.from_memory):
        sums = np.zeros(256, dtype=np.float32)
        run(task, (lines, sums, 3), 1, 1)
        assert sums.tolist() == [3.0] * 256
    sums = np.zeros(256, dtype=np.float32)
    values, index = np.array([2.0, 3.0], dtype=np.float32), np.array([0, 63], dtype=np.uint8)
    run(chains.of_one_row, (values, index, 2, lines, sums, 4), 1, 1)
    assert sums.tolist() == [20.0] * 128 + [0.0] * 128
