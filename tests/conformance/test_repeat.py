"""A run gives the same bytes in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import conformance
from conformance.cases.case import VECTORS, load
from conformance.judge.conduct import repeating
from conformance.protocol.child import Child

ROOT = Path(conformance.__file__).parents[1]
PROGRAM = """
import hashlib
from conformance.cases.case import VECTORS, load
from conformance.engine.port import EnginePort
case = next(c for c in load(VECTORS / "train.json") if c.id == "train.window")
out = EnginePort().call("train.run", case.inputs, "float64")
digest = hashlib.sha256(out["losses"].tobytes())
for weights, support in zip(out["weights"], out["support"]):
    digest.update(weights.tobytes() + support.tobytes())
print(digest.hexdigest())
"""


def test_TRN_006_the_same_bytes_in_another_process(capsys):
    exec(PROGRAM, {})
    here = capsys.readouterr().out
    # names hash otherwise there than here
    env = os.environ | {"PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, check=True).stdout
    assert len(here) == 65
    assert there.decode() == here


PORT = """
import os
from conformance.protocol.serve import serve

class Port:
    name = "it"

    def describe(self):
        return {"port": {"name": "it"}, "ops": {"train.run": ["exact64"]}, "flags": {"deterministic": True}}

    def call(self, op, inputs, dtype):
        return {"losses": NUMBER}

serve(Port())
"""


@pytest.mark.parametrize(("number", "says"), [("1", ""), ("os.getpid()", "other bytes in another process")])
def test_TRN_006_a_port_that_is_not_the_same_in_another_process_is_found(monkeypatch, number, says):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Child([sys.executable, "-c", PORT.replace("NUMBER", number)]) as child:
        result = repeating([child], load(VECTORS / "train.json"))
    assert result.examples == 1
    assert says in result.failure
    assert bool(says) == bool(result.failure)
