"""The benchmark of layer sets on a small model: what is told, and a set that differs is found."""

import importlib
import json

import pytest

SMALL = {"vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}


@pytest.fixture
def bench(monkeypatch):
    module = importlib.import_module("benchmarks.layers")
    monkeypatch.setattr(module, "restart_in_clean_environment", lambda threads: None)
    monkeypatch.setattr(importlib.import_module("benchmarks.rounds"), "BLOCK_SECONDS", 0.0)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(module, "CONFIG", module.CONFIG | SMALL | {"num_key_value_heads": 1})
    monkeypatch.setattr(module, "LENGTH", 8)
    return module


def test_every_layer_and_a_step_are_told(bench, tmp_path, capsys):
    bench.layers(n_rounds=2, blocks=1, json_file=tmp_path / "told.json")
    rows = json.loads((tmp_path / "told.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["rmsnorm", "rope", "swiglu", "attention", "cross_entropy", "step"]
    assert all(row["range"][0] <= row["ratio"] <= row["range"][1] for row in rows)
    assert "step             plain " in capsys.readouterr().out


def test_a_set_that_differs_is_found(bench, monkeypatch):
    compiled = importlib.import_module("seft_ref.layers.compiled")
    monkeypatch.setattr(compiled, "rope_backward", lambda dy, cache: dy)
    with pytest.raises(SystemExit, match="the compiled layers differ"):
        bench.layers(n_rounds=1, blocks=1)
