"""Experiments: what is run, what is kept, what is computed from it, and what the page says."""

import functools
import importlib
import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from seft_ref import evaluate, save_model
from seft_ref.arrays.ranks import ALONE
from seft_ref.files.model import load_model
from seft_ref.kernels import reference
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.window import Window
from seft_ref.topology.csr import flat, from_flat
from tests.experiments.helpers import one_line, part, runs_in
from tests.seft_ref.folders import sparse_folder


def test_experiments_share_runs_and_write_pages(cli, tmp_path):
    experiments = {name: part("table").EXPERIMENTS[name] for name in ("mask-ablation", "drift-control")}
    available = {arm for experiment in experiments.values() for arm in experiment.arms()}
    for name, experiment in experiments.items():
        code, out, err = cli(name)
        assert code == 0, err
        assert f"{name}.md" in out
        page = (tmp_path / "out" / f"{name}.md").read_text()
        headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
        assert headings[0] == experiment.title
        assert headings[1:] == [
            "What came out",
            "For whoever chooses settings",
            "Results",
            "Differences, paired by seed",
            "What one would expect",
            *(["What was found before"] if experiment.before else []),
            "How it was measured",
            "Settings",
            "Every run",
        ]
        assert f"python -m experiments {name} pruned --train train.txt --valid valid.txt --out out --seeds 2" in page
        assert str(tmp_path.parent) not in page
        assert "/tmp" not in page
        assert "pruned by wanda to 60.0%" in page
        assert re.search(r"^\d{4}-\d\d-\d\d( to [-\d]+)?; .+, \d+ cores, Python 3", page, re.MULTILINE)
        assert " ".join(experiment.expected.split()) in " ".join(page.split())
        assert "The interval " in page
        assert f"]({name}.svg)" in page
        assert "<svg" in (tmp_path / "out" / f"{name}.svg").read_text()
        for row in experiment.rows:
            assert (f"| {row.label} |" in page) == (row.arm in available)
            assert ("Not run" in page and row.label in page) or row.arm in available
        for line in page.splitlines():
            if line.startswith("|"):
                assert line.endswith("|")
    runs = runs_in(tmp_path / "work")
    assert sorted((run["arm"], run["seed"]) for run in runs) == sorted((arm, s) for arm in available for s in (0, 1))
    check_runs(runs)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["results.jsonl"]
    written = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "out").glob("drift-control.[ms]*"):
        path.unlink()
    assert cli("drift-control", "--redraw")[0] == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == written
    code, out, _ = cli("mask-ablation", "--plan", seeds=3)
    assert "mask-ablation: 9 runs, 6 in " in out
    assert "3 to do" in out
    assert "seft: seeds 2" in out
    assert len(runs_in(tmp_path / "work")) == len(runs)


def test_budgets_are_compared_with_their_own_static_arm(cli, tmp_path):
    assert cli("budget", seeds=1)[0] == 0
    page = (tmp_path / "out" / "budget.md").read_text()
    assert [line.split(" | ")[0] for line in page.splitlines() if " − " in line] == [
        f"| {told} {share} − static {share}" for share in ("0.5%", "2.0%", "8.0%") for told in ("active-only", "seft")
    ]
    advice = re.findall(r"^- `(.+) (.+%)` ended lowest", page, re.MULTILINE)
    assert [share for _, share in advice] == ["0.5%", "2.0%", "8.0%"]
    # each budget has a sentence above the picture, too
    above = page.partition("\n![")[0]
    assert re.findall(r"^(?:In short: )?`.+ (.+%)` ended lowest", above, re.MULTILINE) == ["0.5%", "2.0%", "8.0%"]


def check_runs(runs):
    """Every run holds what it should, and the arms do what their names say."""
    by_arm = {run["arm"]: run for run in runs if run["seed"] == 0}
    assert len({run["perplexity_before"] for run in runs}) == 1
    for run in runs:
        assert len(run["losses"]) == len(run["seconds"]) == 6
        assert [event["step"] for event in run["events"]] == ([] if run["arm"].startswith("static") else [5])
        assert run["peak_memory_bytes"] > 0
        # bitmask: a bit a position and the values, beside the embedding and a header
        assert run["bytes"] > 4 * run["stored"]
        assert math.isfinite(run["perplexity_after"])
        assert run["support_final"] <= run["stored"]
        assert 0 < run["overlap"] <= 1
        assert (run["perplexity_before_last_pass"] is not None) == (run["arm"] == "no-adapt")
    assert by_arm["static"]["overlap"] == by_arm["active-only"]["overlap"] == 1
    assert by_arm["active-only"]["counts"]["reactivated"] == 0 < by_arm["seft"]["counts"]["reactivated"]
    assert by_arm["seft"]["support_max"] == by_arm["seft"]["stored"] < by_arm["no-adapt"]["support_max"]
    # the same seed, the same text: arms that start alike have the same losses up to the event
    assert by_arm["seft"]["losses"][:5] == by_arm["static"]["losses"][:5]
    assert by_arm["seft"]["losses"][0] != next(r for r in runs if r["arm"] == "seft" and r["seed"])["losses"][0]


def test_a_quick_run_is_short_and_leaves_the_pages_alone(given, tmp_path, monkeypatch):
    tool = importlib.import_module("experiments.app")
    monkeypatch.setenv("QUICK", "1")
    monkeypatch.chdir(tmp_path)
    words = ["mask-ablation", given / "pruned", "--train", given / "train.txt", "--valid", given / "valid.txt"]
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, words), "--set", "density=0.2", "--eval-length", "32"])
    with pytest.raises(SystemExit) as left:
        tool.console.run(tool.main)
    assert not left.value.code
    work = tmp_path / "build" / "experiments"
    assert [len(run["losses"]) for run in runs_in(work)] == [tool.QUICK["steps"]] * 3
    assert {run["evaluation"]["windows"] for run in runs_in(work)} == {tool.QUICK_WINDOWS}
    assert sorted(path.name for path in (work / "quick").iterdir()) == [
        f"mask-ablation.{end}" for end in ("json", "md", "svg")
    ]
    assert not (tmp_path / tool.PAGES).exists()


def test_arms_of_ones_own_are_compared_with_the_first(cli, tmp_path):
    arms = ("--arm", "still:preset=static", "--arm", "half:preset=seft, drop_fraction=0.5,grow=fisher")
    # a run that is there bears the name that it was made under
    assert cli("compare", "--arm", "quiet:preset=static", seeds=1)[0] == 0
    assert cli("compare", *arms, "--title", "Is half better?", seeds=1)[0] == 0
    assert [run["arm"] for run in runs_in(tmp_path / "work")] == ["quiet", "half"]
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "| half − still |" in page
    assert page.startswith("# Is half better?\n")
    assert "*half* is `preset=seft`, `drop_fraction=0.5`, `grow=fisher`." in one_line(page)
    assert "--arm still:preset=static --arm 'half:preset=seft, drop_fraction=0.5,grow=fisher'" in one_line(page)
    assert max(map(len, page.split("```")[1].splitlines())) <= 153
    runs = {run["arm"]: run["settings"] for run in runs_in(tmp_path / "work")}
    assert (runs["half"]["grow"], runs["half"]["drop_fraction"]) == ("fisher", 0.5)
    (tmp_path / "out" / "compare.md").unlink()
    assert cli("compare", "--redraw")[0] == 0
    assert (tmp_path / "out" / "compare.md").read_text() == page
    assert cli("compare", "--redraw", "--title", "Is it?")[0] == 0
    assert (tmp_path / "out" / "compare.md").read_text() == page.replace("Is half better?", "Is it?")


def test_a_label_with_a_comma_stands_whole_in_the_legend(cli, tmp_path):
    arms = ("--arm", "still, 1:preset=static", "--arm", "still, 2:preset=static,lr=0.002")
    assert cli("compare", *arms, seeds=1)[0] == 0
    # a setting that the first arm was not asked for is told of the others
    assert "| still, 2 | 0.002 |" in (tmp_path / "out" / "compare.md").read_text()
    drawn = (tmp_path / "out" / "compare.svg").read_text()
    # tick labels break behind a comma, so these are of the legend
    assert all(f">still, {n}</text>" in drawn for n in (1, 2))


def test_a_cut_results_file_goes_on_and_gives_the_same_page(cli, tmp_path):
    assert cli("two")[0] == 0
    work, page = tmp_path / "work", tmp_path / "out" / "two.md"
    whole, text = runs_in(work), page.read_text()
    picture = (tmp_path / "out" / "two.svg").read_bytes()
    assert cli("two")[0] == 0
    assert page.read_text() == text
    assert (tmp_path / "out" / "two.svg").read_bytes() == picture
    assert len(runs_in(work)) == 4

    file = work / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    _, out, _ = cli("two", "--plan")
    assert "4 runs, 3 in " in out
    assert cli("two")[0] == 0
    lines = file.read_text().splitlines()
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[3])
    again = [json.loads(line) for line in (*lines[:3], lines[4])]
    timed = ("seconds", "seconds_finish", "peak_memory_bytes")
    for before, after in zip(whole, again, strict=True):
        assert {k: v for k, v in before.items() if k not in timed} == {k: v for k, v in after.items() if k not in timed}


def test_lines_that_tell_no_run_are_passed_over(cli, tmp_path):
    (tmp_path / "work").mkdir()
    file = tmp_path / "work" / "results.jsonl"
    key = part("results").engine_digest()
    broken = ["[1]", "5", "null", '"run"', "{}", '{"key": "k"}', json.dumps({"engine": key, "key": "k"}), "[" * 100_000]
    file.write_text("\n".join(broken) + "\n")
    code, out, err = cli("two", "--plan", seeds=1)
    assert (code, "2 runs, 0 in " in out) == (0, True), err
    code, _, err = cli("two", seeds=1)
    assert code == 0, err
    assert file.read_text().splitlines()[: len(broken)] == broken
    assert "2 runs, 2 in " in cli("two", "--plan", "--any-engine", seeds=1)[1]


def test_cells_fill_one_file_and_the_page_waits_for_all(cli, tmp_path):
    code, out, _ = cli("two", "--only-arm", "seft", "--seed", 1)
    assert code == 0
    assert "1 of 4 runs are there" in out
    assert not (tmp_path / "out").exists()
    assert [(run["arm"], run["seed"]) for run in runs_in(tmp_path / "work")] == [("seft", 1)]
    _, out, _ = cli("two", "--seed", 0, "--only-arm", "seft-random", seeds=1)
    assert "1 of 2 runs are there" in out
    assert cli("two", seeds=1)[0] == 0
    assert "with one seed" in (tmp_path / "out" / "two.md").read_text()


def test_results_of_another_engine_count_only_if_asked_for(cli, tmp_path):
    assert cli("two", seeds=1)[0] == 0
    file = tmp_path / "work" / "results.jsonl"
    runs = runs_in(tmp_path / "work")
    runs[0]["engine"] = "another"
    file.write_text("".join(json.dumps(run) + "\n" for run in runs))
    assert "2 runs, 1 in " in cli("two", "--plan", seeds=1)[1]
    assert "2 runs, 2 in " in cli("two", "--plan", "--any-engine", seeds=1)[1]
    assert cli("two", "--any-engine", seeds=1)[0] == 0
    assert "2 versions of the engine" in (tmp_path / "out" / "two.md").read_text()


def test_the_digest_of_the_engine_passes_over_remarks(tmp_path, monkeypatch):
    results = part("results")
    monkeypatch.setattr(results.seft_ref, "__file__", str(tmp_path / "__init__.py"))
    digests = []
    for source in (
        "def f():\n    return 1\n",
        '"""Say."""\ndef f():  # so\n    """Do."""\n    return (1)\n',
        "f = 2\n",
    ):
        (tmp_path / "a.py").write_text(source)
        digests.append(results.engine_digest.__wrapped__())
    assert digests[0] == digests[1] != digests[2]


REFUSALS = {
    "an unknown experiment": (("best",), {}, "mask-ablation, criteria, update-frequency"),
    "an unknown arm": (("mask-ablation", "--only-arm", "best"), {}, "seft, active-only, static"),
    "an arm without a preset": (("compare", "--arm", "a:lr=0.1"), {}, "write LABEL:preset=NAME,KEY=VALUE"),
    "an arm twice": (("compare", "--arm", "a:preset=seft", "--arm", "a:preset=set"), {}, "a label of its own"),
    "a seed for all arms": (("mask-ablation", "--set", "seed=3"), {}, "choose among them by --seeds and --seed"),
    "a seed of an arm": (("compare", "--arm", "a:preset=seft,seed=3"), {}, "every arm runs the same seeds"),
    "arms where there are none": (("pruning-cost", "--arm", "a:preset=seft"), {}, "pruning-cost has no arms"),
    "a setting that it would not use": (("pruning-cost",), {}, "pruning-cost does not take steps, evolve_every"),
    "tasks where none are scored": (("quantised", "--tasks", "piqa"), {}, "quantised scores no tasks"),
    "an arm of cost alone": (("cost", "--only-arm", "spp"), {}, "cost runs all arms in turn"),
    "a seed of cost alone": (("cost", "--seed", 1), {}, "cost runs all arms in turn"),
    "no arms": (("compare",), {}, "compare needs --arm"),
    "arms that are not its own": (("mask-ablation", "--arm", "a:preset=seft"), {}, "--arm is for compare"),
    "a seed out of range": (("mask-ablation", "--seed", 2), {}, "--seeds"),
    "settings that contradict": (("gradient-reliability", "--set", "gradient_window=9"), {}, "TRN-005"),
    "an arm that the model does not fit": (("recovery", "--plan"), {}, "AD"),
    "a dense model": (("mask-ablation",), {"folder": "pruned-hf"}, "not a sparse checkpoint"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_ends_in_one_line_before_anything_is_run(cli, given, tmp_path, case):
    arguments, options, said = REFUSALS[case]
    code, _, err = cli(*arguments, **{key: given / value for key, value in options.items()})
    assert code == 2
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_is_refused(cli, tmp_path):
    folder = sparse_folder(tmp_path / "nm")
    (folder / "pruning.json").write_text('{"pattern": "2:4"}')
    code, _, err = cli("mask-ablation", folder=folder)
    assert code == 2
    assert "pruned 2:4" in err


def test_help_says_how_it_is_used(monkeypatch, capsys):
    tool = importlib.import_module("experiments.app")
    monkeypatch.setattr(sys, "argv", ["experiment.py", "--help"])
    with pytest.raises(SystemExit) as left:
        tool.console.run(tool.main)
    assert not left.value.code
    assert "--only-arm" in capsys.readouterr().out


def test_list_names_every_experiment_and_arm(monkeypatch, capsys):
    tool = importlib.import_module("experiments.app")
    monkeypatch.setattr(sys, "argv", ["experiment.py", "--list"])
    with pytest.raises(SystemExit):
        tool.console.run(tool.main)
    said = capsys.readouterr().out
    for name, experiment in tool.EXPERIMENTS.items():
        assert f"{name}: {experiment.title}" in said
        for row in experiment.rows:
            assert f"{row.label}: arm {row.arm} (" in said


def test_what_pruning_costs_is_measured_once_and_told(cli, given, tmp_path):
    tool = part("pruning_cost")
    cli = functools.partial(cli, options=["--set", "batch=2", "--set", "length=16"])
    code, _, err = cli("pruning-cost")
    assert code == 0, err
    lines = runs_in(tmp_path / "work")
    assert len(lines) == 2 * sum(map(len, tool.CRITERIA.values()))
    page = (tmp_path / "out" / "pruning-cost.md").read_text()
    told = json.loads((tmp_path / "out" / "pruning-cost.json").read_text())["runs"]
    assert sorted(told, key=str) == sorted(lines, key=str)
    assert "From one batch" in page
    assert (tmp_path / "out" / "pruning-cost.svg").read_text().startswith("<?xml")
    (tmp_path / "out" / "pruning-cost.md").unlink()
    assert cli("pruning-cost", "--redraw")[0] == 0
    assert (tmp_path / "out" / "pruning-cost.md").read_text() == page
    # nothing is measured twice, and the same lines give the same page
    assert cli("pruning-cost")[0] == 0
    assert runs_in(tmp_path / "work") == lines
    assert (tmp_path / "out" / "pruning-cost.md").read_text() == page
    # a stopped one goes on, and ends with the same numbers
    results = tmp_path / "work" / "results.jsonl"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:7]))
    assert cli("pruning-cost")[0] == 0
    assert runs_in(tmp_path / "work") == lines
    # the smallest weights of every matrix, by a sort, in a folder of their own
    model = load_model(given / "pruned", reference)
    final = {}
    for name, base in model.bases.items():
        weights = sorted(zip(np.abs(base.values).tolist(), flat(base.topology).tolist(), strict=True))
        gone = {p for _, p in weights[: round(tool.SHARE * len(weights))]}
        kept = np.array([i for i, p in enumerate(flat(base.topology).tolist()) if p not in gone])
        final[name] = (from_flat(base.shape, flat(base.topology)[kept]), base.values[kept])
    save_model(given / "pruned", tmp_path / "less", final)
    after = evaluate(tmp_path / "less", given / "valid.txt", length=32, windows=2).perplexity
    (line,) = (x for x in lines if x["criterion"] == "magnitude" and x["seed"] == 0)
    assert line["perplexity_after"] == pytest.approx(after, rel=1e-5)
    assert line["nats"] == math.log(line["perplexity_after"] / line["perplexity_before"])


def test_the_rank_one_form_is_the_product_of_the_squares_of_all_tokens():
    tool = part("pruning_cost")
    rng = np.random.default_rng(0)
    total, dys, xs = tool.WindowAndSquares(Window((3, 5), frozenset({"gradient"}))), [], []
    for _ in range(2):
        step = total.fresh()
        for n in (2, 4):
            dys.append(rng.normal(size=(n, 3)))
            xs.append(rng.normal(size=(n, 5)))
            step = step.plus(WeightGradient(dys[-1], xs[-1]), reference)
        total = total.joined(step, ALONE, reference)
        total = replace(total, window=total.window.settled())
    tokens = [(dy, x) for of_dy, of_x in zip(dys, xs, strict=True) for dy, x in zip(of_dy, of_x, strict=True)]
    assert len(tokens) == 12
    wanted = np.outer(sum(dy**2 for dy, _ in tokens), sum(x**2 for _, x in tokens))
    positions = np.array([0, 4, 5, 9, 14])
    np.testing.assert_allclose(total.rank_one(positions, 5), wanted.reshape(-1)[positions])
