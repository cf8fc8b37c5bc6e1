"""A port as a child process: each way of breaking chapter 16 has its own status, and the next call is answered."""

import importlib.metadata
import random
import subprocess
import sys

import numpy as np
import pytest

import formats
from conformance.cases.case import load_all
from conformance.engine.port import EnginePort
from conformance.judge.harness import Variant, run
from conformance.protocol.child import Breach, Child, Crash, Late, PortError, StartError
from conformance.protocol.port import Refused, Unsupported

PROGRAM = """
import json, sys, time
first = True
for text in sys.stdin:
    m = json.loads(text)
    n = m.get("id")
    def say(**more): print(json.dumps(more), flush=True)
    if m["type"] == "stop": break
    if m["type"] == "hello":
        say(type="hello", protocol=1, port={"name": "it"}, ops=OPS, flags={"deterministic": True})
    elif m["type"] == "ping": say(type="pong", id=n)
    else:
        given = m["in"]
        BODY
"""
OK = 'say(type="ok", id=n, out={"n": given["slots"]})'
OPS = '{"count.drop": ["exact64", "fp32"]}'
GIVEN = {"drop_fraction": 0.5, "step": 1, "steps": 2, "slots": 3}
COUNT = [case for case in load_all() if case.op == "count.drop"]


@pytest.fixture
def child(tmp_path):
    children = []

    def make(body, ops=OPS, timeout=5.0):
        path = tmp_path / "port.py"
        path.write_text(PROGRAM.replace("BODY", body).replace("OPS", ops), encoding="utf-8")
        children.append(Child([sys.executable, str(path)], timeout))
        return children[-1]

    yield make
    for one in children:
        one.close()


def test_PRT_005_a_right_answer_comes_through(child):
    port = child(OK)
    assert port.hello().ops == {"count.drop": ["exact64", "fp32"]}
    assert port.call("count.drop", GIVEN, "float64") == {"n": 3}
    port.ping()
    assert (port.restarts, port.name) == (0, "it")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('print("log"); ' + OK, Breach),
        (OK + "; " + OK, Breach),
        ('say(type="ok", id="other", out={})', Breach),
        ('say(type="fine", id=n)', Breach),
        ('say(type="ok", id=n)', Breach),
        ('say(type="ok", id=n, out={"n": 1.5})', Breach),
        ('say(type="ok", id=n, out={"n": {"dtype": "i64", "shape": [2], "b64": ""}})', Breach),
        ('say(type="rejected", id=n)', Breach),
        ('sys.stdout.buffer.write(b"\\xff\\n"); sys.stdout.flush()', Breach),
        ('print("[]", flush=True)', Breach),
        ("sys.exit(3)", Crash),
        ("import os; os.abort()", Crash),
        ('sys.stdout.write("{"); sys.stdout.flush(); sys.exit()', Crash),
        ("import os; os.close(1); time.sleep(9)", Crash),
    ],
)
def test_PRT_001_PRT_005_what_is_no_answer_costs_the_case_and_the_process(child, body, error):
    port = child(f"if first: first = False; {body}\n        else: {OK}" if ";" not in body else body)
    port.hello()
    with pytest.raises(error) as told:
        [port.call("count.drop", GIVEN, "float64") for _ in range(2)]
    assert told.value.lost
    assert port.restarts == 1
    # it is started again and greeted; that it may break again is its own affair
    assert port.hello().name == "it"


def test_PRT_009_an_answer_that_does_not_come_costs_the_process(child):
    port = child("time.sleep(60)", timeout=0.3)
    with pytest.raises(Late):
        port.call("count.drop", GIVEN, "float64")
    assert port.restarts == 1


def test_PRT_004_the_engine_introduces_itself_from_source_that_is_not_installed(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert EnginePort().describe()["port"]["version"] == formats.__version__


def test_PRT_001_an_answer_in_pieces_is_an_answer(child):
    body = (
        'raw = json.dumps({"type": "ok", "id": n, "out": {"n": 3}}) + "\\n"\n'
        "        for c in raw: sys.stdout.write(c); sys.stdout.flush()"
    )
    assert child(body).call("count.drop", GIVEN, "float64") == {"n": 3}


def test_PRT_005_an_error_that_the_port_caught_costs_only_the_case(child):
    port = child('say(type="error", id=n, message="it broke", trace="line 7")')
    with pytest.raises(PortError, match="it broke"):
        port.call("count.drop", GIVEN, "float64")
    assert port.restarts == 0


def test_PRT_006_PRT_007_refusals_and_what_is_not_offered(child):
    port = child(
        'say(type="rejected", id=n, code="SCH-001") if m["op"] == "count.drop" else say(type="unsupported", id=n)'
    )
    with pytest.raises(Refused) as refused:
        port.call("count.drop", GIVEN, "float64")
    assert refused.value.clause == "SCH-001"
    with pytest.raises(Unsupported):
        port.call("rng.draws", {}, "float64")


@pytest.mark.parametrize(
    ("body", "ops", "outcome", "says"),
    [
        ('say(type="unsupported", id=n)', OPS, "protocol", "offers count.drop"),
        (OK, '{"rng.draws": ["exact64"]}', "protocol", "does not offer count.drop"),
        ('say(type="rejected", id=n, code="SCH-001")', OPS, "fail", "expected an answer"),
        ('say(type="ok", id=n, out={})', OPS, "fail", "expected outputs"),
        ('say(type="ok", id=n, out={"n": 1, "m": 2})', OPS, "fail", "expected outputs"),
        ('say(type="ok", id=n, out={"n": {"dtype": "f64", "shape": [], "b64": "AAAAAAAA8D8="}})', OPS, "fail", "n"),
        ('say(type="error", id=n, message="it broke")', OPS, "error", "it broke"),
        ("sys.exit(3)", OPS, "crash", "exit status 3"),
        ('print("log"); sys.stdout.flush(); ' + OK, OPS, "protocol", ""),
    ],
)
def test_PRT_006_PRT_007_each_breach_has_its_status(child, body, ops, outcome, says):
    port = child(body)
    if ops != OPS:
        port = child(body, ops)
    offers = frozenset(port.hello().ops)
    case = next(c for c in COUNT if not c.refused)
    (result,) = run([case], [Variant(port, "float64", offers=offers, deterministic=True)])
    assert result.outcome == outcome
    assert says in result.failures[0].detail


class Always(random.Random):
    """Every call is made twice."""

    def random(self):
        return 0.0


@pytest.mark.parametrize(
    ("second", "says"), [(COUNT[0].expected["n"], None), (-1, "other bytes"), ("None", "other bytes")]
)
def test_PRT_013_a_port_that_says_so_gives_the_same_bytes_twice(child, second, says):
    case = next(c for c in COUNT if not c.refused)
    body = f'say(type="ok", id=n, out={{"n": {case.expected["n"]} if first else {second}}}); first = False'
    port = child(body)
    (result,) = run([case], [Variant(port, "float64", deterministic=True)], order=Always())
    assert [f.detail for f in result.failures] == [] if says is None else says in result.failures[0].detail
    # one that does not promise it is asked twice all the same, and each answer has to be right
    (result,) = run([case], [Variant(child(body), "float64")], order=Always())
    assert result.outcome == ("pass" if says is None else "fail")


def test_PRT_013_a_second_answer_may_differ_within_its_bound_where_nothing_else_is_said(child):
    case = next(c for c in load_all() if c.op == "schedule.fraction" and not c.refused)
    value = case.expected["value"]
    for bits, outcomes in ((0, ("pass", "pass")), (1, ("fail", "pass")), (2**40, ("fail", "fail"))):
        other = float(value + bits * np.spacing(value))
        told = f'"{value.hex()}" if first else "{other.hex()}"'
        body = f'say(type="ok", id=n, out={{"value": {{"f64": {told}}}}}); first = False'
        found = []
        for steady in (True, False):
            port = child(body, '{"schedule.fraction": ["exact64"]}')
            found += run([case], [Variant(port, "float64", deterministic=steady)], order=Always())
        assert tuple(r.outcome for r in found) == outcomes


def test_PRT_009_one_call_of_each_operation_is_made_twice_whatever_is_drawn(child):
    class Never(random.Random):
        def random(self):
            return 0.9

    case = next(c for c in COUNT if not c.refused)
    body = f'say(type="ok", id=n, out={{"n": {case.expected["n"]} if first else -1}}); first = False'
    (result,) = run([case], [Variant(child(body), "float64", deterministic=True)], order=Never())
    assert "asked again" in result.failures[0].detail


@pytest.mark.parametrize(("lines", "shown"), [(3, 3), (13, 13), (14, 13), (20_000, 13)])
def test_the_first_and_the_last_lines_of_standard_error_are_shown(child, lines, shown):
    port = child(f'for i in range({lines}): print("line", i, file=sys.stderr)\n        sys.exit(3)')
    with pytest.raises(Crash) as told:
        port.call("count.drop", GIVEN, "float64")
    said = str(told.value).splitlines()[1:]
    assert len(said) == shown
    assert (said[0], said[-1]) == ("  stderr: line 0", f"  stderr: line {lines - 1}")
    if lines > shown:
        assert "left out" in said[6]
        assert len(port.stderr) < 20_000


@pytest.mark.parametrize(
    "answer",
    [
        '{"type":"hello"}',
        '{"type":"hello","protocol":2,"port":{},"ops":{}}',
        '{"type":"hello","protocol":1,"port":{}}',
        '{"type":"hello","protocol":1,"port":{},"ops":{"rng.draws":true}}',
        "hello",
    ],
)
def test_PRT_004_a_hello_that_is_none_is_no_start(tmp_path, answer):
    path = tmp_path / "port.py"
    path.write_text(f"input(); print({answer!r}, flush=True); input()", encoding="utf-8")
    with Child([sys.executable, str(path)]) as port, pytest.raises(StartError, match=r"hello|JSON"):
        port.hello()


def test_PRT_008_a_port_that_is_asked_to_stop_ends_by_itself(child):
    port = child(OK)
    port.call("count.drop", GIVEN, "float64")
    process = port._process
    port.close()
    assert process.returncode == 0


def test_PRT_003_files_are_gone_after_the_call(tmp_path):
    with Child([sys.executable, "-m", "conformance.protocol.serve", "conformance.engine.port:reference_numpy"]) as port:
        scores = np.arange(20_000.0)
        found = port.call("select.largest", {"scores": scores, "ids": np.arange(20_000), "k": 2}, "float64")
        assert found["chosen"].tolist() == [19_998, 19_999]
        assert list(port.folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("stop", "end", "says"),
    [
        ("break", "", ("", "")),
        ("sys.exit(3)", "", ("at stop it ends with exit status 3", "")),
        ("import os; os.abort()", "", ("at stop it ends with signal 6", "")),
        ("continue", "", ("at stop it does not end within 0.5 seconds", "")),
        ('print("bye"); break', "", ("at stop it writes b'bye\\n'", "")),
        ("break", "sys.exit(4)", ("", "at the end of its input it ends with exit status 4")),
        ("break", "time.sleep(60)", ("", "at the end of its input it does not end within 0.5 seconds")),
    ],
)
def test_PRT_008_a_port_ends_with_status_0_at_stop_and_at_the_end_of_its_input(tmp_path, stop, end, says):
    path = tmp_path / "port.py"
    text = PROGRAM.replace('if m["type"] == "stop": break', f'if m["type"] == "stop":\n        stopped = True; {stop}')
    text += f"\nif 'stopped' not in globals(): {end or 'pass'}\n"
    path.write_text(text.replace("BODY", OK).replace("OPS", OPS), encoding="utf-8")
    with Child([sys.executable, str(path)], 0.5) as port:
        port.hello()
        for asked, wanted in zip((True, False), says, strict=True):
            told = port.end(by_stop=asked)
            assert told.startswith(wanted) if wanted else told == ""
            assert port._process is None
        # it can be asked again, and ended again
        port.hello()


def test_PRT_008_a_port_that_was_lost_is_started_again_to_see_how_it_ends(child):
    port = child("sys.exit(3)")
    with pytest.raises(Crash):
        port.call("count.drop", GIVEN, "float64")
    assert port.end(by_stop=True) == ""


def test_a_system_without_pipes_of_posix_is_told_what_to_do(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("os.name", "nt")
        with pytest.raises(StartError, match="use Linux, macOS or WSL"):
            Child([sys.executable])


def test_the_kit_is_imported_where_memory_cannot_be_limited():
    # as on Windows
    code = "import sys; sys.modules['resource'] = None; import conformance.command.app, conformance.properties"
    subprocess.run([sys.executable, "-c", code], check=True)
