"""Null ports are never called conformant; whatever a port does, the harness survives it and leaves nothing."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from conformance.judge.harness import Variant
from conformance.judge.judgement import Run
from conformance.properties import run_properties, running
from conformance.protocol.child import Child
from conformance.wrong.nulls import answers, expected, known, lines
from conformance.wrong.nulls.expected import CONFORMANT, EXPECTED, complaints, judged
from tests.conformance.near import Near

LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
HARNESS = """
import sys, time
from conformance.protocol.child import Child
child = Child([sys.executable, "-m", "conformance.wrong.nulls", "right"])
child.hello()
print(child._process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """What a killed process leaves goes with the folder of its test, and not into that of the machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def children():
    """The processes that this one has started and that still are; ended ones that were waited for are not."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text(encoding="ascii").split()
    return found


def resident(pid):
    """Bytes that a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ended(pid, seconds=10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            # a zombie has ended; whoever takes orphans in has not looked yet
            if Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@LINUX
@pytest.mark.parametrize("mode", EXPECTED)
def test_a_null_port_comes_out_as_expected(mode, monkeypatch):
    before = children()
    monkeypatch.setattr(running, "SHRINKING", 0.0)  # nobody looks at the example that a property fails
    if mode in known.MODES and mode != "table-codes":
        # what these show is in their answers, and as a process each would load the engine anew; one is a process, and
        # all are in the self-test of a release
        monkeypatch.setattr(expected, "Child", Near)
    found = judged(mode)
    assert complaints(mode, found) == [], [(r.case.id, r.outcome, r.failures) for r in found.results]
    assert children() == before


def test_there_are_null_ports_of_every_kind():
    assert set(EXPECTED) == set(answers.MODES) | set(known.MODES) | set(lines.MODES)
    assert len(set(EXPECTED) - set(CONFORMANT)) >= 24


def test_the_properties_of_the_kit_find_a_table(tmp_path):
    with Child([sys.executable, "-m", "conformance.wrong.nulls", "table"], timeout=5.0) as child:
        ports = [Variant(child, "float32", offers=frozenset(child.hello().ops))]
        found = run_properties(ports, ["kernels"], "5eed", examples=3, artifacts=tmp_path, seconds=5.0)
    assert found
    assert "passed" not in {r.status for r in found}


def test_a_run_of_nothing_is_not_conformant():
    assert not Run({}, (), ("fp32",), [], [], {}).verdict().conformant
    assert not Run({}, ("kernels",), ("fp32",), [], [], {}).verdict().conformant


def test_an_unknown_null_port_is_wrong_use():
    command = [sys.executable, "-m", "conformance.wrong.nulls", "nonsense"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


@LINUX
def test_a_port_whose_harness_is_killed_ends_by_itself():
    with subprocess.Popen([sys.executable, "-c", HARNESS], stdout=subprocess.PIPE, text=True) as harness:
        port = int(harness.stdout.readline())
        assert Path(f"/proc/{port}").exists()
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    assert ended(port)


@LINUX
def test_four_thousand_calls_hold_no_more_memory_than_one_thousand():
    given = {"values": np.arange(1000, dtype=np.float32), "least": 7.0}
    seen = []
    with Child([sys.executable, "-m", "conformance.wrong.nulls", "right"]) as child:
        child.hello()
        for n in range(1, 4001):
            child.call("kernel.exceeding", given, "float32")
            if n in (1000, 4000):
                seen.append((resident(os.getpid()), resident(child._process.pid)))
    (here, there), (here_later, there_later) = seen
    assert here_later - here < 4 << 20
    assert there_later - there < 4 << 20
