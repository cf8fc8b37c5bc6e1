"""A peer in another process: its answers, its errors, and its end."""

import os

import pytest

from benchmarks.beside import Beside


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
