"""verify.py doctor: what it says of ports that do not start, or start once."""

import sys

import pytest


@pytest.mark.parametrize("program", ["/no/such/program", "true", f"{sys.executable} -c 'import nothing_of_the_kind'"])
def test_doctor_of_a_port_that_does_not_start_ends_with_3(verify, program):
    status, out, err = verify("doctor", "--port", program)
    assert status == 3
    assert "verify: the port did not start: " in err
    assert out.startswith("starting ")


ONCE = """
import json, os, sys
for text in sys.stdin:
    m = json.loads(text)
    if os.path.exists({flag!r}): sys.exit(9)
    if m["type"] == "call": open({flag!r}, "w"); sys.exit("lost")
    out = {{"type": "pong", "id": m.get("id")}}
    if m["type"] == "hello":
        out = {{"type": "hello", "protocol": 1, "port": {{"name": "it"}}, "ops": {{"select.largest": ["fp32"]}}}}
    print(json.dumps(out), flush=True)
"""


def test_doctor_of_a_port_that_is_lost_and_starts_no_more_ends_with_1(verify, tmp_path):
    """It did start: what it does afterwards is a wrong answer."""
    (tmp_path / "port.py").write_text(ONCE.format(flag=str(tmp_path / "flag")))
    status, out, _ = verify("doctor", "--port", f"{sys.executable} {tmp_path / 'port.py'}")
    assert status == 1
    assert "stderr: lost" in out
    assert out.count("WRONG") == 3


@pytest.mark.parametrize(("mode", "right"), [("files", 1), ("echo", 0)])
def test_doctor_tries_a_small_file_and_a_broken_one(verify, mode, right):
    _, out, _ = verify("doctor", "--port", f"{sys.executable} -m conformance.wrong.nulls {mode}")
    tried = out[out.index("file.read, file.read-dense") :]
    assert tried.count("right: every tensor and digest") == tried.count("right: it refuses by FMT-020") == right
    assert ("WRONG" in tried) == (not right)
