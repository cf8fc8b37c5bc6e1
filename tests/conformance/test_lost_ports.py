"""Ports that are lost, wrapped or strange in their words: the run goes on, and nothing of them survives it."""

import os
import sys
import time
from pathlib import Path

import pytest

from conformance.protocol.child import Child, Late, StartError
from conformance.protocol.values import Malformed, decode
from tests.conformance.test_child import GIVEN, OK, child  # noqa: F401
from tests.conformance.test_doctor import ONCE


def test_a_port_that_starts_no_more_gets_a_verdict(verify, tmp_path):
    (tmp_path / "port.py").write_text(ONCE.format(flag=str(tmp_path / "flag")))
    program = f"{sys.executable} {tmp_path / 'port.py'}"
    status, out, _ = verify("--port", program, "--only", "select.largest", "--examples", "0")
    assert status == 1
    assert "protocol.unsupported" in out
    assert "failed" in out


def test_a_start_that_fails_again_counts_as_a_loss(tmp_path):
    (tmp_path / "port.py").write_text(ONCE.format(flag=str(tmp_path / "flag")))
    with Child([sys.executable, str(tmp_path / "port.py")], 5.0) as one:
        one.hello()
        (tmp_path / "flag").touch()
        one._kill()
        for expected in (1, 2):
            with pytest.raises(StartError):
                one.hello()
            assert one.restarts == expected


def test_a_port_that_is_silent_at_a_ping_is_started_anew(child):  # noqa: F811
    one = child(OK, timeout=0.5)
    one.hello()
    path = Path(one.command[1])
    path.write_text(path.read_text().replace('say(type="pong", id=n)', "time.sleep(1)", 1))
    one._kill()
    one.hello()
    with pytest.raises(Late):
        one.ping()
    assert one.restarts == 1
    assert one.call("count.drop", GIVEN, "float64") == {"n": 3}


@pytest.mark.skipif(os.name != "posix", reason="needs sessions")
def test_what_a_wrapper_has_started_ends_with_it(tmp_path):
    (tmp_path / "port.py").write_text(f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
                                      "time.sleep(600)\n")  # fmt: skip
    (tmp_path / "run.sh").write_text(f"{sys.executable} {tmp_path / 'port.py'}\n")
    one = Child(["sh", str(tmp_path / "run.sh")], 1.0)
    one.start_timeout = 3.0
    with pytest.raises(StartError):
        one.hello()
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not _runs(pid):
            break
        time.sleep(0.1)
    assert not _runs(pid)
    one.close()


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("digits", [1.5, "1_0", " 1", "0x1", "", None, "1" * 41])
def test_PRT_002_an_integer_is_a_text_of_digits(digits):
    with pytest.raises(Malformed):
        decode({"int": digits})
    assert decode({"int": "-18446744073709551615"}) == -(2**64) + 1


@pytest.mark.parametrize("seed", ["-1", "1" * 33])
def test_a_seed_has_at_most_128_bits(verify, seed):
    status, _, err = verify("--backend", "numpy", "--only", "select.largest", "--seed", seed)
    assert status == 2
    assert "hexadecimal digits" in err
