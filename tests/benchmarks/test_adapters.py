"""The benchmark of adapters on a small model: counts by hand, and a way that loses a change is found."""

import importlib
import json

import pytest

SMALL = {"vocab": 40, "hidden": 64, "inner": 96, "values": 16}


@pytest.fixture
def bench(monkeypatch):
    module = importlib.import_module("benchmarks.adapters")
    monkeypatch.setattr(module, "restart_in_clean_environment", lambda threads: None)
    monkeypatch.setattr(module, "SHAPES", module.SHAPES | SMALL)
    return module


def test_every_way_holds_the_changes(bench, tmp_path, capsys):
    bench.adapters(share=0.25, layers=1, json_file=tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    # q, o: 64 x 64; k, v: 16 x 64; gate, up: 96 x 64; down: 64 x 96
    assert (told["matrices"], told["weights"], told["changed"]) == (7, 28672, 7168)
    ways = told["ways"]
    for way in ("delta, amounts of F32", "delta, amounts of BF16, zstd", "Super-Tuning of PEFT"):
        assert ways[way]["held"] == 7168
    # one r for all: 6144 · 0.25 / 160 = 9.6, of rows + columns 2 · 128 + 2 · 80 + 3 · 160
    assert ways["SHiRA of PEFT"]["held"] == 10 * 896
    assert ways["LoRA of PEFT"]["held"] == 8 * 896
    assert ways["Super-Tuning of PEFT"]["bytes"] > 8 * 7168
    assert ways["SHiRA of PEFT"]["bytes"] > 12 * 8960
    assert ways["delta, amounts of BF16"]["bytes"] < ways["delta, amounts of F32"]["bytes"]
    assert "a changed weight" in capsys.readouterr().out


def test_a_way_that_loses_a_change_is_found(bench, monkeypatch):
    module = importlib.import_module("formats.dialects.super_tuning")
    real = module.padded_to

    def turned(*arguments):
        positions, values = real(*arguments)
        return positions, values[::-1]

    monkeypatch.setattr(module, "padded_to", turned)
    with pytest.raises(AssertionError, match=r"Super-Tuning of PEFT does not hold the changes of model\.layers"):
        bench.adapters(share=0.01, layers=1)
