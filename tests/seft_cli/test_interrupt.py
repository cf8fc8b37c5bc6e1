"""An interrupt that compiled code swallowed comes back; one that is raised is raised as ever."""

import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import formats
from formats import conversion, delta
from seft_cli.interrupt import interrupts
from seft_ref.prune import blockwise
from tests.seft_ref.folders import TEXT, hf_folder


def test_a_swallowed_interrupt_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                check()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_is_raised_where_it_comes_and_the_old_handler_is_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_may_ask_and_hears_of_nothing():
    seen = []

    def ask():
        with interrupts() as check:
            check()
            seen.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [True]


def test_PRN_019_an_interrupted_pruning_says_how_to_go_on(cli, tmp_path, monkeypatch):
    hf_folder(tmp_path / "dense")
    (tmp_path / "text.txt").write_text(TEXT)
    out, options = tmp_path / "out", ("--method", "wanda", "--calibration", tmp_path / "text.txt", "--length", 32)
    plain, calls = blockwise.wanda_mask, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(blockwise, "wanda_mask", interrupted)
    code, _, error = cli("prune", tmp_path / "dense", out, *options)
    assert (code, error.splitlines()[-1]) == (130, f"interrupted; {out}.state is kept; continue with --resume")
    code, _, error = cli("prune", tmp_path / "dense", out, *options)
    assert code != 0
    assert "continue it with --resume or remove it" in error
    code, said, _ = cli("prune", tmp_path / "dense", out, *options, "--resume")
    assert (code, len(calls)) == (0, 16)
    assert "removed" in said
    assert not out.with_name("out.state").exists()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two models that differ, and the delta between them, large enough that compressing one takes a second."""
    place = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(1)
    values = [np.where(random.random((1024, 1024)) < 0.5, random.standard_normal((1024, 1024), np.float32), 0)]
    values += [values[0] * 2]
    for name, one in zip(("before", "after"), values, strict=True):
        tensors = {f"layers.{i}.weight": formats.from_dense(one + 0 * i) for i in range(8)}
        formats.write(place / name, formats.Checkpoint("model", tensors))
    formats.write(place / "step", delta.diff(*(formats.read(place / name) for name in ("before", "after"))))
    return place


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    "words",
    [
        ("convert", "before", "OUT", "--to", "sparse", "--compress", "zstd"),
        ("apply", "before", "step", "OUT", "--compress", "zstd"),
        ("diff", "before", "after", "OUT", "--compress", "zstd"),
    ],
    ids=lambda words: words[0],
)
def test_an_interrupt_while_a_file_is_written_is_one_line_and_leaves_nothing(large, tmp_path, words):
    given = [large / word if word in ("before", "after", "step") else word for word in words]
    given = [tmp_path / "out" if word == "OUT" else word for word in given]
    command = [sys.executable, "-m", "seft_cli", *map(str, given)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell that started the tests in the background lets them ignore interrupts, and a child would inherit that
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=listen, **pipes) as child:
        while not list(tmp_path.glob(".out.tmp-*")) and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", f"interrupted; {tmp_path / 'out'} was not written\n")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_after_a_file_was_written_says_so(cli, tmp_path, monkeypatch):
    hf_folder(tmp_path / "dense")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_compare", interrupted)
    code, out, error = cli("convert", tmp_path / "dense", tmp_path / "out", "--to", "sparse", "--verify")
    assert (code, out, error) == (130, "", f"interrupted; {tmp_path / 'out'} is written and whole\n")
    assert formats.read(tmp_path / "out").kind == "model"


@pytest.mark.parametrize("command", ["check", "show"])
def test_an_interrupt_of_any_command_is_one_line(cli, tmp_path, monkeypatch, command):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"seft_cli.commands.{command}"), "require_input", interrupted)
    assert cli(command, tmp_path) == (130, "", "interrupted\n")
