"""A disk that fills up while a command writes: one line, exit code 2, and nothing half-written, whatever the target."""

import os
import signal
import sys
import warnings

import numpy as np
import pytest

import formats
import seft_ref
from formats import delta
from formats.conversion import TO, convert
from formats.records import Dense, from_dense
from seft_cli import app
from tests.seft_ref.folders import BF16, sparse_folder

resource = pytest.importorskip("resource")  # not on Windows
pytestmark = pytest.mark.skipif(os.name != "posix", reason="fork, signals and limits of POSIX")
for library in ("safetensors", "torch", "xxhash", "zstandard"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with what the commands read: models, one of codes, deltas of both operations, and an adapter."""
    place = tmp_path_factory.mktemp("sources")
    sparse_folder(place / "model", dtype=BF16)
    seft_ref.quantise(place / "model", place / "codes", "int8:g8")
    bare = {name: formats.read(place / "model").tensors[name] for name in ("model.layers.0.mlp.up_proj.weight",)}
    (name,) = bare
    after = formats.to_dense(bare[name])
    after[np.nonzero(after)[0][:20], np.nonzero(after)[1][:20]] *= 2
    before = formats.Checkpoint("model", bare)
    target = formats.Checkpoint("model", {name: from_dense(after)})
    formats.write(place / "before", before)
    formats.write(place / "after", target)
    for op in ("replace", "add"):
        formats.write(place / op, delta.diff(before, target, op))
    convert(place / "add", place / "adapter", "peft", base=place / "before")
    dense = [formats.Checkpoint("model", {name: Dense(formats.to_dense(m.tensors[name]))}) for m in (before, target)]
    formats.write(place / "dense", dense[0])
    convert(dense[0], place / "dense-hf", "hf")
    formats.write(place / "dense-step", delta.diff(*dense))
    return place


BASE = ("--base", "before")
COMMANDS = {
    "convert to sparse": ("convert", "model-hf", "OUT", "--to", "sparse"),
    "convert to hf": ("convert", "model", "OUT", "--to", "hf"),
    "convert to delta": ("convert", "adapter", "OUT", "--to", "delta", *BASE),
    "convert to compressed-tensors": ("convert", "codes", "OUT", "--to", "compressed-tensors"),
    "convert to gptq": ("convert", "codes", "OUT", "--to", "gptq"),
    "convert to torch-csr": ("convert", "model", "OUT", "--to", "torch-csr"),
    "convert to peft": ("convert", "add", "OUT", "--to", "peft", *BASE),
    "convert to super-tuning": ("convert", "add", "OUT", "--to", "super-tuning", *BASE),
    "convert to seft": ("convert", "add", "OUT", "--to", "seft", *BASE),
    "convert to trl-delta": ("convert", "replace", "OUT", "--to", "trl-delta"),
    "convert to weight-sync": ("convert", "replace", "weight_v000001", "--to", "weight-sync", *BASE),
    "convert to scipy": ("convert", "model", "OUT", "--to", "scipy", "--dtype", "F32"),
    "convert to binsparse": ("convert", "model", "OUT", "--to", "binsparse", "--dtype", "F32"),
    "convert to bitmasks": ("convert", "model", "OUT", "--to", "compressed-tensors"),
    "compressed sections": ("convert", "model-hf", "OUT", "--to", "sparse", "--compress", "zstd"),
    "several parts": ("convert", "model-hf", "OUT", "--to", "sparse", "--shard-size", "8KB"),
    "packed file": ("convert", "before", "OUT.zst", "--to", "sparse", "--compress", "file"),
    "diff": ("diff", "before", "after", "OUT"),
    "apply": ("apply", "before", "replace", "OUT"),
    "apply to hf": ("apply", "dense-hf", "dense-step", "OUT"),
}
"""What writes -> the command; names of sources stand for their paths."""


def limited(words, limit):
    """Run a command in a child whose files may have at most limit bytes; return its exit code and its stderr."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        # JAX warns of a fork, and Python of one beside threads, where other tests of this process have started them
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(writes, 1)
            os.dup2(writes, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.argv = [f"seft {words[0]}", *map(str, words[1:])]
            app.run(words[0])
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def sizes(path):
    return {file.name: file.stat().st_size for file in ([path] if path.is_file() else path.iterdir())}


def test_every_target_of_convert_is_among_the_commands():
    assert [f"convert to {to}" for to in TO] == [name for name in COMMANDS if name.startswith("convert to ")][: len(TO)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_nothing(command, sources, tmp_path):
    name, *words = COMMANDS[command]
    known = {source.name: source for source in sources.iterdir()}
    words = [known.get(word, tmp_path / word if word.startswith(("OUT", "weight_v")) else word) for word in words]
    (out,) = (word for word in words if str(word).startswith(str(tmp_path)))
    code, said = limited((name, *words), resource.RLIM_INFINITY)
    assert code == 0, said
    largest = max(sizes(out).values())
    for made in [out] if out.is_file() else [*out.iterdir(), out]:
        made.rmdir() if made.is_dir() else made.unlink()
    for limit in (0, 100, largest // 2, largest - 1):
        code, said = limited((name, *words), limit)
        assert (code, said.count("\n")) == (2, 1), said
        assert said.startswith("error: [Errno 27] File too large"), said
        assert list(tmp_path.iterdir()) == []
