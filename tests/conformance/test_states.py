"""What a port writes is judged by its content, and whatever its bytes are, the kit gives a verdict (PRT-020)."""

import random

import numpy as np
import pytest

from conformance.answers.answer import ids
from conformance.answers.train_state import saved_after
from conformance.cases.case import VECTORS, load
from conformance.engine.port import EnginePort
from conformance.judge.compare_files import packed_verdict, state_verdict
from conformance.judge.harness import Variant, prepared_inputs, run
from conformance.properties.draws import Counted
from conformance.properties.models import TINY
from conformance.properties.train_drawn import drawn_world
from conformance.properties.train_states import is_weak, settings_of_run, written
from conformance.wrong.mutants import MUTANTS

STATES = {case.id: case for case in load(VECTORS / "state.json")}
PACKED = {case.id: case for case in load(VECTORS / "packing.json")}
PORT = EnginePort()


def answer(case, dtype="float32"):
    return PORT.call(case.op, prepared_inputs(case, dtype), dtype)["raw"]


def test_TRN_004_a_port_that_loses_ages_on_resume_is_refused():
    case = STATES["state.resume-adamw"]
    port = next(m for m in MUTANTS if m.name == "state.resume: ages start anew").port()
    (result,) = run([case], [Variant(port, "float32")])
    assert result.status == "failed"
    (result,) = run([case], [Variant(PORT, "float32")])
    assert result.status == "passed"


def test_TRN_004_a_matrix_whose_gradient_is_rounding_alone_is_not_compared():
    """Where a row repeats one token every key is the same, and the gradient of q_proj is 0 but for rounding."""
    settings = settings_of_run({}, {"rows": 1})
    world = drawn_world(Counted(63), TINY) | {"text": ids([2] * 30)}
    assert is_weak(saved_after(written(world, settings, 1))[1])


@pytest.mark.parametrize("raw", [None, [], np.zeros(3), np.zeros((2, 2), np.uint8), np.zeros(0, np.uint8)])
def test_PRT_020_what_is_no_file_is_refused(raw):
    assert not state_verdict(raw, STATES["state.write-ended"].expected["raw"], "float32").passed
    assert not packed_verdict(raw, PACKED["packing.runs"].expected["raw"]).passed


def test_PRT_020_every_flipped_byte_of_a_state_is_noticed_and_nothing_is_raised():
    case = STATES["state.write-ended"]
    raw, want, draw = answer(case), case.expected["raw"], random.Random(1)
    assert state_verdict(raw, want, "float32").passed
    assert not state_verdict(raw, want, "float64").passed
    for at in draw.sample(range(len(raw)), 60):
        spoilt = raw.copy()
        spoilt[at] ^= 1 << draw.randrange(8)
        assert not state_verdict(spoilt, want, "float32").passed, at
    assert not state_verdict(raw[:-64], want, "float32").passed


def test_FMT_140_every_flipped_byte_of_a_compressed_file_is_noticed_and_nothing_is_raised():
    case = PACKED["packing.planes"]
    raw, want, draw = answer(case, "float64"), case.expected["raw"], random.Random(2)
    assert packed_verdict(raw, want).passed
    for at in draw.sample(range(len(raw)), 200):
        spoilt = raw.copy()
        spoilt[at] ^= 1 << draw.randrange(8)
        assert not packed_verdict(spoilt, want).passed, at
