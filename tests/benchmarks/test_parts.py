"""The parts of a step add up to it, and operations are counted as a plain sum counts them."""

import importlib
import json

import pytest

from benchmarks import parts
from seft_ref.layers import compiled

SMALL = {"vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}


def test_parts_add_up_and_operations_are_those_of_stored_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "restart_in_clean_environment", lambda threads: None)
    monkeypatch.setattr(parts, "CONFIG", parts.CONFIG | SMALL | {"num_key_value_heads": 1})
    monkeypatch.setattr(importlib.import_module("benchmarks.step"), "LENGTH", 8)
    kept = {}
    real = parts.made_up_run

    def seen(*arguments):
        kept["run"] = real(*arguments)
        return kept["run"]

    monkeypatch.setattr(parts, "made_up_run", seen)
    before = dict(vars(compiled))
    parts.parts(tmp_path / "parts.json", blocks=2, n_rounds=1)
    assert vars(compiled) == before
    run, tokens, *_ = kept["run"]
    rows = {row["what"]: row for row in json.loads((tmp_path / "parts.json").read_text())["rows"]}
    *own, step = rows.values()
    assert sum(row["seconds"] for row in own) == pytest.approx(step["seconds"])
    stored = sum(target.base.topology.nnz for target in run.state.targets.values())
    for product in ("forward", "dx"):
        assert rows[f"sparse {product}"]["billions"] == pytest.approx(2 * tokens.size * stored / 1e9)
        assert rows[f"head {product}"]["billions"] == pytest.approx(2 * tokens.size * 60 * 24 / 1e9)
    assert {"sample", "attention", "cross_entropy", "rmsnorm", "rope", "swiglu"} <= rows.keys()
