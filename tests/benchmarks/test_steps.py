"""The benchmark of a folder of steps on a small model: both ways arrive, and one that does not is found."""

import importlib
import json

import pytest
import torch


@pytest.fixture
def bench(monkeypatch):
    module = importlib.import_module("benchmarks.steps")
    monkeypatch.setattr(module, "restart_in_clean_environment", lambda threads: None)
    return module


def test_steps_are_published_by_both_ways(bench, tmp_path, capsys):
    bench.steps(count=4, share=0.02, every=2, hidden=64, json_file=tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["bytes"] == 2 * (5 * 2 * 4 * 64 * 64 + 5 * 5 * 64)
    ours, whole = (told["ways"][way] for way in bench.WAYS)
    # the first step, which is not counted, is version 1
    assert [row["whole"] for row in ours] == [1, 0, 1, 0]
    assert len({row["bytes"] for row in whole}) == 1
    assert all(row["bytes"] < whole[0]["bytes"] for row in ours[1::2])
    assert "4 steps; a whole version every 2" in capsys.readouterr().out


def test_weights_that_do_not_arrive_are_found(bench):
    state = {"w": torch.zeros(3, dtype=torch.bfloat16)}
    with pytest.raises(AssertionError, match="whole file does not lead"):
        bench._check({"w": -state["w"]}, state, "whole file")
