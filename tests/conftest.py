"""Fixtures of all tests: the backends, and a summary of the errors that were measured."""

import gc
import sys
import tracemalloc

import numba
import pytest

from tests.backends import BACKENDS, CUPY_STATE, Backend
from tests.compare import assert_close

gc.disable()  # until all tests are collected, because nothing that they import is garbage

_LEDGER = pytest.StashKey[dict[str, float]]()


def pytest_configure(config):
    config.stash[_LEDGER] = {}


def pytest_collection_finish():
    # Eleven thousand tests and the modules that they import stay to the end, so the collector need not visit them.
    # The thresholds are about thirty times and twice those of Python, because tests make few cycles of references.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    # `make test` runs three of these processes on two cores; tests about threads ask for two (KRN-008: no bit changes)
    numba.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_tracer_is_left_on():
    """Fail a test that leaves a tracer on, because all later tests of the process would be many times slower."""
    before = sys.gettrace()
    yield
    left = tracemalloc.is_tracing()
    # stop it before the assertion, so that only this test fails
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
    """Return every backend in turn: an array library, a device and a dtype."""
    return BACKENDS[request.param]


@pytest.fixture
def within(request):
    """Return `within(family, got, want, bound, what)`, which asserts a relative error and adds it to the summary."""
    ledger = request.config.stash[_LEDGER]

    def check(family, got, want, bound, what=""):
        error = assert_close(got, want, bound, f"{family}: {what}")
        ledger[family] = max(ledger.get(family, 0.0), error)

    return check
