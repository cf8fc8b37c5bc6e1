"""`seft finetune` on instruction data and with validation, as a person types it."""

import json
from dataclasses import replace

import pytest

import formats
from formats.delta import diff
from seft_cli.log.read import read_log
from tests.seft_ref.folders import TEXT, sparse_folder

LINES = [{"prompt": f"{i} and {i} ", "completion": f"{2 * i}."} for i in range(9)]
SHORT = ("--batch", 2, "--length", 24, "--evolve-every", 2, "--density", 0.1, "--lr", 0.01)


@pytest.fixture
def place(tmp_path):
    sparse_folder(tmp_path / "s")
    (tmp_path / "text.txt").write_text(TEXT)
    for name, lines in (("train", LINES), ("more", LINES[:3]), ("held", LINES[::4])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_examples_of_two_files_are_trained_on_for_epochs(cli, place):
    out = place / "out"
    data = ("--data", place / "train.jsonl", "--data", place / "more.jsonl")
    code, told, err = cli("finetune", place / "s", out, *data, "--epochs", 1.5, *SHORT, "--json", place / "o.json")
    assert code == 0, err
    report = json.loads((place / "o.json").read_text())
    assert (report["settings"]["steps"], len(report["records"])) == (9, 9)
    assert "steps 1 to 9" in told
    assert "validation" not in report


@pytest.mark.parametrize("kind", ["--data", "--text"])
def test_the_best_model_is_kept_and_told(cli, place, kind):
    trained, held = ("train.jsonl", "held.jsonl") if kind == "--data" else ("text.txt", "text.txt")
    data = (kind, place / trained, "--valid", place / held, "--valid-every", 2, "--steps", 7)
    code, told, err = cli("finetune", place / "s", place / "whole", *data, *SHORT, "--json", place / "o.json")
    assert code == 0, err
    report = json.loads((place / "o.json").read_text())
    losses = {one["step"]: one["loss"] for one in report["validation"]}
    assert list(losses) == [2, 4, 6, 7]
    assert report["best"] == {"step": min(losses, key=losses.get), "loss": min(losses.values())}
    assert f"kept: the model of step {report['best']['step']}" in told
    assert err.count("validation at step") == 4
    assert ("warning: 3 of the examples" in err) == (kind == "--data")
    for more in (("--stop-after", 3), ("--resume",)):
        code, _, err = cli("finetune", place / "s", place / "out", *data, *SHORT, *more)
        assert code == 0, err
    assert contents(place / "out") == contents(place / "whole")


def test_TRN_010_measurements_are_logged_and_drawn(cli, place):
    log, drawn = place / "run.jsonl", place / "run.svg"
    data = ("--text", place / "text.txt", "--valid", place / "text.txt", "--valid-every", 2, "--steps", 7, *SHORT)
    for more in (("--stop-after", 3), ("--resume",)):
        code, _, err = cli(
            "finetune", place / "s", place / "out", *data, "--log", log, *more, "--json", place / "o.json"
        )
        assert code == 0, err
    found = read_log(log)
    assert [one.step for one in found.measured] == [2, 4, 6, 7]
    report = json.loads((place / "o.json").read_text())
    assert [{"step": one.step, "loss": one.loss} for one in found.measured[1:]] == report["validation"]
    assert found.measured[-1].best == report["best"]["step"]
    for one in found.measured:
        before = [other for other in found.measured if other.step <= one.step]
        assert one.best == min(before, key=lambda other: other.loss).step
    code, _, err = cli("plot", log, drawn)
    assert code == 0, err
    assert f"kept: step {found.measured[-1].best}" in drawn.read_text()


def test_a_run_whose_loss_no_longer_falls_ends(cli, place):
    data = ("--data", place / "train.jsonl", "--valid", place / "held.jsonl", "--valid-every", 1, "--patience", 1)
    more = (*SHORT[:-1], 3.0, "--steps", 50)
    code, told, err = cli("finetune", place / "s", place / "out", *data, *more)
    assert code == 0, err
    assert "; ended after step" in told
    assert sorted(path.name for path in place.iterdir() if path.name.startswith("out")) == ["out"]


def test_TRN_020_8_what_is_left_out_is_told(cli, place):
    (place / "long.jsonl").write_text(json.dumps({"prompt": "a" * 40, "completion": "b"}) + "\n" + json.dumps(LINES[0]))
    data = ("--data", place / "long.jsonl", "--steps", 2)
    code, _, err = cli("finetune", place / "s", place / "out", *data, *SHORT)
    assert (code, err.count("\n")) == (2, 1)
    assert "long.jsonl line 1 has 41 tokens and a row 24" in err
    assert not (place / "out").exists()
    code, _, err = cli("finetune", place / "s", place / "out", *data, *SHORT, "--longer", "drop")
    assert code == 0, err
    assert "1 example of more than 24 tokens left out" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give either --text FILE or --data FILE.jsonl"),
        (("--text", "text.txt", "--data", "train.jsonl"), "give either"),
        (("--text", "text.txt", "--epochs", "2"), "--epochs belongs to --data"),
        (("--text", "text.txt", "--packing"), "--packing belongs to --data"),
        (("--text", "text.txt", "--longer", "cut"), "--longer belongs to --data"),
        (("--data", "train.jsonl", "--epochs", "1", "--steps", "3"), "--epochs takes the place of --steps"),
        (("--data", "train.jsonl", "--epochs", "1", "--set", "steps=3"), "--epochs takes the place of --steps"),
        (("--data", "train.jsonl", "--epochs", "0"), "--epochs is 0.0; give a number above 0"),
        (("--data", "train.jsonl", "--epochs", "nan"), "--epochs is nan"),
        (("--data", "train.jsonl", "--packing", "--longer", "cut"), "--longer has no use beside --packing"),
        (("--data", "train.jsonl", "--patience", "2"), "--patience counts measurements on --valid"),
        (("--data", "train.jsonl", "--valid-every", "2"), "--valid-every counts measurements on --valid"),
        (("--text", "text.txt", "--valid", "held.jsonl"), "examples go with --data"),
        (("--text", "text.txt", "--valid", "held.json"), "held.json holds examples"),
        (("--text", "held.json"), "held.json holds examples; give examples as --data"),
        (("--data", "train.jsonl", "--epochs", "1e300"), "TRN-021: 1e+300 epochs are"),
        (("--text", "."), "there is no text file ."),
        (("--data", "."), "TRN-020: the file of examples . is a folder"),
        (("--data", "absent.jsonl"), "file of examples"),
        (("--data", "train.jsonl", "--valid", "absent.jsonl"), "validation file"),
        (("--data", "text.txt"), "TRN-020"),
        (("--data", "train.jsonl", "--valid", "text.txt"), "TRN-020"),
        (("--data", "train.jsonl", "--longer", "shorten"), "longer"),
    ],
)
def test_options_that_do_not_go_together(cli, place, monkeypatch, arguments, told):
    monkeypatch.chdir(place)
    (place / "held.json").write_bytes((place / "held.jsonl").read_bytes())
    before = sorted(place.iterdir())
    code, out, err = cli("finetune", "s", "out", *arguments, *SHORT)
    assert (code, out) == (2, "")
    assert told in err
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("shira", "--density", "0.1"), "density is not used with budget_by rank"),
        (("seft", "--set", "budget_by=count", "--set", "slots=50", "--density", "0.1"), "with budget_by count"),
        (("sparse-full", "--density", "0.1"), "sparse-full trains every stored weight"),
        (("sparse-full", "--set", "grow=fisher"), "sparse-full has no events, and does not use grow"),
        (("static", "--evolve-every", "3", "--drop-fraction", "0.3"), "does not use evolve_every, drop_fraction"),
    ],
)
def test_settings_that_decide_nothing_are_refused(cli, place, options, told):
    before = sorted(place.iterdir())
    code, out, err = cli("finetune", place / "s", place / "out", "--text", place / "text.txt", "--method", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert sorted(place.iterdir()) == before


def test_json_replaces_no_input(cli, place):
    """--json names a text, the log, or a file that is something else."""
    log = place / "run.jsonl"
    first = ("finetune", place / "s", place / "first", "--text", place / "text.txt", "--steps", 3, *SHORT)
    assert cli(*first, "--log", log, "--json", place / "o.json")[0] == 0
    (place / "notes.txt").write_text("mine\n")
    kept = {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    again = ("finetune", place / "s", place / "out", "--steps", 3, *SHORT)
    for arguments, told in (
        (("--text", place / "text.txt", "--json", place / "text.txt"), "would replace"),
        (("--data", place / "train.jsonl", "--json", place / "train.jsonl"), "would replace"),
        (("--text", place / "text.txt", "--valid", place / "held.jsonl", "--json", place / "held.jsonl"), "replace"),
        (("--text", place / "text.txt", "--log", log, "--json", log), "would replace"),
        (("--text", place / "text.txt", "--json", place / "notes.txt"), "no JSON object"),
    ):
        code, _, err = cli(*again, *arguments)
        assert (code, told in err) == (2, True), err
    code, _, err = cli("eval", place / "s", "--text", place / "text.txt", "--json", place / "text.txt")
    assert (code, "would replace" in err) == (2, True), err
    assert {path: path.read_bytes() for path in kept} == kept
    # an earlier result may be replaced
    assert cli(*again, "--text", place / "text.txt", "--json", place / "o.json")[0] == 0


def test_FMT_094_a_changed_companion_is_refused_before_the_first_step(cli, place):
    (place / "s" / "config.json").write_text((place / "s" / "config.json").read_text() + " ")
    code, told, err = cli("finetune", place / "s", place / "out", "--text", place / "text.txt", "--steps", 3, *SHORT)
    assert (code, "FMT-094" in err, "step" in told) == (2, True, False), err
    assert not list(place.glob("out*"))


@pytest.mark.parametrize(("method", "warns"), [("sparse-peft", False), ("lora", True)])
def test_only_a_method_that_ends_denser_says_so(cli, place, method, warns):
    short = ("--text", place / "text.txt", "--steps", 2, "--length", 24, "--batch", 2, "--method", method, "--rank", 2)
    code, _, err = cli("finetune", place / "s", place / "out", *short)
    assert code == 0, err
    assert ("will not be as sparse" in err) == warns


def test_a_name_without_room_for_others_is_refused_at_once(cli, place):
    before = sorted(place.iterdir())
    code, _, err = cli("finetune", place / "s", place / ("a" * 240), "--text", place / "text.txt", "--steps", 3, *SHORT)
    assert (code, "choose a shorter one" in err) == (2, True), err
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "s", "--text", "held.jsonl"),
        ("prune", "s-hf", "out", "--method", "wanda", "--calibration", "held.jsonl"),
        ("prune", "s-hf", "out", "--quantize", "int8:g8", "--calibration", "held.jsonl"),
    ],
)
def test_a_file_of_examples_is_no_text_of_evaluation_or_calibration(cli, place, monkeypatch, arguments):
    monkeypatch.chdir(place)
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert "held.jsonl holds examples" in err


def test_a_delta_is_no_model_to_train(cli, place, monkeypatch):
    monkeypatch.chdir(place)
    model = formats.read(place / "s")
    norm = formats.to_dense(model.tensors["model.norm.weight"])
    target = replace(model, tensors={**model.tensors, "model.norm.weight": formats.Dense(norm * 2)})
    formats.write_file("step.delta", diff(model, target))
    code, out, err = cli("finetune", "step.delta", "out", "--text", "text.txt", *SHORT)
    assert (code, out) == (2, "")
    assert "step.delta is a delta, not a model" in err
