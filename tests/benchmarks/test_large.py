"""The benchmark of a large model, on a small one: its checkpoint is one of ours, and its steps are a run's."""

import importlib
import json

import numpy as np
import pytest

import formats

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2} | {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture
def bench(monkeypatch):
    module = importlib.import_module("benchmarks.large")
    monkeypatch.setitem(module.SHAPES, "1b", module.SHAPES["1b"] | SMALL)
    return module


def test_a_made_up_model_takes_a_step_and_an_event(bench, tmp_path, capsys):
    bench._make("1b", tmp_path / "model", "")
    with formats.open(tmp_path / "model") as source:
        made = source["model.layers.1.mlp.up_proj.weight"]
    assert made.values.dtype.name == "bfloat16"
    assert 0.2 < len(made.values) / (16 * 24) < 0.4
    bench._train(tmp_path / "model", 8, 0.25, tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    assert [stage["stage"] for stage in told["stages"]] == ["load, first positions", "step", "step with event"]
    assert told["event"]["support"] == told["stored_weights"]
    assert told["event"]["grown"] > 0
    assert np.isfinite(told["losses"]).all()
    assert "step with event" in capsys.readouterr().out


@pytest.mark.parametrize("grid", ["", "int4:g8"])
def test_the_same_model_is_made_every_time(bench, tmp_path, grid):
    for name in ("a", "b"):
        bench._make("1b", tmp_path / name, grid)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_made_up_model_of_codes_takes_a_step_and_an_event(bench, tmp_path):
    bench._make("1b", tmp_path / "model", "int4")
    bench._train(tmp_path / "model", 8, 0.25, tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["event"]["support"] == told["stored_weights"]
    assert np.isfinite(told["losses"]).all()
