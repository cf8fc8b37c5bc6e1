"""The command lines as a person types them: one whole round, and one clear line for everything that cannot be done."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import formats
from formats.dialects.hf import open_hf
from seft_ref.kernels import cpu
from seft_ref.model.config import ModelConfig
from seft_ref.prune.blockwise import prune_sparsegpt
from seft_ref.text.tokens import calibration_starts, read_tokens
from tests.seft_ref.folders import BF16, CONFIG, TEXT, hf_folder, parameters, sparse_folder

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def test_one_round_from_a_dense_model_to_a_repaired_one(cli, tmp_path, text):
    dense = hf_folder(tmp_path / "dense")
    at = {name: tmp_path / name for name in ("pruned", "sparse", "tuned", "back")}
    code, out, _ = cli(
        "prune", dense, at["pruned"], "--method", "wanda", "--sparsity", "0.6", "--calibration", text, "--length", 32
    )
    assert code == 0
    assert "removed" in out
    record = json.loads((at["pruned"] / "pruning.json").read_text())
    assert record["method"] == "wanda"
    assert cli("convert", at["pruned"], at["sparse"], "--to", "sparse")[0] == 0
    report = tmp_path / "report.json"
    arguments = ("--text", text, "--steps", 6, "--evolve-every", 2, "--length", 16, "--density", 0.05, "--lr", 0.01)
    code, out, err = cli("finetune", at["sparse"], at["tuned"], *arguments, "--json", report)
    assert code == 0, err
    tuned = json.loads(report.read_text())
    assert [r["step"] for r in tuned["records"]] == [1, 2, 3, 4, 5, 6]
    assert tuned["stored_weights"] <= tuned["stored_weights_at_load"] == record["of"] - record["removed"]
    assert not (tmp_path / "tuned.state").exists()
    code, out, _ = cli(
        "eval", at["tuned"], "--text", text, "--length", 32, "--windows", 3, "--json", tmp_path / "eval.json"
    )
    assert code == 0
    assert json.loads((tmp_path / "eval.json").read_text())["targets"] == 3 * 31
    assert cli("convert", at["tuned"], at["back"], "--to", "hf")[0] == 0
    sparse = formats.read(at["tuned"])
    with open_hf(at["back"]) as back:
        for name, tensor in sparse.tensors.items():
            assert back[name].values.tobytes() == formats.to_dense(tensor).tobytes()
    code, out, _ = cli("show", at["tuned"])
    assert code == 0
    assert "bitmask" in out
    assert "model.layers.1.mlp.down_proj.weight" in out
    assert cli("show", at["back"])[0] == 0


def test_TRN_004_a_stopped_command_resumes_to_the_same_bytes(cli, tmp_path, text):
    sparse = sparse_folder(tmp_path / "sparse")
    arguments = ("--text", text, "--steps", 7, "--evolve-every", 3, "--length", 16, "--density", 0.05, "--lr", 0.01)
    assert cli("finetune", sparse, tmp_path / "whole", *arguments)[0] == 0
    code, out, _ = cli("finetune", sparse, tmp_path / "parts", *arguments, "--stop-after", 2)
    assert code == 0
    assert "continue with --resume" in out
    assert not (tmp_path / "parts").exists()
    code, _, err = cli("finetune", sparse, tmp_path / "parts", *arguments)
    assert code == 2
    assert "--resume" in err
    assert cli("finetune", sparse, tmp_path / "parts", *arguments, "--resume", "--stop-after", 5)[0] == 0
    assert cli("finetune", sparse, tmp_path / "parts", *arguments, "--resume")[0] == 0
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "parts" / file.name).read_bytes(), file.name


def test_TRN_006_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path, text):
    sparse = sparse_folder(tmp_path / "sparse")
    for name, hash_seed in (("one", "1"), ("two", "2")):
        command = [sys.executable, str(TOOLS / "finetune.py"), str(sparse), str(tmp_path / name), "--text", str(text)]
        command += ["--steps", "4", "--evolve-every", "2", "--length", "16", "--density", "0.05"]
        done = subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_EVT_007_a_pattern_survives_fine_tuning(cli, tmp_path, text):
    dense = hf_folder(tmp_path / "dense")
    code, _, err = cli("prune", dense, tmp_path / "p", "--method", "magnitude", "--pattern", "2:4")
    assert code == 0, err
    files = ("--compress", "zstd", "--shard-size", "5GB", "--verify")
    assert cli("convert", tmp_path / "p", tmp_path / "s", "--to", "sparse", *files)[0] == 0
    code, told, _ = cli("show", tmp_path / "s", "--json")
    assert code == 0
    stored = {entry["encoding"] for name, entry in json.loads(told)["tensors"].items() if "proj" in name}
    assert stored == {"nm 2:4", "bitmask"}  # FMT-081: in rows of 24 both take three bytes
    arguments = ("--text", text, "--steps", 5, "--evolve-every", 2, "--length", 16, "--density", 0.1, "--lr", 0.05)
    assert cli("finetune", tmp_path / "s", tmp_path / "t", *arguments)[0] == 0
    for name, tensor in formats.read(tmp_path / "t").tensors.items():
        if isinstance(tensor, formats.Sparse):
            mask = formats.to_dense(
                formats.Sparse(tensor.shape, tensor.indptr, tensor.indices, np.ones(tensor.nnz, np.int8))
            )
            assert mask.reshape(-1, 4).sum(axis=1).max() <= 2, name


def test_TOP_005_a_pattern_that_the_weights_do_not_have_is_refused(cli, tmp_path, text):
    dense = hf_folder(tmp_path / "dense")
    assert cli("prune", dense, tmp_path / "p", "--method", "magnitude", "--sparsity", "0.5")[0] == 0
    assert cli("convert", tmp_path / "p", tmp_path / "s", "--to", "sparse")[0] == 0
    record = tmp_path / "s" / "pruning.json"
    for pattern in ("2:4", "2:5", "32:64"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pattern": pattern, "sparsity": None}))
        arguments = ("--text", text, "--steps", 5, "--length", 16, "--preset", "seft", "--set", "scope=group")
        code, _, err = cli("finetune", tmp_path / "s", tmp_path / "t", *arguments)
        assert code == 2
        assert "TOP-005" in err
        assert err.count("\n") == 1
        assert {path.name for path in tmp_path.iterdir()} == {"dense", "p", "s", "text.txt"}


def test_PRN_008_the_record_of_pruning_travels_along(cli, tmp_path):
    dense = hf_folder(tmp_path / "dense")
    for name, options, expected in (
        ("magnitude", ("--sparsity", "0.25"), {"method": "magnitude", "sparsity": 0.25, "pattern": None}),
        ("pattern", ("--pattern", "1:4"), {"method": "magnitude", "sparsity": None, "pattern": "1:4"}),
    ):
        assert cli("prune", dense, tmp_path / name, "--method", "magnitude", *options)[0] == 0
        assert cli("convert", tmp_path / name, tmp_path / f"{name}-s", "--to", "sparse")[0] == 0
        record = json.loads((tmp_path / f"{name}-s" / "pruning.json").read_text())
        assert {key: record[key] for key in expected} == expected
        stored = sum(t.nnz for n, t in formats.read(tmp_path / f"{name}-s").tensors.items() if "proj" in n)
        assert record["removed"] == record["of"] - stored


@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_PRN_006_PRN_008_sparsegpt_writes_the_changed_weights(cli, tmp_path, text, dtype, pattern):
    dense = hf_folder(tmp_path / "dense", dtype=dtype)
    amount = ("--sparsity", "0.6") if pattern is None else ("--pattern", pattern)
    calibration = ("--calibration", text, "--length", 32, "--samples", 6)
    code, _, err = cli("prune", dense, tmp_path / "pruned", "--method", "sparsegpt", *amount, *calibration)
    assert code == 0, err
    tensors = parameters(dtype=dtype)
    config = ModelConfig.from_json(CONFIG)
    tokens = np.asarray(read_tokens(text, dense), dtype=np.int64)
    windows = np.stack([tokens[s : s + 32] for s in calibration_starts(len(tokens), 32, 0, 6)])
    groups = None if pattern is None else (2, 4)

    def read(name):
        return tensors[name].astype(np.float32)

    expected = {n: (m, w) for n, m, w in prune_sparsegpt(config, read, [windows[:4], windows[4:]], cpu, 0.6, groups)}
    removed = sum(int((~mask).sum()) for mask, _ in expected.values())
    record = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert (record["method"], record["removed"], record["pattern"]) == ("sparsegpt", removed, pattern)
    assert record["calibration"] == {"samples": 6, "length": 32, "seed": 0}
    with open_hf(tmp_path / "pruned") as folder:
        for name, values in tensors.items():
            written = folder[name].values
            wanted = expected[name][1].astype(dtype) if name in expected else values
            assert written.dtype == dtype
            assert written.tobytes() == wanted.tobytes(), name
            if name in expected:
                mask = expected[name][0]
                assert (written[mask] != values[mask]).mean() > 0.3, name  # columns before the first removed one stay
    assert cli("convert", tmp_path / "pruned", tmp_path / "sparse", "--to", "sparse")[0] == 0


REFUSALS = {
    "the output exists": (("prune", "{dense}", "{dense}", "--method", "magnitude"), "exists"),
    "sparsity above 1": (("prune", "{dense}", "{out}", "--method", "magnitude", "--sparsity", "70"), "PRN-001"),
    "negative sparsity": (("prune", "{dense}", "{out}", "--method", "magnitude", "--sparsity", "-0.1"), "PRN-001"),
    "a pattern that is none": (("prune", "{dense}", "{out}", "--method", "magnitude", "--pattern", "4:2"), "PRN-004"),
    "a pattern that does not divide": (
        ("prune", "{dense}", "{out}", "--method", "magnitude", "--pattern", "2:7"),
        "PRN-004",
    ),
    "an unknown method": (("prune", "{dense}", "{out}", "--method", "magic"), "magnitude, random, wanda, sparsegpt"),
    "owl without text": (
        ("prune", "{dense}", "{out}", "--method", "magnitude", "--layers", "owl"),
        "owl needs --calib",
    ),
    "a spread without owl": (
        ("prune", "{dense}", "{out}", "--method", "magnitude", "--spread", "0.1"),
        "--layers uniform does not use --spread",
    ),
    "a scope that there is not": (
        ("prune", "{dense}", "{out}", "--method", "random", "--scope", "block"),
        "PRN-016: random has no scope block; it has matrix, row, model",
    ),
    "windows without a text": (
        ("prune", "{dense}", "{out}", "--method", "random", "--seed", "1", "--samples", "4"),
        "--method random does not use --samples",
    ),
    "all windows and so many": (
        ("eval", "{sparse}", "--text", "{text}", "--length", "8", "--windows", "2", "--whole"),
        "leave out --windows",
    ),
    "the whole text of tasks": (("eval", "{sparse}", "--tasks", "piqa", "--whole"), "--tasks does not use --whole"),
    "wanda without text": (("prune", "{dense}", "{out}", "--method", "wanda"), "--calibration"),
    "sparsegpt without text": (("prune", "{dense}", "{out}", "--method", "sparsegpt"), "--calibration"),
    "sparsegpt on NaN": (
        ("prune", "{nan}", "{out}", "--method", "sparsegpt", "--calibration", "{text}", "--length", "32"),
        "PRN-006",
    ),
    "pruning a sparse folder": (("prune", "{sparse}", "{out}", "--method", "magnitude"), "not a Hugging Face folder"),
    "pruning NaN": (("prune", "{nan}", "{out}", "--method", "magnitude"), "PRN-006"),
    "no such folder": (("eval", "{tmp}/absent", "--text", "{text}"), "there is no file or folder {tmp}/absent"),
    "no such text": (("eval", "{dense}", "--text", "{tmp}/absent.txt"), "no text file"),
    "text shorter than a window": (("eval", "{dense}", "--text", "{short}"), "one window needs 128"),
    "NaN in the weights": (("eval", "{nan}", "--text", "{text}"), "CKP-003"),
    "an architecture it does not know": (("eval", "{gpt}", "--text", "{text}"), "'gpt2' is not supported"),
    "a config without a key": (("eval", "{keyless}", "--text", "{text}"), "config.json lacks hidden_size"),
    "a truncated file": (("eval", "{cut}", "--text", "{text}"), "FMT-"),
    "a truncated sparse file": (("show", "{cut_sparse}"), "FMT-"),
    "training a dense folder": (("finetune", "{dense}", "{out}", "--text", "{text}"), "not a sparse checkpoint"),
    "training on short text": (("finetune", "{sparse}", "{out}", "--text", "{short}"), "TRN-003"),
    "an unknown preset": (
        ("finetune", "{sparse}", "{out}", "--text", "{text}", "--preset", "best"),
        "EVT-011: unknown preset or method 'best'; choose one of seft, sensitivity, literal",
    ),
    "density 0": (("finetune", "{sparse}", "{out}", "--text", "{text}", "--density", "0"), "DLT-002"),
    "drop fraction 2": (("finetune", "{sparse}", "{out}", "--text", "{text}", "--drop-fraction", "2"), "SCH-001"),
    "resuming nothing": (
        ("finetune", "{sparse}", "{out}", "--text", "{text}", "--length", "16", "--resume"),
        "no training state",
    ),
    "training beyond the positions": (("finetune", "{sparse}", "{out}", "--text", "{text}"), "TRN-017: windows of 128"),
    "evaluating beyond the positions": (("eval", "{sparse}", "--text", "{text}"), "TRN-017: windows of 128"),
    "calibrating beyond the positions": (
        ("prune", "{dense}", "{out}", "--method", "wanda", "--calibration", "{text}", "--length", "65"),
        "use a length of at most 64",
    ),
    "training under another tokenizer": (
        ("finetune", "{foreign}", "{out}", "--text", "{text}", "--length", "16"),
        "TRN-018: the text has the token 220,",
    ),
    "evaluating under another tokenizer": (
        ("eval", "{foreign}", "--text", "{text}", "--length", "16"),
        "tokenizer and model do not belong together",
    ),
    "a SentencePiece model alone": (("eval", "{spiece}", "--text", "{text}"), "pip install transformers sentencepiece"),
    "an unknown target": (("convert", "{dense}", "{out}", "--to", "gguf"), "sparse, hf, delta"),
    "an unknown source": (("convert", "{dense}", "{out}", "--to", "sparse", "--from", "zip"), "'zip' does not exist"),
    "nothing to convert": (("convert", "{tmp}/absent", "{out}", "--to", "sparse"), "there is no"),
    "a file that is nothing": (("convert", "{text}", "{out}", "--to", "sparse"), "in no format that is read"),
    "a delta without base": (("convert", "{dense}", "{out}", "--to", "delta"), "needs a base"),
    "a model as an adapter": (("convert", "{sparse}", "{out}", "--to", "peft"), "takes a delta"),
    "a model as a change": (("convert", "{dense}", "{out}", "--to", "delta", "--base", "{dense}"), "use diff"),
    "no size": (("convert", "{dense}", "{out}", "--to", "sparse", "--shard-size", "5 GB"), "no size"),
    "an unknown codec": (("convert", "{dense}", "{out}", "--to", "sparse", "--compress", "xz"), "FMT-084"),
    "a pattern that is not kept": (
        ("convert", "{dense}", "{out}", "--to", "sparse", "--encoding", "nm:1:2"),
        "FMT-051",
    ),
    "comparing what is not read": (("convert", "{dense}", "{out}", "--to", "binsparse", "--verify"), "leave it out"),
    "an encoding that is not used": (
        ("convert", "{sparse}", "{out}", "--to", "hf", "--encoding", "csr"),
        "--to hf does not use --encoding",
    ),
    "a codec that is not used": (
        ("convert", "{sparse}", "{out}", "--to", "scipy", "--compress", "zstd"),
        "--to scipy does not use --compress",
    ),
    "a cast that is not made": (
        ("convert", "{sparse}", "{out}", "--to", "trl-delta", "--dtype", "F32"),
        "--to trl-delta does not use --dtype",
    ),
    "shards that are not made": (
        ("convert", "{sparse}", "{out}", "--to", "peft", "--shard-size", "1GB"),
        "--to peft does not use --shard-size",
    ),
    "a base that is not used": (
        ("convert", "{dense}", "{out}", "--to", "sparse", "--base", "{dense}"),
        "--to sparse does not use --base",
    ),
    "nothing to expand": (
        ("convert", "{dense}", "{out}", "--to", "sparse", "--expand-quantised"),
        "{dense} is read as hf",
    ),
    "magnitudes with a text": (
        ("prune", "{dense}", "{out}", "--method", "magnitude", "--calibration", "{text}"),
        "--method magnitude does not use --calibration",
    ),
    "magnitudes of a window": (
        ("prune", "{dense}", "{out}", "--method", "magnitude", "--samples", "16"),
        "--method magnitude does not use --samples",
    ),
    "a pattern and a sparsity": (
        ("prune", "{dense}", "{out}", "--method", "magnitude", "--pattern", "2:4", "--sparsity", "0.5"),
        "--pattern 2:4 does not use --sparsity",
    ),
    "checking nothing": (("check", "{tmp}/absent"), "there is no"),
    "showing text": (("show", "{text}"), "no sparse checkpoint"),
    "an unknown encoding": (("convert", "{dense}", "{out}", "--to", "sparse", "--encoding", "zip"), "zip"),
    "showing nothing": (("show", "{tmp}/absent"), "absent"),
    "NaN in a norm": (("prune", "{nan_norm}", "{out}", "--method", "magnitude"), "PRN-006: model.norm.weight"),
    "NaN in the head": (("prune", "{inf_head}", "{out}", "--method", "magnitude"), "PRN-006: lm_head.weight"),
    "a loss without a perplexity": (
        ("eval", "{sharp}", "--text", "{text}", "--length", "8", "--windows", "2", "--json", "{out}"),
        "EVL-003",
    ),
    "a record that is no object": (("finetune", "{record_list}", "{out}", "--text", "{text}"), "PRN-008"),
    "a record that is no JSON": (("finetune", "{record_cut}", "{out}", "--text", "{text}"), "PRN-008"),
    "a record of a pattern that is a number": (("finetune", "{record_number}", "{out}", "--text", "{text}"), "PRN-008"),
    "a record of a pattern that is none": (("finetune", "{record_word}", "{out}", "--text", "{text}"), "PRN-008"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Good and bad folders by name."""
    tmp = tmp_path_factory.mktemp("folders")
    found = {"tmp": tmp, "text": tmp / "text.txt", "short": tmp / "short.txt"}
    found["text"].write_text(TEXT)
    found["short"].write_text("too short")
    found["dense"] = hf_folder(tmp / "dense")
    found["sparse"] = sparse_folder(tmp / "sparse")
    # the byte-level tokenizer of these folders has 256 tokens, and a space is the 220th
    found["foreign"] = sparse_folder(tmp / "foreign", CONFIG | {"vocab_size": 220})
    found["spiece"] = hf_folder(tmp / "spiece")
    (found["spiece"] / "tokenizer.json").rename(found["spiece"] / "tokenizer.model")
    tensors = parameters()
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = np.nan
    found["nan"] = hf_folder(tmp / "nan", tensors=tensors)
    for name, where, config, change in (
        ("nan_norm", "model.norm.weight", CONFIG, np.nan),
        ("inf_head", "lm_head.weight", CONFIG | {"tie_word_embeddings": False}, np.inf),
        ("sharp", "model.norm.weight", CONFIG, 1e4),
    ):
        tensors = parameters(config)
        tensors[where].reshape(-1)[:] *= change
        found[name] = hf_folder(tmp / name, config, tensors)
    for name, record in (("list", "[1]"), ("cut", "{"), ("number", '{"pattern": 4}'), ("word", '{"pattern": "four"}')):
        found[f"record_{name}"] = sparse_folder(tmp / f"record_{name}")
        (found[f"record_{name}"] / "pruning.json").write_text(record)
    for name, config in (
        ("gpt", CONFIG | {"model_type": "gpt2"}),
        ("keyless", {k: v for k, v in CONFIG.items() if k != "hidden_size"}),
    ):
        found[name] = hf_folder(tmp / name)
        (found[name] / "config.json").write_text(json.dumps(config))
    found["cut"] = hf_folder(tmp / "cut")
    found["cut_sparse"] = sparse_folder(tmp / "cut_sparse")
    for folder, file in ((found["cut"], "model.safetensors"), (found["cut_sparse"], "model.sparse.safetensors")):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[: len(whole) // 2])
    return found


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_ends_in_one_line_and_writes_nothing(cli, folders, tmp_path, case):
    (tool, *arguments), said = REFUSALS[case]
    out = tmp_path / "out"
    before = sorted(p.name for p in folders["tmp"].iterdir())
    code, _, err = cli(tool, *(a.format(out=out, **folders) for a in arguments))
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert said.format(out=out, **folders) in lines[0]
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
    assert sorted(p.name for p in folders["tmp"].iterdir()) == before


@pytest.mark.parametrize(
    "tool", ["prune", "convert", "finetune", "eval", "show", "plot", "experiment", "check", "verify", "bench", "demo"]
)
def test_help_explains_every_option(tool, monkeypatch, capsys):
    # in this process, because each would import numba anew; test_generate_line.py starts one, the kit's tests another
    monkeypatch.setattr(sys, "argv", [f"{tool}.py", "--help"])
    monkeypatch.setenv("PYTHONPATH", str(TOOLS.parent))
    monkeypatch.syspath_prepend(TOOLS)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(TOOLS / f"{tool}.py"), run_name="__main__")
    assert not left.value.code
    assert "Usage" in capsys.readouterr().out


def test_bad_usage_exits_2(cli):
    assert cli("eval")[0] == 2
    assert cli("eval", "x", "--text", "y", "--length", "1")[0] == 2
    assert cli("eval", "x", "--nonsense")[0] == 2
