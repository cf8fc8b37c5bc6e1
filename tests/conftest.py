"""Fixtures of every test room: the backends, and a ledger of the errors that were measured."""

import gc
import sys
import tracemalloc

import numba
import pytest

from tests.backends import BACKENDS, CUPY_STATE, Backend
from tests.compare import assert_close

gc.disable()  # nothing that is imported and collected is garbage

_LEDGER = pytest.StashKey[dict[str, float]]()


def pytest_configure(config):
    config.stash[_LEDGER] = {}


def pytest_collection_finish():
    # eleven thousand tests and what they import stay to the end, so that a collection need not go through them; the
    # thresholds are some thirty and twice those of Python, because little of what tests make forms a cycle
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    # `make test` runs three of these processes on two cores; tests about threads ask for two (KRN-008: no bit changes)
    numba.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_tracer_is_left_on():
    """A tracer that a test leaves on makes every later test of the process many times slower, and none fails."""
    before = sys.gettrace()
    yield
    left = tracemalloc.is_tracing()
    # off before the assertion, so that one test fails and not all
    tracemalloc.stop()
    assert not left
    assert sys.gettrace() is before


def pytest_report_header():
    return f"array backends: {', '.join(BACKENDS)}; cupy: {CUPY_STATE}"


def pytest_terminal_summary(terminalreporter, config):
    ledger = config.stash[_LEDGER]
    if ledger and config.getoption("verbose") >= 0:
        terminalreporter.section("worst relative errors")
        for family, error in sorted(ledger.items()):
            terminalreporter.line(f"{error:10.2e}  {family}")


@pytest.fixture(params=list(BACKENDS))
def backend(request) -> Backend:
    """Every array library, device and dtype in turn."""
    return BACKENDS[request.param]


@pytest.fixture
def within(request):
    """`within(family, got, want, bound, what)` asserts the relative error and notes it for the summary."""
    ledger = request.config.stash[_LEDGER]

    def check(family, got, want, bound, what=""):
        error = assert_close(got, want, bound, f"{family}: {what}")
        ledger[family] = max(ledger.get(family, 0.0), error)

    return check
