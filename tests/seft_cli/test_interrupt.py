"""An interrupt that compiled code swallowed comes back; one that is raised is raised as ever."""

import contextlib
import os
import signal
import threading

import pytest

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
