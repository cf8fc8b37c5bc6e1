"""No part of a step is counted twice, and operations are counted as a plain sum counts them."""

import importlib
import itertools
import json
from types import SimpleNamespace

import pytest

from benchmarks import parts
from seft_ref.layers import compiled

SMALL = {"vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}


def test_calls_are_timed_once_and_operations_are_those_of_stored_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "restart_in_clean_environment", lambda threads: None)
    monkeypatch.setattr(parts, "CONFIG", parts.CONFIG | SMALL | {"num_key_value_heads": 1})
    monkeypatch.setattr(importlib.import_module("benchmarks.step"), "LENGTH", 8)
    kept = {}
    real = parts.made_up_run

    def seen(*arguments):
        kept["run"] = real(*arguments)
        return kept["run"]

    monkeypatch.setattr(parts, "made_up_run", seen)
    # a clock that ticks when it is read: a call takes one tick, and more if another one is timed inside it
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=itertools.count(0.0).__next__))
    before = dict(vars(compiled))
    parts.parts(tmp_path / "parts.json", blocks=2, n_rounds=1)
    assert vars(compiled) == before
    run, tokens, *_ = kept["run"]
    rows = {row["what"]: row for row in json.loads((tmp_path / "parts.json").read_text())["rows"]}
    products = {"sparse forward": 14, "sparse dx": 14, "head forward": 1, "head dx": 1, "sample": 14}
    calls = products | {"rope": 8, "attention": 4, "cross_entropy": 2}
    assert {name: rows[name]["seconds"] for name in calls} == calls
    stored = sum(target.base.topology.nnz for target in run.state.targets.values())
    for product in ("forward", "dx"):
        assert rows[f"sparse {product}"]["billions"] == pytest.approx(2 * tokens.size * stored / 1e9)
        assert rows[f"head {product}"]["billions"] == pytest.approx(2 * tokens.size * 60 * 24 / 1e9)
    assert {"sample", "attention", "cross_entropy", "rmsnorm", "rope", "swiglu"} <= rows.keys()
