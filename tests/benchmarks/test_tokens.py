"""The tokens a second of a small model: all methods are timed, wrong logits found, and llama.cpp's file is right."""

import importlib
import itertools
import json

import numpy as np
import pytest

import formats
from formats.dialects.gguf_file import open_gguf

_PROJECTION = "model.layers.0.self_attn.{}_proj.weight"
TINY = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def bench(monkeypatch):
    module = importlib.import_module("benchmarks.tokens")
    monkeypatch.setattr(module, "restart_in_clean_environment", lambda threads: None)
    monkeypatch.setattr(module, "SHAPES", {"tiny": module.CONFIG | TINY})
    monkeypatch.setattr(module, "CODES", ("int4:g32",))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    return module


@pytest.mark.parametrize(("sparsity", "beside"), [(0.3, False), (0.7, True)])
def test_every_method_is_timed(bench, tmp_path, capsys, monkeypatch, sparsity, beside):
    """Below 45 % matrices are dense, and their sums have another order than those of codes."""
    pytest.importorskip("transformers")
    if not beside:
        # a process more takes seconds to begin
        monkeypatch.setattr(bench, "Beside", lambda build, *arguments: build(*arguments))
    bench.tokens(shape="tiny", sparsity=sparsity, count=2, n_rounds=1, json_file=tmp_path / "tokens.json")
    rows = json.loads((tmp_path / "tokens.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        *("torch float32", "torch bfloat16", "ours float32", "ours bfloat16", "ours int4:g32")
    ]
    assert all(row["tokens a second"] > 0 and row["bytes"] > 0 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_wrong_logits_are_found(bench):
    with pytest.raises(SystemExit, match="not those of the same weights"):
        bench._compare("ours float32", np.array([1.0, 2.0]), np.array([1.0, 2.1]))
    bench._compare("ours bfloat16", np.array([1.0, 2.0]), np.array([1.0, 2.1]))


def test_the_file_for_llama_cpp_has_the_weights(bench, tmp_path):
    """What stands in one half of a head and the other here are neighbours there."""
    pytest.importorskip("gguf")
    config = bench.SHAPES["tiny"]
    dense = bench._made_up(config, 0.5, np.random.default_rng(0))
    bench._write_gguf(tmp_path / "a.gguf", config, dense, "F16")
    stored = open_gguf(tmp_path / "a.gguf").tensors
    assert len(stored) == len(dense)
    down = formats.to_dense(stored["blk.1.ffn_down.weight"])
    assert np.array_equal(down, dense["model.layers.1.mlp.down_proj.weight"].astype(np.float16))
    values = formats.to_dense(stored["blk.0.attn_v.weight"])
    assert np.array_equal(values, dense["model.layers.0.self_attn.v_proj.weight"].astype(np.float16))
    for part, heads in (("q", 4), ("k", 2)):
        got, want = formats.to_dense(stored[f"blk.0.attn_{part}.weight"]), dense[_PROJECTION.format(part)]
        for head, pair, half in itertools.product(range(heads), range(8), range(2)):
            row = want[head * 16 + half * 8 + pair].astype(np.float16)
            assert np.array_equal(got[head * 16 + 2 * pair + half], row)
