"""A peer in another process: its answers, its errors, and its end."""

import os
import time

import pytest
from typer.testing import CliRunner

from benchmarks import generate, held, tokens
from benchmarks.app import app
from benchmarks.beside import Beside
from benchmarks.rounds import rounds, timed
from seft_cli.threads import NAMES


def counting(start):
    """Return a function that counts its calls, and tells in which process."""
    if start < 0:
        raise ValueError("a start below 0")
    calls = [start]

    def count(step):
        if step == "leave":
            os._exit(3)
        calls[0] += step
        return calls[0], os.getpid()

    return count


def test_a_peer_answers_from_another_process_and_tells_what_it_raised():
    peer = Beside(counting, 10)
    assert [peer(1)[0], peer(5)[0]] == [11, 16]
    assert peer(0)[1] != os.getpid()
    with pytest.raises(RuntimeError, match="TypeError"):
        peer("a")
    with pytest.raises(RuntimeError, match="a start below 0"):
        Beside(counting, -1)


def test_a_peer_that_has_ended_is_told_of():
    peer = Beside(counting, 0)
    with pytest.raises(RuntimeError, match="has ended"):
        peer("leave")


def waiting(seconds):
    """Return a function, as `timed` makes it, that waits."""
    return timed(lambda: time.sleep(seconds) or "waited")


def test_rounds_time_a_peer_where_it_runs(monkeypatch):
    monkeypatch.setenv(NAMES[0], "1")
    peer = Beside(waiting, 0.02)
    assert peer(0) == "waited"
    found = {
        name: (own, ratios)
        for name, own, ratios, _ in rounds({"numpy": lambda: time.sleep(0.01)}, 2, peers={"there": peer})
    }
    assert set(found) == {"numpy", "there"}
    assert all(0.02 <= own < 0.04 for own in found["there"][0])
    assert all(0.2 < ratio < 0.9 for ratio in found["there"][1])


def test_torch_in_another_process_has_the_same_product(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv(NAMES[0], "1")
    monkeypatch.setattr(generate, "ROTATED", 1)
    row = generate._measure((64, 32), "70%", 1, 1)
    assert set(row.ratio) == {"numpy", "ours", "scipy csr", "torch"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tokens", "--shape", "7b"), "--shape 7b is none of"),
        (("held", "--shape", "256"), "OUTxIN"),
        (("held", "--sparsity", "1"), "sparsity"),
    ],
)
def test_odd_options_are_refused(words, said, monkeypatch):
    for module in (held, tokens):
        monkeypatch.setattr(module, "restart_in_clean_environment", lambda threads: None)
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2
    assert said in told.output
