"""One limit for a run, memory that runs out, inputs that are no files: one line each, soon, and nothing is written."""

import importlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import formats
import seft_ref
from formats.container import DTYPES
from formats.dialects.scipy_files import read_scipy, write_scipy
from formats.dialects.sources import open_source
from formats.errors import ExpansionTooLarge
from formats.validate import check_limit
from seft_ref.model.config import OTHER_FAMILIES
from tests.formats.test_leftovers import end, paused
from tests.seft_cli.calling import call
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder


@pytest.fixture
def cli(monkeypatch, capfd):
    """As every test's, with what other programs print."""
    return lambda name, *arguments: call(monkeypatch, capfd, name, *arguments)


@pytest.fixture
def wide(tmp_path):
    """A folder of a few kilobytes whose tensors are 2 GiB together once they are dense, and 128 MiB each."""
    empty = formats.Sparse((16, 1 << 22), np.zeros(17, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float16))
    formats.write(tmp_path / "wide", formats.Checkpoint("model", {f"w{i:02}": empty for i in range(16)}))
    return tmp_path / "wide"


def test_FMT_098_small_files_that_expand_to_gigabytes_are_refused(cli, wide, tmp_path):
    assert sum(file.stat().st_size for file in wide.iterdir()) < 20_000
    code, _, err = cli("convert", wide, tmp_path / "out", "--to", "hf")
    assert code == 2
    assert err.startswith("error: FMT-098")
    assert "--max-bytes 2147483648" in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["wide"]


def test_FMT_098_the_limit_of_a_run_is_an_option(cli, tmp_path):
    tensor = formats.from_dense(np.eye(64, dtype=np.float32))
    formats.write(tmp_path / "m", formats.Checkpoint("model", {"a": tensor, "b": tensor}))
    code, _, err = cli("convert", tmp_path / "m", tmp_path / "no", "--to", "hf", "--max-bytes", "20KB")
    assert code == 2
    assert "would take 32768 bytes once expanded, at most 20000" in err
    assert not (tmp_path / "no").exists()
    assert cli("convert", tmp_path / "m", tmp_path / "yes", "--to", "hf", "--max-bytes", "32KiB", "--verify")[0] == 0
    for tool, *more in (
        ("convert", tmp_path / "m", tmp_path / "x", "--to", "sparse"),
        ("diff", tmp_path / "m", tmp_path / "m", tmp_path / "x"),
        ("apply", tmp_path / "m", tmp_path / "m", tmp_path / "x"),
    ):
        code, _, err = cli(tool, *more, "--max-bytes", 10)
        assert code == 2
        assert "FMT-098" in err
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_FMT_098_check_keeps_the_limit_of_a_folder_that_is_damaged_too(cli, tmp_path, damaged):
    tensor = formats.from_dense(np.eye(64, dtype=np.float32))
    formats.write(tmp_path / "m", formats.Checkpoint("model", {"a": tensor, "b": tensor}), shard_bytes=1)
    if damaged:
        (tmp_path / "m" / "model.sparse.index.json").unlink()
    code, out, err = cli("check", tmp_path / "m", "--max-bytes", 2000)
    assert (code, out) == (2, "")
    assert "FMT-098" in err
    assert cli("check", tmp_path / "m", "--max-bytes", 3000)[0] == int(damaged)


@pytest.mark.parametrize("tool", ["eval", "generate", "finetune"])
def test_FMT_098_tools_that_load_a_model_keep_the_limit(cli, tmp_path, tool):
    (tmp_path / "text").write_text(TEXT)
    model = sparse_folder(tmp_path / "m")
    arguments = {
        "eval": (model, "--text", tmp_path / "text"),
        "generate": (model, "hello"),
        "finetune": (model, tmp_path / "out", "--text", tmp_path / "text", "--length", 16, "--steps", 1),
    }[tool]
    code, _, err = cli(tool, *arguments, "--max-bytes", "10KB")
    assert code == 2
    assert "FMT-098" in err
    assert "--max-bytes" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["0", "-1", "1.5GB", "5XB", "GB", "", "9" * 40, "\u0665MB"])
def test_a_size_that_is_none_is_refused(cli, tmp_path, size):
    formats.write(tmp_path / "m", formats.Checkpoint("model", {"a": formats.Dense(np.zeros(3, np.float32))}))
    code, _, err = cli("convert", tmp_path / "m", tmp_path / "x", "--to", "hf", f"--max-bytes={size}")
    assert code == 2
    assert "is no size" in err


def test_FMT_098_what_is_held_in_memory_together_is_counted_together(tmp_path):
    dense = formats.Dense(np.zeros(1000, np.float32))
    write_scipy(tmp_path / "s", formats.Checkpoint("model", {"a": dense, "b": dense}))
    assert len(read_scipy(tmp_path / "s", limit=20_000).tensors) == 2
    with pytest.raises(ExpansionTooLarge):
        read_scipy(tmp_path / "s", limit=6_000)
    formats.write(tmp_path / "m", formats.Checkpoint("model", {"a": dense, "b": dense}), compress="zstd")
    with pytest.raises(ExpansionTooLarge):
        open_source(tmp_path / "m", limit=7_999)
    assert len(open_source(tmp_path / "m", limit=8_000).tensors) == 2


@pytest.mark.parametrize("encoding", ["auto", "csr", "gap8", "bitmask"])
def test_memory_bytes_is_what_the_arrays_take(tmp_path, encoding):
    rng = np.random.default_rng(0)
    tensors = {
        name: formats.from_dense((rng.random((7, 33)) < 0.3).astype(DTYPES[name]))
        for name in ("F32", "F16", "F4", "I8")
    }
    tensors["mask"] = formats.from_flat((5, 6), np.array([1, 7, 29]))
    tensors["dense"] = formats.Dense(np.zeros((3, 4), np.float64))
    formats.write(tmp_path / "m", formats.Checkpoint("model", tensors), encoding=encoding)
    arrays = 0
    with formats.open(tmp_path / "m") as reader:
        for tensor in reader.values():
            for part in ("values", "indptr", "indices"):
                arrays += getattr(tensor, part).nbytes if hasattr(tensor, part) else 0
        assert reader.memory_bytes == arrays


def test_FMT_098_a_limit_is_compared_exactly():
    check_limit(5, 5, "x")
    check_limit(5, None, "x")
    with pytest.raises(ExpansionTooLarge, match="limit=6"):
        check_limit(6, 5, "x")


@pytest.mark.parametrize("tool", ["show", "check", "convert", "eval", "generate"])
def test_FMT_167_memory_that_runs_out_is_one_line(cli, tmp_path, tool, monkeypatch):
    (tmp_path / "text").write_text(TEXT)
    model = sparse_folder(tmp_path / "m")

    def full(*_arguments, **_options):
        raise MemoryError("Unable to allocate 64.0 GiB for an array")

    names = {"show": "of_sparse", "check": "violations", "convert": "open_source"}
    where = {"convert": "formats.dialects.sources", "eval": "seft_ref.runs.source", "generate": "seft_ref.runs.source"}
    where = where.get(tool, f"seft_cli.commands.{tool}")
    monkeypatch.setattr(importlib.import_module(where), names.get(tool, "load_model"), full)
    arguments = {"convert": (tmp_path / "x", "--to", "hf"), "eval": ("--text", tmp_path / "text"), "generate": ("a",)}
    code, _, err = cli(tool, model, *arguments.get(tool, ()))
    assert code == 2
    assert err.splitlines()[-1].startswith("error: memory ran out (Unable to allocate 64.0 GiB")
    assert "Traceback" not in err


@pytest.fixture
def alarm():
    def ring(_number, _frame):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(os.name != "posix", reason="pipes")
@pytest.mark.parametrize(
    "line",
    [
        ("show", "PIPE"),
        ("check", "PIPE"),
        ("convert", "PIPE", "OUT", "--to", "hf"),
        ("convert", "PIPE", "OUT", "--to", "hf", "--from", "torch"),
        ("diff", "PIPE", "M", "OUT"),
        ("diff", "M", "PIPE", "OUT"),
        ("apply", "M", "PIPE", "OUT"),
        ("eval", "M", "--text", "PIPE"),
        ("eval", "PIPE", "--text", "M"),
        ("eval", "M", "--text", "M/config.json", "--json", "PIPE"),
        ("generate", "PIPE", "a"),
        ("prune", "PIPE", "OUT", "--method", "magnitude"),
        ("prune", "M", "OUT", "--method", "wanda", "--calibration", "PIPE"),
        ("finetune", "PIPE", "OUT", "--text", "M/config.json"),
        ("finetune", "M", "OUT", "--text", "PIPE"),
        ("finetune", "M", "OUT", "--text", "M/config.json", "--log", "PIPE"),
        ("plot", "PIPE", "OUT.png"),
        ("plot", "M/config.json", "PIPE.png"),
    ],
    ids=" ".join,
)
def test_FMT_165_no_tool_waits_for_a_pipe(cli, tmp_path, alarm, line):
    sparse_folder(tmp_path / "M")
    for name in ("PIPE", "PIPE.png"):
        os.mkfifo(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    capital = [tmp_path / word if word[0].isupper() else word for word in line]
    code, _, err = cli(*capital)
    assert code == 2
    assert err.startswith("error: ")
    assert "PIPE" in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "line",
    [
        "prune {} {out} --method magnitude",
        "prune {} {out} --quantize int8",
        "convert {} {out} --to sparse",
        "convert {out}-hf {out} --to delta --base {}",
        "eval {} --text {text}",
        "finetune {} {out} --text {text}",
        "generate {} hello",
        "show {}",
    ],
)
def test_an_id_of_the_hub_is_told_from_a_folder_that_is_not_there(cli, tmp_path, monkeypatch, line):
    hf_folder(tmp_path / "out-hf")
    text = tmp_path / "text"
    text.write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    words = line.format("some-lab/Llama-3.2_1B", out=tmp_path / "out", text=text).split()
    code, _, err = cli(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert "; if it is a model of the Hugging Face hub, download it and name the folder: " in err
    assert err.endswith("hf download some-lab/Llama-3.2_1B --local-dir Llama-3.2_1B\n")
    (tmp_path / "some-lab").mkdir()
    assert cli(*words)[2].endswith("there is no file or folder some-lab/Llama-3.2_1B\n")
    for other in ("a/b/c", "/no/b", "a", "a b/c", "../b"):
        assert "hf download" not in cli("show", other)[2]


@pytest.mark.parametrize(
    "line",
    [
        "prune {hf} {out} --method magnitude",
        "prune {hf} {out} --quantize int8",
        "eval {hf} --text {text}",
        "finetune {sparse} {out} --text {text}",
        "generate {sparse} hello",
    ],
)
def test_MDL_002_a_model_of_another_family_gets_the_way_that_works(cli, tmp_path, line):
    source = hf_folder(tmp_path / "hf")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "gemma3_text"}))
    assert cli("convert", source, tmp_path / "sparse", "--to", "sparse")[0] == 0
    (tmp_path / "text").write_text(TEXT)
    code, _, err = cli(
        *line.format(hf=source, sparse=tmp_path / "sparse", out=tmp_path / "o", text=tmp_path / "text").split()
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "error: MDL-002: model_type 'gemma3_text' is not supported; this engine knows llama, mistral, " in err
    assert err.endswith(f"is pruned, trained and read in PyTorch, and stored by seft convert: {OTHER_FAMILIES}\n")
    assert (Path(seft_ref.__file__).parents[1] / OTHER_FAMILIES).is_file()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("tool", ["show", "check"])
def test_FMT_166_what_a_killed_writer_left_is_named(cli, tmp_path, tool):
    model = formats.Checkpoint("model", {"a": formats.Dense(np.zeros(3, np.float32))})
    formats.write_file(tmp_path / "m.sparse", model)
    end(paused(formats.write_file, tmp_path / "m.sparse"))
    code, _, err = cli(tool, tmp_path / "m.sparse")
    assert code == 0
    assert ".m.sparse.tmp-" in err
    assert "rm -r" in err
    assert json.loads(cli(tool, tmp_path / "m.sparse", "--json")[1])["schema"] == f"seft.{tool}/1"
