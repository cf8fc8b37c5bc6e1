"""The benchmark of small deltas on a small model: every form arrives, and one that does not is found."""

import importlib
import json

import pytest

SMALL = {"vocab": 40, "hidden": 160, "inner": 192, "values": 48}


@pytest.fixture
def bench(monkeypatch):
    module = importlib.import_module("benchmarks.small_deltas")
    monkeypatch.setattr(module, "restart_in_clean_environment", lambda threads: None)
    monkeypatch.setattr(module, "SHAPES", module.SHAPES | SMALL)
    return module


def test_every_form_holds_the_changes(bench, tmp_path, capsys):
    bench.small_deltas(layers=1, json_file=tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["matrices"] == 7
    for count, row in told["bytes"].items():
        assert len(row) == 6
        # positions of 4 bytes and values of 2
        assert row["TRL patch"] > 7 * 6 * int(count)
        assert row["delta, packed"] < row["delta"]
        assert row["delta, packed"] < row["TRL patch"] or int(count) < 50
    assert "of each of 7 matrices change" in capsys.readouterr().out


def test_a_form_that_loses_a_change_is_found(bench, monkeypatch):
    module = importlib.import_module("formats.dialects.weight_sync")
    monkeypatch.setattr(module, "_applied", lambda old, *rest: old)
    monkeypatch.setattr(module, "checksum_of", lambda *given: lambda raw: "0" * 32)
    with pytest.raises(AssertionError, match="overwrite does not lead"):
        bench.small_deltas(layers=1)
