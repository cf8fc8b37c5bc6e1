"""tools/convert.py, check.py and show.py on files: every direction, deltas, damage."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import formats
from formats.dialects.hf import open_hf
from tests.seft_ref.folders import hf_folder, parameters

TOOLS = Path(__file__).resolve().parents[2] / "tools"
FIXTURES = Path(__file__).resolve().parents[1] / "formats" / "fixtures"


@pytest.fixture
def dense(tmp_path):
    """A tiny model folder, two thirds of its weights zero."""
    return hf_folder(tmp_path / "dense", tensors=pruned(3))


def pruned(seed):
    rng = np.random.default_rng(seed)
    found = {}
    for name, values in parameters().items():
        keep = rng.random(values.shape) < 0.34
        # values * keep would leave −0.0
        found[name] = np.where(keep, values, 0).astype(values.dtype) if values.ndim == 2 else values
    return found


def tree(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def same_weights(a, b):
    with open_hf(a) as one, open_hf(b) as two:
        assert list(one) == list(two)
        return all(one[n].values.tobytes() == two[n].values.tobytes() for n in one)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--encoding", "csr"),
        ("--encoding", "gap8", "--compress", "zstd"),
        ("--shard-size", "1KB"),
    ],
)
def test_there_and_back(cli, tmp_path, dense, options):
    at = {name: tmp_path / name for name in ("sparse", "back")}
    code, out, err = cli("convert", dense, at["sparse"], "--to", "sparse", "--verify", *options)
    assert code == 0, err
    assert "bytes" in out
    assert out.endswith("read back: every bit is as it was to be written\n")
    assert cli("convert", at["sparse"], at["back"], "--to", "hf", "--verify")[0] == 0
    assert same_weights(dense, at["back"])
    assert (at["back"] / "config.json").read_bytes() == (dense / "config.json").read_bytes()


def test_FMT_161_writing_anew_keeps_the_state(cli, tmp_path, dense):
    cli("convert", dense, tmp_path / "a", "--to", "sparse", "--encoding", "csr")
    cli("convert", tmp_path / "a", tmp_path / "b", "--to", "sparse", "--compress", "zstd", "--verify")
    cli("convert", tmp_path / "b", tmp_path / "c", "--to", "sparse", "--encoding", "csr")
    with formats.open(tmp_path / "a") as a, formats.open(tmp_path / "b") as b:
        assert a.state_sha256 == b.state_sha256
        assert a.root_sha256 != b.root_sha256
    assert tree(tmp_path / "a") == tree(tmp_path / "c")


def test_FMT_126_a_cast_is_recorded(cli, tmp_path, dense):
    cli("convert", dense, tmp_path / "a", "--to", "sparse", "--dtype", "BF16")
    with formats.open(tmp_path / "a") as reader:
        assert reader.attributes == {"cast": "BF16"}


@pytest.mark.parametrize("kind", ["hf", "sparse"])
def test_diff_and_apply(cli, tmp_path, kind):
    for i in range(3):
        hf_folder(tmp_path / f"hf{i}", tensors=pruned(i))
        cli("convert", tmp_path / f"hf{i}", tmp_path / f"sparse{i}", "--to", "sparse")
    ends = [tmp_path / f"{kind}{i}" for i in range(3)]
    steps = [tmp_path / "d1", tmp_path / "d2"]
    for i, step in enumerate(steps):
        code, _, err = cli("diff", ends[i], ends[i + 1], step, "--verify")
        assert code == 0, err
    code, _, err = cli("apply", ends[0], *steps, tmp_path / "out")
    assert code == 0, err
    if kind == "hf":
        assert same_weights(tmp_path / "out", ends[2])
    else:
        assert tree(tmp_path / "out") == tree(ends[2])
    before = sorted(p.name for p in tmp_path.iterdir())
    code, _, err = cli("apply", ends[0], *steps[::-1], tmp_path / "out2")
    assert code == 2
    assert "FMT-137" in err
    code, _, err = cli("apply", ends[0], steps[0], steps[0], tmp_path / "out2")
    assert (code, "FMT-139" in err) == (2, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_result_like_a_folder_has_no_encoding(cli, tmp_path, dense):
    hf_folder(tmp_path / "target", tensors=pruned(4))
    cli("diff", dense, tmp_path / "target", tmp_path / "d")
    code, _, err = cli("apply", dense, tmp_path / "d", tmp_path / "out", "--compress", "zstd")
    assert (code, err) == (2, f"error: a result like {dense} does not use --compress; leave it out\n")
    assert not (tmp_path / "out").exists()


def test_a_chain_with_damage_leaves_nothing(cli, tmp_path, dense):
    target = hf_folder(tmp_path / "target", tensors=pruned(4))
    cli("diff", dense, target, tmp_path / "d")
    path = tmp_path / "d" / "model.sparse.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-70] ^= 1
    path.write_bytes(raw)
    code, _, err = cli("apply", dense, tmp_path / "d", tmp_path / "out")
    assert code == 2, err
    assert "FMT-0" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("adapter", "to"), [("shira", "peft"), ("super-tuning", "super-tuning")])
def test_adapters_become_deltas_and_go_back(cli, tmp_path, adapter, to):
    base = FIXTURES / "adapters"
    with np.load(base / "base.npz") as found:
        tensors = {name: formats.Dense(found[name]) for name in found}
    formats.write(tmp_path / "base", formats.Checkpoint("model", tensors))
    code, _, err = cli(
        "convert", base / adapter, tmp_path / "d", "--to", "delta", "--base", tmp_path / "base", "--verify"
    )
    assert code == 0, err
    code, _, err = cli("convert", tmp_path / "d", tmp_path / "again", "--to", to, "--base", tmp_path / "base")
    assert code == 0, err
    cli("convert", tmp_path / "again", tmp_path / "d2", "--to", "delta", "--base", tmp_path / "base")
    with formats.open(tmp_path / "d") as one, formats.open(tmp_path / "d2") as two:
        assert one.state_sha256 == two.state_sha256
        assert one.delta == two.delta
    code, _, err = cli("convert", tmp_path / "d", tmp_path / "patch.safetensors", "--to", "trl-delta")
    assert (code, "FMT-154" in err) == (2, True)
    changed = {name: formats.Dense(tensor.values + tensor.values.dtype.type(1)) for name, tensor in tensors.items()}
    formats.write(tmp_path / "other", formats.Checkpoint("model", changed))
    code, _, err = cli("convert", tmp_path / "d", tmp_path / "wrong", "--to", to, "--base", tmp_path / "other")
    assert (code, "FMT-137" in err, (tmp_path / "wrong").exists()) == (2, True, False), err
    arguments = ("--to", "delta", "--base", tmp_path / "base", "--dtype", "BF16")
    code, _, err = cli("convert", base / adapter, tmp_path / "cast", *arguments)
    assert code == 0, err
    with formats.open(tmp_path / "cast") as found:
        assert found.attributes["cast"] == "BF16"
        assert {found.info(name).dtype for name in found.names()} == {"BF16"}
    # the same change as new values can be a patch
    cli("apply", tmp_path / "base", tmp_path / "d", tmp_path / "tuned")
    cli("diff", tmp_path / "base", tmp_path / "tuned", tmp_path / "r")
    code, _, err = cli("convert", tmp_path / "r", tmp_path / "patch.safetensors", "--to", "trl-delta")
    assert code == 0, err
    arguments = ("--to", "delta", "--base", tmp_path / "base", "--encoding", "auto")
    cli("convert", tmp_path / "patch.safetensors", tmp_path / "r2", *arguments)
    with formats.open(tmp_path / "r") as one, formats.open(tmp_path / "r2") as two:
        assert one.delta == two.delta


def test_a_rescued_model_is_told_apart_and_expanded(cli, tmp_path):
    source = FIXTURES / "compressed_tensors" / "0.14.0.1-sparse-bitmask"
    code, _, err = cli("convert", source, tmp_path / "sparse", "--to", "sparse", "--verify")
    assert code == 0, err
    assert cli("convert", source, tmp_path / "hf", "--to", "hf", "--verify")[0] == 0
    with open_hf(tmp_path / "hf") as found:
        assert not any("bitmask" in name for name in found)


@pytest.mark.parametrize("to", ["hf", "torch-csr", "scipy", "binsparse"])
def test_FMT_154_a_training_state_is_no_model_to_others(cli, tmp_path, to):
    state = formats.Checkpoint("training-state", {"w": formats.Dense(np.ones(3))}, {"step": 1})
    formats.write_file(tmp_path / "state", state)
    code, _, err = cli("convert", tmp_path / "state", tmp_path / "out", "--to", to)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: FMT-154: the checkpoint has kind 'training-state', which ")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_FMT_154_what_has_no_place_is_left_out_and_named(cli, tmp_path, dense):
    cli("convert", dense, tmp_path / "s", "--to", "sparse", "--dtype", "BF16")
    companions = "config.json, generation_config.json, tokenizer.json"
    assert {path.name for path in dense.iterdir()} == {*companions.split(", "), "model.safetensors"}
    for to, told in (("hf", "attribute cast"), ("torch-csr", f"attribute cast, {companions}")):
        code, _, err = cli("convert", tmp_path / "s", tmp_path / to, "--to", to)
        assert (code, err) == (0, f"{to} has no place for {told}: left out\n")
    # nothing is said where all of it has a place
    assert cli("convert", dense, tmp_path / "again", "--to", "hf")[2] == ""
    # attributes of a delta are those of what it makes, and a file of its own goes no further than the folder
    with formats.open(tmp_path / "s") as found:
        norm = found["model.norm.weight"].values.copy()
        norm[3] *= 2
        changed = {"model.norm.weight": formats.Dense(norm)}
        made = formats.Checkpoint("model", {**found, **changed}, {"note": 1}, files={"card.md": b"hi", **found.files})
        formats.write(tmp_path / "noted", made)
    assert cli("diff", tmp_path / "hf", tmp_path / "noted", tmp_path / "d")[0] == 0
    code, _, err = cli("apply", tmp_path / "hf", tmp_path / "d", tmp_path / "applied")
    assert (code, err) == (0, "hf has no place for attribute note: left out\n")
    assert (tmp_path / "applied" / "card.md").read_bytes() == b"hi"
    assert cli("diff", tmp_path / "s", tmp_path / "noted", tmp_path / "d2")[0] == 0
    code, _, err = cli("convert", tmp_path / "d2", tmp_path / "patch.safetensors", "--to", "trl-delta")
    assert (code, err) == (0, "trl-delta has no place for attribute note, card.md: left out\n")


def masked(folder):
    """A model folder whose pruned weights are those of W * mask: −0.0 where they were negative, a few hundred."""
    rng = np.random.default_rng(8)
    found = {n: w * (rng.random(w.shape) < 0.3) if w.ndim == 2 else w for n, w in parameters().items()}
    negative = sum(int(((w == 0) & np.signbit(w)).sum()) for n, w in found.items() if w.ndim == 2)
    stored = sum(int((w != 0).sum()) for w in found.values() if w.ndim == 2)
    return hf_folder(folder, tensors=found), negative, stored


def stored_in(folder):
    with formats.open(folder) as reader:
        infos = [reader.info(name) for name in reader.names()]
        return sum(info.nnz for info in infos if len(info.shape) == 2), dict(reader.attributes)


def test_FMT_127_a_run_says_what_became_of_negative_zeros(cli, tmp_path):
    folder, negative, stored = masked(tmp_path / "hf")
    assert negative > stored
    count = f"{negative:,} entries of −0.0"
    code, _, err = cli("convert", folder, tmp_path / "any", "--to", "sparse", "--verify")
    told = f"{count} were left out as absent weights, and come back as +0.0; --zeros positive stores them\n"
    assert (code, err) == (0, told)
    assert stored_in(tmp_path / "any") == (stored, {"negative_zeros_left_out": negative})
    code, _, err = cli("convert", folder, tmp_path / "positive", "--to", "sparse", "--zeros", "positive", "--verify")
    assert (code, err) == (0, f"{count} are stored as weights; --zeros any leaves them out\n")
    assert stored_in(tmp_path / "positive") == (stored + negative, {})
    assert cli("convert", tmp_path / "positive", tmp_path / "back", "--to", "hf")[0] == 0
    assert same_weights(folder, tmp_path / "back")
    code, _, err = cli("convert", tmp_path / "any", tmp_path / "back2", "--to", "hf")
    assert (code, err) == (0, "hf has no place for attribute negative_zeros_left_out: left out\n")
    with open_hf(folder) as one, open_hf(tmp_path / "back2") as two:
        assert all((one[n].values == two[n].values).all() and not _negative(two[n].values) for n in one)


def _negative(values):
    return values.ndim == 2 and ((values == 0) & np.signbit(values)).any()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to", "sparse", "--zeros", "none"), "FMT-084: zeros 'none' does not exist, expected any or positive"),
        (("--to", "hf", "--zeros", "any"), "--to hf does not use --zeros; leave it out"),
    ],
)
def test_FMT_127_other_uses_are_refused(cli, tmp_path, dense, arguments, told):
    code, _, err = cli("convert", dense, tmp_path / "out", *arguments)
    assert (code, err) == (2, f"error: {told}\n")
    assert not (tmp_path / "out").exists()


def test_FMT_127_a_sparse_checkpoint_says_itself_what_is_absent(cli, tmp_path, dense):
    cli("convert", dense, tmp_path / "s", "--to", "sparse")
    code, _, err = cli("convert", tmp_path / "s", tmp_path / "out", "--to", "sparse", "--zeros", "any")
    assert (code, "says itself what is absent; leave it out" in err) == (2, True)


@pytest.mark.parametrize("kind", ["hf", "any", "positive"])
def test_FMT_127_deltas_keep_every_bit_of_what_they_are_made_of(cli, tmp_path, kind):
    """A folder is a model of dense tensors to diff and apply: the option concerns conversion alone."""
    masked(tmp_path / "hf0")
    hf_folder(tmp_path / "hf1", tensors=pruned(1))
    for i in range(2) if kind != "hf" else ():
        cli("convert", tmp_path / f"hf{i}", tmp_path / f"{kind}{i}", "--to", "sparse", "--zeros", kind)
    ends = [tmp_path / f"{kind}{i}" for i in range(2)]
    for name, (base, target) in {"up": ends, "down": ends[::-1]}.items():
        code, out, err = cli("diff", base, target, tmp_path / name, "--verify")
        assert code == 0, err
        assert out.endswith(f"applied to {base}: every bit is that of {target}\n")
        code, _, err = cli("apply", base, tmp_path / name, tmp_path / f"{name}-out")
        assert code == 0, err
        if kind == "hf":
            assert same_weights(tmp_path / f"{name}-out", target)
        else:
            assert tree(tmp_path / f"{name}-out") == tree(target)


def test_FMT_123_every_command_names_what_a_folder_leaves_behind(cli, tmp_path, dense):
    (dense / "1_Pooling").mkdir()
    (dense / "[red]x.bin").write_bytes(b"")
    told = "left out: 1_Pooling/ (a folder), [red]x.bin (weights that are not read)\n"
    target = hf_folder(tmp_path / "target", tensors=pruned(4))
    for arguments in (
        ("convert", dense, tmp_path / "s", "--to", "sparse"),
        ("convert", dense, tmp_path / "hf", "--to", "hf"),
        ("diff", target, dense, tmp_path / "d"),
        ("diff", dense, target, tmp_path / "e"),
        ("apply", dense, tmp_path / "e", tmp_path / "out"),
    ):
        code, _, err = cli(*arguments)
        assert (code, err) == (0, "" if arguments[:2] == ("diff", dense) else told)
    code, _, err = cli("prune", dense, tmp_path / "p", "--method", "magnitude")
    assert code == 0, err
    assert told in err


def test_a_torch_file_is_written_compared_and_read_again(cli, tmp_path, dense):
    cli("convert", dense, tmp_path / "s", "--to", "sparse")
    code, _, err = cli("convert", tmp_path / "s", tmp_path / "m.pt", "--to", "torch-csr", "--dtype", "F32", "--verify")
    assert code == 0, err
    assert "config.json" in err
    assert cli("convert", tmp_path / "m.pt", tmp_path / "again", "--to", "sparse", "--verify")[0] == 0


# check -------------------------------------------------------------------------------------------


def test_check_finds_every_broken_rule(cli, tmp_path, dense):
    cli("convert", dense, tmp_path / "s", "--to", "sparse", "--shard-size", "12KB")
    code, out, _ = cli("check", tmp_path / "s")
    assert (code, "no rule is broken" in out) == (0, True)
    parts = sorted((tmp_path / "s").glob("*.safetensors"))
    assert len(parts) > 2
    for path, at in ((parts[0], -1), (parts[1], -40)):
        raw = bytearray(path.read_bytes())
        raw[at] ^= 0x80
        path.write_bytes(raw)
    parts[2].write_bytes(parts[2].read_bytes()[:-1])
    (tmp_path / "s" / "config.json").write_text("{}")
    (tmp_path / "s" / "model.sparse-old.safetensors").write_bytes(b"")
    code, out, _ = cli("check", tmp_path / "s")
    assert code == 1
    clauses = {line.split("FMT-")[1][:3] for line in out.splitlines() if "FMT-" in line}
    assert {"035", "094", "103"} <= clauses
    assert clauses & {"036", "090"}
    assert f"{out.count('FMT-')} rules are broken" in out


def test_check_of_one_file_tells_what_its_tensors_break(cli, tmp_path):
    vectors = json.loads((TOOLS.parent / "conformance" / "vectors" / "file-refused.json").read_text())
    assert vectors
    path = tmp_path / "bad.safetensors"
    formats.write_file(
        path, formats.Checkpoint("model", {"a": formats.Dense(np.ones(3)), "b": formats.Dense(np.ones(3))})
    )
    raw = path.read_bytes().replace(b'\\"dtype\\":\\"F64\\"', b'\\"dtype\\":\\"F63\\"')
    path.write_bytes(raw)
    code, out, _ = cli("check", path)
    assert code == 1
    assert [("FMT-093" in out), out.count("FMT-006")] == [True, 2]


@pytest.mark.parametrize("raw", [b"", b"12345678", bytes(8) + b"{}"])
def test_check_of_rubbish_names_a_rule(cli, tmp_path, raw):
    (tmp_path / "x.safetensors").write_bytes(raw)
    code, out, _ = cli("check", tmp_path / "x.safetensors")
    assert code == 1
    assert "FMT-02" in out


# show --------------------------------------------------------------------------------------------


def test_show_tells_people_and_programs_the_same(cli, tmp_path, dense):
    cli("convert", dense, tmp_path / "s", "--to", "sparse")
    told = json.loads(cli("show", tmp_path / "s", "--json", "--digests")[1])
    table = cli("show", tmp_path / "s", "--digests")[1]
    assert told["state_sha256"] in table
    assert told["root_sha256"] in table
    for tensor in told["tensors"].values():
        assert tensor["content_sha256"] in table
        assert all(digest in table for digest in tensor["sections"].values())
    other = json.loads(cli("show", dense, "--json")[1])
    assert set(other["tensors"]) == set(told["tensors"])
    shutil.rmtree(dense)


def test_check_sends_a_hugging_face_folder_to_convert(cli, tmp_path):
    folder = hf_folder(tmp_path / "llama")
    code, out, err = cli("check", folder)
    assert (code, out) == (2, "")
    assert f"{folder} is a Hugging Face folder; seft convert {folder} DST --to sparse" in err
