"""verify.py doctor: what it says of ports that do not start, or start once."""

import sys
import time

import pytest


@pytest.mark.parametrize("program", ["/no/such/program", "true", f"{sys.executable} -c 'import nothing_of_the_kind'"])
def test_doctor_of_a_port_that_does_not_start_ends_with_3(verify, program):
    status, out, err = verify("doctor", "--port", program)
    assert status == 3
    assert "verify: the port did not start: " in err
    assert out.startswith("starting ")


def test_doctor_waits_for_a_hello_as_long_as_it_is_told(verify, tmp_path):
    (tmp_path / "port.py").write_text("import time\ntime.sleep(60)\n")
    began = time.monotonic()
    status, out, err = verify("doctor", "--port", f"{sys.executable} {tmp_path / 'port.py'}", "--timeout", 0.5)
    assert time.monotonic() - began < 20
    assert status == 3
    assert "it has 0.5 s to introduce itself" in out
    assert err.startswith(f"verify: the port did not start: {sys.executable}: no answer came in time")
    assert len(err.splitlines()) == 1


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


WRONG = """
import json, sys
for text in sys.stdin:
    m = json.loads(text)
    if m["type"] == "hello":
        out = {{"type": "hello", "protocol": 1, "port": {{"name": "it"}}, "ops": {ops!r}}}
    elif m["type"] == "call" and m["op"] == "adamw.step":
        real = {{"dtype": "f64", "shape": [1], "b64": "AAAAAAAA8D8="}}
        zero, age = real | {{"b64": "AAAAAAAAAAA="}}, {{"dtype": "i64", "shape": [1], "b64": "BAAAAAAAAAA="}}
        out = {{"type": "ok", "id": m["id"], "out": {{"values": real, "m": zero, "v": zero, "age": age}}}}
    elif m["type"] == "call":
        out = {{"type": "unsupported", "id": m["id"]}}
    else:
        out = {{"type": "pong", "id": m.get("id")}}
    print({before!r} + json.dumps(out), flush=True)
"""


@pytest.mark.parametrize(
    ("ops", "before", "said"),
    [
        ({"rng.draw": ["fp32"]}, "", "WRONG: it offers rng.draw, which is no operation; near it is rng.draws"),
        ({"adamw.step": ["float32"]}, "", "WRONG: it offers adamw.step in the class float32; known are exact64, fp32"),
        ({"adamw.step": ["fp32"]}, "", "values is float64 (1,), expected float32 (1,)"),
        ({"adamw.step": ["exact64"]}, "", "all is well: 1 calls of 1 operations tried"),
    ],
)
def test_doctor_says_what_is_wrong_with_names_classes_and_dtypes(verify, tmp_path, ops, before, said):
    (tmp_path / "port.py").write_text(WRONG.format(ops=ops, before=before))
    status, out, _ = verify("doctor", "--port", f"{sys.executable} {tmp_path / 'port.py'}")
    assert said in out
    assert status == ("all is well" not in said)
    assert ("something is wrong" in out) == bool(status)


def test_what_a_port_prints_beside_answers_is_told_apart(verify, tmp_path):
    (tmp_path / "port.py").write_text(WRONG.format(ops={"adamw.step": ["fp32"]}, before="loading\n"))
    status, _, err = verify("doctor", "--port", f"{sys.executable} {tmp_path / 'port.py'}")
    assert status == 3
    assert "standard output is for answers alone" in err


LISTS = """
import json, sys
for text in sys.stdin:
    m = json.loads(text)
    out = {"type": "pong", "id": m.get("id")}
    if m["type"] == "hello":
        out = {"type": "hello", "protocol": 1, "port": {"name": "it"}, "ops": {"select.largest": ["exact64"]}}
    if m["type"] == "call":
        out = {"type": "ok", "id": m["id"], "out": {"chosen": [7, 9]}}
    print(json.dumps(out), flush=True)
"""


def test_a_list_of_values_is_no_array(verify, tmp_path):
    (tmp_path / "port.py").write_text(LISTS)
    status, out, _ = verify("doctor", "--port", f"{sys.executable} {tmp_path / 'port.py'}")
    assert status == 1
    assert "chosen is a list of values, expected an array (PRT-003)" in out
