"""The experiment quantised: what is measured, resumed and told."""

import json

import pytest

from experiments import quantised
from experiments.quantised import ROUNDINGS
from experiments.run import read_inputs
from seft_ref import settings_of
from tests.experiments.helpers import runs_in


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(quantised, "GRIDS", ("int8", "int4"))
    monkeypatch.setattr(quantised, "CALIBRATION", {"samples": 2, "length": 16})


def test_every_measurement_is_taken_once_and_told(cli, tmp_path):
    code, out, err = cli("quantised", seeds=2)
    assert code == 0, err
    assert "quantised.md, .svg and .json" in out
    runs = runs_in(tmp_path / "work")
    measured = [(run["grid"], run["what"], run["seed"]) for run in runs]
    assert len(set(measured)) == len(measured)
    assert set(measured) == set(quantised.cells(range(2)))
    for run in runs:
        assert run["memory"] > run["stored"]
        if run["what"] == "grid-exact":
            assert run["beside"] == 0 < run["counts"]["changed"]
        if run["what"] == "grid":
            assert 0 < run["counts"]["vanished"] < run["counts"]["changed"]
        if run["what"] == "beside":
            assert run["beside"] == run["counts"]["changed"]
            assert run["bytes"] > min(other["bytes"] for other in runs if other["grid"] == run["grid"] != "float"
                                      and "bytes" in other)  # fmt: skip
    # an update beside the codes is that of no rounding, so its seeds differ
    page = (tmp_path / "out" / "quantised.md").read_text()
    assert page.count("\n| `int4`") == 8
    assert "`float`" in page
    lines = (tmp_path / "work" / "results.jsonl").read_text()
    assert cli("quantised", seeds=2)[0] == 0
    assert (tmp_path / "work" / "results.jsonl").read_text() == lines
    drawn = {end: (tmp_path / "out" / f"quantised.{end}").read_bytes() for end in ("md", "svg")}
    assert cli("quantised", "--redraw")[0] == 0
    assert {end: (tmp_path / "out" / f"quantised.{end}").read_bytes() for end in drawn} == drawn
    # a title of one's own stays in the JSON
    assert cli("quantised", "--redraw", "--title", "What else?")[0] == 0
    assert cli("quantised", "--redraw")[0] == 0
    assert (tmp_path / "out" / "quantised.md").read_text().startswith("# What else?\n")


def test_what_was_measured_is_found_again(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(quantised, "GRIDS", ("int8",))
    assert cli("quantised", seeds=1)[0] == 0
    path = tmp_path / "work" / "results.jsonl"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["what"] != "grid"]
    path.write_text("\n".join(kept) + "\n")
    assert cli("quantised", seeds=1)[0] == 0
    again = {run["key"]: run["perplexity"] for run in runs_in(tmp_path / "work")}
    assert again == {json.loads(line)["key"]: json.loads(line)["perplexity"] for line in lines}


def test_seeds_of_several_processes_fill_one_file(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(quantised, "GRIDS", ("int8",))
    code, out, err = cli("quantised", "--seed", 1, seeds=2)
    assert code == 0, err
    assert "the page follows without --seed" in out
    assert not (tmp_path / "out").exists()
    assert {run["seed"] for run in runs_in(tmp_path / "work")} == {1}
    code, out, err = cli("quantised", "--seed", 2, seeds=2)
    assert (code, "seed 2 is none of the 2 seeds" in err) == (2, True)
    assert cli("quantised", seeds=2)[0] == 0
    measured = [(run["grid"], run["what"], run["seed"]) for run in runs_in(tmp_path / "work")]
    assert sorted(measured) == sorted(quantised.cells(range(2)))
    assert (tmp_path / "out" / "quantised.md").exists()


def test_a_base_of_codes_is_one_of_its_text_and_engine(given, tmp_path, monkeypatch):
    made = []

    def quantise(model, out, grid, **asked):
        made.append(asked["text"])
        out.mkdir()

    monkeypatch.setattr(quantised, "quantise", quantise)
    one, other = (
        read_inputs(given / "pruned", given / f"{name}.txt", given / "valid.txt", {}, 16) for name in ("train", "valid")
    )
    places = [quantised.base_of(inputs, "int4", how, tmp_path) for inputs in (one, other, one) for how in ROUNDINGS]
    nearest, gptq = places[::2], places[1::2]
    assert nearest == [nearest[0]] * 3
    assert gptq[0] == gptq[2] != gptq[1]
    assert len(made) == 3
    monkeypatch.setattr(quantised, "engine_digest", lambda: "another")
    assert quantised.base_of(one, "int4", "nearest", tmp_path) not in places


def test_lora_takes_every_setting_that_it_has():
    settings = settings_of("active-only", micro_batches=3, max_norm=0.5, warmup_steps=4, weight_decay=0.1, density=0.3)
    lora = settings_of("lora", **quantised._of_lora(settings))
    assert (lora.micro_batches, lora.max_norm, lora.warmup_steps) == (3, 0.5, 4)
    assert lora.optimizer.weight_decay == 0.1
    assert lora.adapter.rank == quantised.LORA_RANK
