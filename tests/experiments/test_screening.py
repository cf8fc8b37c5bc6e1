"""The screening: its design tells effects apart, the engine takes its settings, and its page is of its runs."""

import itertools
import json
import math

import numpy as np
import pytest

from experiments import design, screening
from experiments.small_model import train
from seft_ref import settings_of
from tests.seft_ref.folders import TEXT

COLUMNS = np.array(design.signs()).T


def products(columns):
    return {tuple(a * b) for a, b in itertools.combinations(columns, 2)}


def test_no_setting_is_mixed_up_with_another_or_with_what_two_do_together():
    assert COLUMNS.shape == (16, 32)
    assert not COLUMNS.sum(axis=1).any()
    np.testing.assert_array_equal(COLUMNS @ COLUMNS.T, 32 * np.eye(16))
    columns = {tuple(sign * column) for column in COLUMNS for sign in (1, -1)}
    assert not columns & products(COLUMNS)


def lines_of(logs):
    """Lines of the three presets whose log perplexities are `logs` of a run and a seed, other by a constant."""
    return [
        {"kind": kind, "run": n, "seed": seed, "perplexity_after": math.exp(log + shift)}
        for seed, of_seed in enumerate(logs)
        for n, log in enumerate(of_seed)
        for kind, shift in (("static", 0.1), ("active-only", 0.05), ("seft", 0.02))
    ]


@pytest.mark.parametrize("wrong", [False, True])
def test_effects_are_those_that_were_planted(monkeypatch, wrong):
    """A design whose columns are products of two, where that of two settings stands for a third, must not pass."""
    signs = COLUMNS.T
    if wrong:
        basic = np.array([*itertools.product((-1, 1), repeat=5)]).T
        pairs = [basic[i] * basic[j] for i, j in itertools.combinations(range(5), 2)]
        signs = np.array([*basic, *pairs, np.prod(basic, axis=0)]).T
        monkeypatch.setattr(screening, "signs", lambda: [tuple(run) for run in signs])
    rng = np.random.default_rng(5)
    planted = rng.normal(size=16)
    both = signs[:, 0] * signs[:, 1]
    logs = [3 + signs @ planted / 200 + 0.3 * both + seed * 0.01 for seed in range(3)]
    found = [effect.percent.mean for effect in screening.effects(lines_of(logs), "seft")]
    assert np.allclose(found, planted) is not wrong
    of = screening.overall(lines_of(logs), "seft − active-only")
    assert of.mean == pytest.approx(-3)
    assert of.excludes_zero


def test_parts_of_the_design_are_those_with_their_levels():
    """Half of the runs have a level, and half of those a second one; the presets differ there as in all."""
    at = [factor.name for factor in design.FACTORS].index("density")
    for levels, wanted in (
        ({}, 32),
        ({"density": 0.01}, 16),
        *((levels, 32 >> len(levels)) for levels in screening.WHERE),
    ):
        runs = screening.runs_with(levels)
        assert len(runs) == wanted
        if "density" in levels:
            assert {COLUMNS[at, n] for n in runs} == {-1 if levels["density"] == 0.01 else 1}
    lines = lines_of([COLUMNS[at] / 50 + 3 + seed for seed in range(2)])
    assert screening.overall(lines, "static", screening.runs_with({"density": 0.01})).mean == pytest.approx(3.58)


@pytest.mark.parametrize("kind", design.KINDS)
def test_every_run_has_settings_that_the_engine_takes(kind):
    for run in design.signs():
        chosen = design.settings_of_run(kind, run)
        described = settings_of(**chosen, steps=200).described()
        assert {name: described[name] for name in chosen if name != "slot_warmup"} == {
            name: value for name, value in chosen.items() if name != "slot_warmup"
        }
        assert described.get("slot_warmup", 0) == chosen["slot_warmup"]


OPTIONS = [word for setting in ("steps=42", "batch=1", "length=16") for word in ("--set", setting)]


def test_runs_are_made_once_and_told(monkeypatch, cli, tmp_path):
    two = [design.signs()[0], design.signs()[-1]]
    monkeypatch.setattr(screening, "signs", lambda: two)
    monkeypatch.setattr(screening, "WHERE", ({}, {"adapt": "token-fisher"}))
    code, _, err = cli("screening", seeds=1, options=OPTIONS)
    assert code == 0, err
    lines = (tmp_path / "work/results.jsonl").read_text().splitlines()
    assert len(lines) == 6
    moved = [sum(json.loads(line)["counts"].values()) for line in lines]
    assert [bool(n) for n in moved] == [False] * 4 + [True, True]  # the first run's period is longer than 42 steps
    assert cli("screening", options=OPTIONS)[0] == 0
    assert len((tmp_path / "work/results.jsonl").read_text().splitlines()) == 12
    page = (tmp_path / "out/screening.md").read_text()
    assert page.startswith("# Which settings decide?")
    assert "12 runs, 2 seeds, of 42 steps of 1 × 16 tokens" in page
    assert str(tmp_path) not in page
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for name in ("screening.md", "screening.svg"):
        (tmp_path / "out" / name).unlink()
    assert cli("screening", "--redraw", options=())[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == written


def test_settings_of_the_design_are_not_set_by_hand(cli, tmp_path):
    code, _, err = cli("screening", options=[*OPTIONS, "--set", "lr=0.1"])
    assert code
    assert "screening does not take lr; --set takes steps, batch" in err
    assert not (tmp_path / "work/results.jsonl").exists()


def test_the_small_model_is_one_that_can_be_pruned(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT * 20)
    (tmp_path / "b.txt").write_text(TEXT[::-1] * 20)
    loss = train(tmp_path / "dense", (tmp_path / "a.txt", tmp_path / "b.txt"), steps=2)
    assert 0 < loss < 8
    config = json.loads((tmp_path / "dense/config.json").read_text())
    assert config["num_hidden_layers"] == 4
    with pytest.raises(screening.console.Refused, match="is there already"):
        train(tmp_path / "dense", (tmp_path / "a.txt", tmp_path / "b.txt"))
