"""finetune.py: every preset and choice from the command line, its log, and what it refuses."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest

from seft_cli.log.write import LogWriter
from seft_ref.update.presets import PRESETS
from tests.seft_ref.folders import CONFIG, TEXT, hf_folder, parameters, pruned, sparse_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("folders")
    (tmp / "text.txt").write_text(TEXT)
    return {"text": tmp / "text.txt", "sparse": sparse_folder(tmp / "sparse")}


def read_log(path):
    return importlib.import_module("seft_cli.log.read").read_log(path)


SHORT = ("--steps", "12", "--batch", "2", "--length", "8", "--evolve-every", "4", "--density", "0.2")


def run(cli, folders, out, *more):
    return cli("finetune", folders["sparse"], str(out), "--text", folders["text"], *more)


@pytest.mark.parametrize("preset", [*PRESETS])
def test_TRN_010_every_preset_runs_and_logs_what_it_did(cli, folders, tmp_path, preset):
    log = tmp_path / "run.jsonl"
    window = ("--gradient-window", "2") if preset.startswith("spiel") else ()
    short = SHORT
    if preset == "static":
        code, _, err = run(cli, folders, tmp_path / "out", "--preset", preset, *SHORT)
        assert code == 2
        assert "static has no events, and does not use evolve_every" in err
        at = SHORT.index("--evolve-every")
        short = (*SHORT[:at], *SHORT[at + 2 :])
    code, _, err = run(cli, folders, tmp_path / "out", "--preset", preset, *short, *window, "--log", str(log))
    assert code == 0, err
    assert ("will not be as sparse" in err) == (preset in ("spiel-ag", "spiel-ma"))
    seen = read_log(log)
    assert [step.step for step in seen.steps] == list(range(1, 13))
    assert seen.settings["preset"] == preset
    expected = {"static": []}.get(preset, [2, 6, 10] if preset.startswith("spiel") else [4, 8])
    assert [event.step for event in seen.events] == expected
    for line in log.read_text().splitlines():
        assert json.loads(json.dumps(json.loads(line), allow_nan=False)) == json.loads(line)
    denser = [w for w in seen.warnings if w.name == "denser-at-end"]
    assert bool(denser) == (seen.stored_at_end > seen.budget)
    if preset in ("seft", "literal", "unprotected", "active-only", "no-adapt", "magnitude", "rigl", "set", "static"):
        assert seen.stored_at_end <= seen.budget


@pytest.mark.parametrize("method", ["shira", "lora", "sparse-peft"])
def test_ADP_010_a_method_runs_logs_and_goes_on(cli, folders, tmp_path, method):
    log, short = tmp_path / "run.jsonl", ("--steps", "4", "--batch", "2", "--length", "8", "--rank", "2")
    options = ("--method", method, *short, "--log", str(log))
    assert run(cli, folders, tmp_path / "out", *options, "--stop-after", "2")[0] == 0
    code, out, err = run(cli, folders, tmp_path / "out", *options, "--resume")
    assert code == 0, err
    assert "steps 3 to 4, 0 events" in out
    seen = read_log(log)
    assert [step.step for step in seen.steps] == [1, 2, 3, 4]
    assert seen.settings["preset"] == method
    assert bool([w for w in seen.warnings if w.name == "denser-at-end"]) == (method == "lora")


def test_TRN_010_a_resumed_run_goes_on_with_its_log(cli, folders, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert run(cli, folders, tmp_path / "a", *SHORT, "--log", str(whole))[0] == 0
    assert run(cli, folders, tmp_path / "b", *SHORT, "--log", str(cut), "--stop-after", "5")[0] == 0
    with cut.open("a") as file:
        file.write('{"type":"step","st')  # a process that died while it wrote
    assert run(cli, folders, tmp_path / "b", *SHORT, "--log", str(cut), "--resume")[0] == 0
    a, b = read_log(whole), read_log(cut)
    assert [(s.step, s.loss, s.gradient_norm) for s in a.steps] == [(s.step, s.loss, s.gradient_norm) for s in b.steps]
    assert a.events == b.events
    assert a.stored_at_end == b.stored_at_end


def test_TRN_010_CKP_012_a_run_that_was_killed_before_its_first_state_begins_anew_in_its_log(
    cli, folders, tmp_path, monkeypatch
):
    log, out = tmp_path / "run.jsonl", tmp_path / "out"
    plain = LogWriter.step

    def killed(self, record, *more):
        plain(self, record, *more)
        if record.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(LogWriter, "step", killed)
    code, _, err = run(cli, folders, out, *SHORT, "--log", str(log))
    assert (code, "no state was saved yet" in err) == (130, True)
    monkeypatch.setattr(LogWriter, "step", plain)
    (tmp_path / ".out.state.lock").touch()  # a run that is killed leaves it, and nobody has the lock
    before = log.read_bytes()
    (tmp_path / "text").write_text(TEXT[::-1])
    for other, more in ((folders, ("--seed", "7")), (folders | {"text": tmp_path / "text"}, ())):
        code, _, err = run(cli, other, out, *SHORT, *more, "--log", str(log))
        assert (code, log.read_bytes()) == (2, before)
        assert "TRN-010" in err
    assert "start without --resume" in run(cli, folders, out, *SHORT, "--resume", "--log", str(log))[2]
    code, _, err = run(cli, folders, out, *SHORT, "--log", str(log))
    assert code == 0, err
    assert f"{log} has 5 steps of a run that saved no state; they are repeated" in err
    assert log.read_bytes().startswith(before)
    assert [step.step for step in read_log(log).steps] == list(range(1, 13))
    assert {path.name for path in tmp_path.iterdir()} == {"run.jsonl", "text", "out"}


@pytest.mark.parametrize(
    "content",
    [b"x" * 1000, b"{" + b"x" * 999, b"notes\n", b'{"type": "step", "step": 1, "loss": 1.0}\n', b'{"a": 1}', b"\xff"],
    ids=["no end", "an object cut off", "text", "no run first", "JSON", "no text"],
)
def test_TRN_010_a_file_that_is_no_log_stays_as_it_is(cli, folders, tmp_path, content):
    file = tmp_path / "notes"
    file.write_bytes(content)
    code, _, err = run(cli, folders, tmp_path / "out", *SHORT, "--log", str(file))
    assert (code, err.count("\n")) == (2, 1)
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("cut", [0, 5], ids=["whole", "cut"])
def test_TRN_010_the_log_of_another_run_stays_as_it_is(cli, folders, tmp_path, cut):
    log, out = tmp_path / "run.jsonl", tmp_path / "out"
    assert run(cli, folders, tmp_path / "other", *SHORT, "--seed", "7", "--log", str(log))[0] == 0
    log.write_bytes(log.read_bytes()[: -cut or None])
    before = log.read_bytes()
    code, _, err = run(cli, folders, out, *SHORT, "--log", str(log))
    assert code == 2
    assert "TRN-010" in err
    assert "remove it" in err
    assert not (tmp_path / "out.state").exists()
    assert log.read_bytes() == before
    assert run(cli, folders, out, *SHORT, "--stop-after", "5")[0] == 0
    code, _, err = run(cli, folders, out, *SHORT, "--resume", "--log", str(log))
    assert code == 2
    assert "TRN-010" in err
    assert log.read_bytes() == before
    # and the run goes on without it
    assert run(cli, folders, out, *SHORT, "--resume")[0] == 0


def test_TRN_010_the_log_of_another_model_stays_as_it_is(cli, folders, tmp_path):
    log = tmp_path / "run.jsonl"
    assert run(cli, folders, tmp_path / "one", *SHORT, "--log", str(log))[0] == 0
    before = log.read_bytes()
    other = folders | {"sparse": sparse_folder(tmp_path / "larger", CONFIG | {"intermediate_size": 48})}
    assert run(cli, other, tmp_path / "two", *SHORT, "--stop-after", "5")[0] == 0
    code, _, err = run(cli, other, tmp_path / "two", *SHORT, "--resume", "--log", str(log))
    assert code == 2
    assert "TRN-010" in err
    assert log.read_bytes() == before


def test_TRN_010_the_log_of_a_run_on_another_text_stays_as_it_is(cli, folders, tmp_path):
    log, text = tmp_path / "run.jsonl", tmp_path / "other.txt"
    text.write_text(TEXT[::-1])
    assert run(cli, folders, tmp_path / "one", *SHORT, "--log", str(log))[0] == 0
    before = log.read_bytes()
    other = folders | {"text": text}
    # a run that begins would mix its steps with those of a run that has the same settings and matrices
    for runs in (folders, other):
        code, _, err = run(cli, runs, tmp_path / "two", *SHORT, "--log", str(log))
        assert code == 2
        assert "earlier run" in err
    assert run(cli, other, tmp_path / "two", *SHORT, "--stop-after", "5")[0] == 0
    code, _, err = run(cli, other, tmp_path / "two", *SHORT, "--resume", "--log", str(log))
    assert code == 2
    assert "text" in err
    assert log.read_bytes() == before


def test_TRN_010_a_log_that_lacks_only_its_last_end_keeps_its_last_line(cli, folders, tmp_path):
    log, out = tmp_path / "run.jsonl", tmp_path / "out"
    assert run(cli, folders, out, *SHORT, "--log", str(log), "--stop-after", "5")[0] == 0
    before = log.read_bytes()
    log.write_bytes(before[:-1])
    assert run(cli, folders, out, *SHORT, "--log", str(log), "--resume")[0] == 0
    assert log.read_bytes().startswith(before)
    assert [step.step for step in read_log(log).steps] == list(range(1, 13))


def test_TRN_010_an_empty_file_and_a_run_that_had_ended_give_whole_logs(cli, folders, tmp_path):
    log, out = tmp_path / "run.jsonl", tmp_path / "out"
    log.touch()
    assert run(cli, folders, out, *SHORT, "--log", str(log), "--stop-after", "12", "--save-every", "1")[0] == 0
    assert read_log(log).stored_at_end is not None
    # a process that died between the last state and the model: another log begins with a run line too
    state = tmp_path / "out.state"
    shutil.rmtree(out)
    assert run(cli, folders, out, *SHORT, "--stop-after", "11")[0] == 0
    assert state.exists()
    later = tmp_path / "logs" / "later.jsonl"
    assert run(cli, folders, out, *SHORT, "--log", str(later), "--resume")[0] == 0
    assert [step.step for step in read_log(later).steps] == [12]


def test_CKP_006_another_name_of_the_same_settings_resumes(cli, folders, tmp_path):
    log, out = tmp_path / "run.jsonl", tmp_path / "out"
    literal = ("--preset", "seft", "--set", "counts=values", "--set", "exempt=none", "--set", "adapt=sensitivity")
    assert run(cli, folders, out, *SHORT, *literal, "--log", str(log), "--stop-after", "5")[0] == 0
    code, _, err = run(cli, folders, out, *SHORT, "--preset", "literal", "--log", str(log), "--resume")
    assert code == 0, err
    assert len(read_log(log).steps) == 12


def test_CKP_006_a_state_of_another_dtype_is_refused_in_one_line(cli, folders, tmp_path):
    out = tmp_path / "out"
    assert run(cli, folders, out, *SHORT, "--dtype", "float64", "--stop-after", "3")[0] == 0
    code, _, err = run(cli, folders, out, *SHORT, "--resume")
    assert code == 2
    assert "CKP-006: the training state was made with another dtype: dtype was float64, is float32" in err
    assert run(cli, folders, out, *SHORT, "--dtype", "float64", "--resume")[0] == 0


def test_TRN_007_a_spoilt_step_is_not_saved(cli, folders, tmp_path):
    with np.errstate(all="ignore"):
        code, _, err = run(cli, folders, tmp_path / "out", *SHORT, "--lr", "1e39", "--save-every", "1")
    assert code == 2
    assert "TRN-007: step 1 leaves values of model.layers.0" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", ["1e10", "1e20", "1e30"])
def test_LYR_015_a_run_that_overflows_inside_a_layer_stops_and_saves_nothing(cli, folders, tmp_path, rate):
    # before, RMSNorm gave 0 behind x² = inf, the loss was that of a uniform guess, and a model was saved
    code, _, err = run(cli, folders, tmp_path / "out", *SHORT, "--lr", rate, "--max-norm", "0")
    assert code == 2
    assert "TRN-007: step" in err
    assert "lower learning rate" in err
    assert "Warning" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "scale", "why"),
    [
        ("model.embed_tokens.weight", 1e30, "LYR-015"),
        ("lm_head.weight", 2e38, "loss"),
        ("model.norm.weight", 2e38, "loss"),
    ],
)
def test_TRN_007_a_model_that_overflows_at_first_is_refused_with_advice(cli, folders, tmp_path, name, scale, why):
    config = CONFIG | {"tie_word_embeddings": False}
    tensors = pruned(parameters(config), config)
    tensors[name] *= np.float32(scale)
    huge = hf_folder(tmp_path / "huge", config, tensors)
    assert cli("convert", huge, tmp_path / "sparse", "--to", "sparse")[0] == 0
    code, _, err = run(cli, folders | {"sparse": tmp_path / "sparse"}, tmp_path / "out", *SHORT)
    assert code == 2
    assert "TRN-007: the first step, at the weights as loaded" in err
    assert why in err
    assert "--dtype float64" in err
    assert not (tmp_path / "out").exists()


def test_EVT_011_set_reaches_every_choice(cli, folders, tmp_path):
    log = tmp_path / "run.jsonl"
    wanted = {
        "grow": "curvature",
        "adapt": "activation",
        "drop": "change",
        "scope": "row",
        "evolve_until": 0.75,
        "optimizer": "sgd",
        "momentum": 0.5,
        "budget_by": "rank",
        "rank": 1,
        "regrow": False,
    }
    given = [part for key, value in wanted.items() for part in ("--set", f"{key}={str(value).lower()}")]
    code, _, err = run(cli, folders, tmp_path / "out", *SHORT[:-2], *given, "--log", str(log))
    assert code == 0, err
    settings = read_log(log).settings
    assert {key: settings[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--set", "grow=best"), "GROW-004"),
        (("--set", "grow=moments"), "EVT-012"),
        (("--set", "scope=group"), "EVT-012"),
        (("--set", "nonsense=1"), "there is no setting nonsense"),
        (("--set", "grow"), "write key=value"),
        (("--set", "regrow=maybe"), "true or false"),
        (("--set", "rank=2.5"), "whole number"),
        (("--set", "lr=0.1", "--lr", "0.1"), "given twice"),
        (("--set", "momentum=0.5"), "adamw has no setting momentum"),
        (("--preset", "spiel-ag", "--set", "adapts=always", "--gradient-window", "2"), "EVT-012"),
        (
            ("--preset", "static", "--gradient-window", "2"),
            "static has no events, and does not use evolve_every, gradient_window",
        ),
        (
            ("--preset", "static", "--set", "event_batches=2"),
            "static has no events, and does not use evolve_every, event_batches",
        ),
        (("--preset", "set", "--set", "event_batches=2"), "events of set look at no data"),
    ],
)
def test_EVT_012_contradictions_are_refused_in_one_line(cli, folders, tmp_path, given, said):
    code, _, err = run(cli, folders, tmp_path / "out", *SHORT, *given)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.state").exists()


@pytest.mark.parametrize(
    ("preset", "density", "warned"), [("active-only", "1", True), ("active-only", "0.5", False), ("seft", "1", False)]
)
def test_slots_that_no_event_can_move_are_told_of(cli, folders, tmp_path, preset, density, warned):
    given = ("--preset", preset, "--set", "budget_by=nnz", "--density", density)
    code, _, err = run(cli, folders, tmp_path / "out", *SHORT[:-2], *given)
    assert code == 0, err
    assert ("no slot can move" in " ".join(err.split())) == warned


def test_a_model_that_is_not_pruned_is_told_of(cli, folders, tmp_path):
    config = CONFIG | {"num_hidden_layers": 1}
    dense = hf_folder(tmp_path / "dense-hf", config, parameters(config))
    assert cli("convert", dense, tmp_path / "dense", "--to", "sparse")[0] == 0
    short = ("--text", folders["text"], "--steps", "2", "--batch", "1", "--length", "8")
    code, _, err = cli("finetune", tmp_path / "dense", tmp_path / "out", *short)
    assert code == 0, err
    assert "warning: no weight of " in err
    code, _, err = cli("finetune", folders["sparse"], tmp_path / "other", *short)
    assert code == 0, err
    assert "no weight of" not in err


def test_two_names_of_a_method_are_refused_because_one_would_be_ignored(cli, folders, tmp_path):
    for names in (("--preset", "seft", "--method", "static"), ("--method", "seft", "--method", "seft")):
        code, _, err = run(cli, folders, tmp_path / "out", *names, *SHORT)
        assert (code, "name one method" in err) == (2, True)
    code, out, _ = run(cli, folders, tmp_path / "out", *SHORT)
    assert (code, "active-only: steps 1 to 12" in out) == (0, True)


@pytest.mark.parametrize(("preset", "moves"), [("active-only", False), ("seft", True)])
def test_the_end_says_how_far_slots_and_mask_have_moved(cli, folders, tmp_path, preset, moves):
    file = tmp_path / "run.json"
    code, out, _ = run(cli, folders, tmp_path / "out", "--preset", preset, "--json", file, *SHORT)
    lines = [line for line in out.splitlines() if line.startswith(("slots: ", "mask: "))]
    assert (code, len(lines)) == (0, 2)
    events = [record["event"] for record in json.loads(file.read_text())["records"] if record["event"]]
    back = sum(event["reactivated"] for event in events)
    kept, at_load = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+", lines[1]))
    assert lines[0].endswith(f" grown, {back:,} of them where no weight was stored")
    assert (back > 0, kept < at_load, kept) == (moves, moves, events[-1]["start"])
