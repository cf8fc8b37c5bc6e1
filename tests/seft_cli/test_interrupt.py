"""An interrupt that compiled code swallowed comes back; one that is raised is raised as ever."""

import contextlib
import os
import signal
import threading

import pytest

from seft_cli.interrupt import interrupts


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
