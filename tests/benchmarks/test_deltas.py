"""The benchmark of deltas on a small model: every way arrives, and one that does not is found."""

import importlib
import json

import numpy as np
import pytest

SMALL = {"vocab": 40, "hidden": 16, "inner": 24, "values": 8}


@pytest.fixture
def bench(monkeypatch):
    module = importlib.import_module("benchmarks.deltas")
    monkeypatch.setattr(module, "restart_in_clean_environment", lambda threads: None)
    monkeypatch.setattr(module, "SHAPES", module.SHAPES | SMALL)
    return module


def test_steps_are_shipped_by_every_way(bench, tmp_path, capsys):
    bench.deltas(steps=2, share=0.05, layers=1, json_file=tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    sizes = bench.shapes(bench.SHAPES | {"layers": 1})
    assert told["bytes"] == 2 * sum(rows * (columns[0] if columns else 1) for rows, *columns in sizes.values())
    assert {way: len(rows) for way, rows in told["ways"].items()} == dict.fromkeys(bench.WAYS, 2)
    for rows in told["ways"].values():
        halves = {f"{half}{what}" for half in bench.HALVES for what in ("", " cpu", " kernel")}
        assert {key for row in rows for key in row} == {"bytes", *halves}
        assert all(0 <= row[f"{half} kernel"] <= row[f"{half} cpu"] for row in rows for half in bench.HALVES)
    assert told["at once"]["receive cpu"] > 0
    assert "all 2 deltas at once" in capsys.readouterr().out
    assert told["largest tensor"] == 2 * SMALL["vocab"] * SMALL["hidden"]
    assert told["memory"].keys() == set(bench.HALVES)
    assert all(0 < memory["allocated"] < 2**30 for memory in told["memory"].values())


def test_memory_is_that_of_the_arrays_and_not_of_the_process_that_asks(bench, tmp_path):
    """What a process held before it started another one counts for that one in ru_maxrss."""
    model = bench.Shipped(tmp_path, bench.SHAPES | {"layers": 1, "vocab": 1 << 14, "hidden": 1 << 10}, 0.003)
    model.step()
    bench.send_delta(tmp_path, tmp_path / "last")
    held = np.ones(2**26)
    memory = bench.peaks(tmp_path)
    largest = max(bits.nbytes for bits in model.bits.values())
    assert all(told["resident"] < held.nbytes for told in memory.values())
    # a sender compares the mapped files block by block; a receiver changes a copy of each tensor
    assert memory["send"]["allocated"] < largest
    assert largest < memory["receive"]["allocated"] < 1.5 * largest


def test_steps_of_a_sparse_model_are_shipped_as_deltas(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "peaks", lambda root: {half: {"allocated": 0} for half in bench.HALVES})
    bench.deltas(steps=2, share=0.05, layers=1, sparsity=0.5, json_file=tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    assert {way: len(rows) for way, rows in told["ways"].items()} == {"delta": 2, "delta, compressed": 2}
    model = bench.Shipped(tmp_path / "again", bench.SHAPES | {"layers": 1}, 0.05, 0.5)
    assert len(model.stored) == 7
    with bench.opened(model.root / "after") as before:
        supports = {name: before.tensors[name].indices.copy() for name in model.stored}
    model.step()
    with bench.opened(model.root / "after") as after:
        for name, indices in supports.items():
            assert np.array_equal(after.tensors[name].indices, indices), "a step leaves supports as they are"


def test_a_zero_that_was_drawn_is_not_a_stored_weight(bench, tmp_path, monkeypatch):
    class Zeros(np.random.Generator):
        def standard_normal(self, shape, dtype):
            return np.where(super().random(shape) < 0.5, -0.0, super().standard_normal(shape)).astype(dtype)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Zeros(np.random.PCG64(seed)))
    model = bench.Shipped(tmp_path, bench.SHAPES | {"layers": 1}, 0.05, 0.5)
    model.step()
    bench.shipped_by(model, "delta", 0)


def test_a_way_that_loses_a_change_is_found(bench, tmp_path, monkeypatch):
    model = bench.Shipped(tmp_path, bench.SHAPES | {"layers": 1}, 0.05)
    model.step()
    monkeypatch.setattr(bench, "send_xor", lambda model, out: out.write_bytes(zeros(model)))
    with pytest.raises(AssertionError, match="zstd of xor does not lead"):
        bench.shipped_by(model, "zstd of xor", 0)


def zeros(model):
    import zstandard

    size = (model.root / "after" / "model.safetensors").stat().st_size
    return zstandard.ZstdCompressor().compress(bytes(size))
