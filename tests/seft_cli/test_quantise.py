"""Quantised models from the command line: rounded, measured, fine-tuned and converted, and what is refused."""

import json

import pytest

import formats
from tests.seft_ref.folders import TEXT, sparse_folder

SHORT = (
    *("--steps", 4, "--batch", 2, "--length", 12, "--density", 0.1, "--evolve-every", 2, "--lr", 0.01),
    *("--method", "seft"),
)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return sparse_folder(tmp_path / "model")


@pytest.mark.parametrize("calibration", [(), ("--calibration", "text.txt", "--samples", 2, "--length", 12)])
def test_a_pruned_model_is_quantised_measured_tuned_and_converted(cli, model, tmp_path, monkeypatch, calibration):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("prune", "model", "q", "--quantize", "int4:g4", *calibration)
    assert code == 0, err
    how = "by GPTQ" if calibration else "to nearest"
    assert f"q: 3,627 weights on int4:g4 {how}, " in out
    assert cli("check", "q")[0] == 0
    code, out, _ = cli("eval", "q", "--text", "text.txt", "--length", 12)
    assert code == 0
    assert "perplexity" in out
    code, out, err = cli("finetune", "q", "beside", "--text", "text.txt", *SHORT)
    assert code == 0, err
    assert "weights are not those of the codes" in out
    code, out, err = cli("finetune", "q", "grid", "--text", "text.txt", "--merge", "grid", *SHORT, "--json", "t.json")
    assert code == 0, err
    merged = json.loads((tmp_path / "t.json").read_text())["merged"]
    assert 0 < merged["vanished"] < merged["changed"]
    assert set(formats.read("grid").tensors) == set(formats.read("q").tensors)
    code, _, err = cli("convert", "beside", "hf", "--to", "hf")
    assert code != 0
    assert "QNT-009" in err
    assert cli("convert", "beside", "hf", "--to", "hf", "--expand-quantised")[0] == 0
    one, other = (cli("eval", folder, "--text", "text.txt", "--length", 12)[1] for folder in ("beside", "hf"))
    assert one.split()[:2] == other.split()[:2]


def test_QNT_009_a_delta_from_floats_to_codes_makes_no_folder_of_weights(cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("convert", "model", "floats", "--to", "hf")[0] == 0
    assert cli("prune", "model", "q", "--quantize", "int4:g4")[0] == 0
    assert cli("diff", "floats", "q", "step")[0] == 0
    code, _, err = cli("apply", "floats", "step", "out")
    assert code != 0
    assert "QNT-009" in err
    assert not (tmp_path / "out").exists()


def test_the_text_of_codes_that_are_held_as_codes_is_that_of_their_weights(cli, model, tmp_path):
    assert cli("prune", model, tmp_path / "q", "--quantize", "int4")[0] == 0
    code, said, _ = cli("generate", tmp_path / "q", "the quick", "--max-tokens", 6)
    assert code == 0
    assert said.strip()
    assert cli("generate", tmp_path / "q", "the quick", "--max-tokens", 6, "--compact")[:2] == (0, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--quantize", "int4:g4", "--method", "magnitude"), "--method"),
        (("--quantize", "int4:g4", "--sparsity", 0.5), "--sparsity"),
        (("--quantize", "int4:g4", "--layers", "owl"), "--layers"),
        (("--quantize", "int4:g4", "--samples", 2), "--samples"),
        (("--quantize", "int5"), "QNT-001"),
        (("--quantize", "int4:g9"), "QNT-001"),
        ((), "name --method"),
    ],
)
def test_what_does_not_go_together_is_refused(cli, model, tmp_path, arguments, said):
    code, _, err = cli("prune", model, tmp_path / "q", *arguments)
    assert code != 0
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "q").exists()


def test_a_run_on_codes_is_expected_to_hold_their_weights(cli, model, tmp_path):
    from seft_cli.memory import itemsize_of, memory_of
    from seft_ref import settings_of

    cli("prune", model, tmp_path / "q", "--quantize", "int8")
    settings = settings_of("seft", steps=4)
    assert itemsize_of(tmp_path / "q", None) == itemsize_of(model, None) == 4
    assert itemsize_of(tmp_path / "q", "float64") == 8
    assert memory_of(tmp_path / "q", settings) == memory_of(model, settings)


def test_what_would_be_measured_and_then_rounded_is_refused(cli, model, tmp_path):
    cli("prune", model, tmp_path / "q", "--quantize", "int8")
    more = ("--text", tmp_path / "text.txt", "--valid", tmp_path / "text.txt", "--merge", "grid", *SHORT)
    code, _, err = cli("finetune", tmp_path / "q", tmp_path / "out", *more)
    assert code == 2
    assert "leave out --valid or --merge" in err
    assert not (tmp_path / "out").exists()


def test_weights_beside_codes_count_once_in_the_sparsity_that_is_shown(cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("prune", "model", "q", "--quantize", "int4:g4")[0] == 0
    assert cli("finetune", "q", "beside", "--text", "text.txt", *SHORT)[0] == 0
    totals = [
        next(line for line in cli("show", folder)[1].splitlines() if "sparse tensors" in line)
        for folder in ("q", "beside")
    ]
    assert totals[0].split()[:6] == totals[1].split()[:6]
