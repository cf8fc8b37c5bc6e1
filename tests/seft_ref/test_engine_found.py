"""What readers found in the engine: threads, odd arrays, empty ones, numbers beyond a dtype. Each stays as a test."""

import sys
import threading

import numpy as np
import pytest

from seft_ref.adapters.lora import lora_initial
from seft_ref.errors import AdapterError, GenerateError, KernelError, PruneError, QuantiseError
from seft_ref.kernels import cpu, reference
from seft_ref.layers import attention, rope
from seft_ref.layers.compiled import attention as compiled_attention
from seft_ref.layers.compiled import rmsnorm, swiglu
from seft_ref.layers.compiled import rope as compiled_rope
from seft_ref.layers.past import NOTHING, extend
from seft_ref.prune.keep import parse_pattern
from seft_ref.prune.record import read_record
from seft_ref.prune.sparsegpt import sparsegpt
from seft_ref.quantise.gptq import gptq
from seft_ref.quantise.grid import Quantised, parse_grid
from seft_ref.text.generate import generate_rows
from seft_ref.topology.csr import Topology, flat, from_flat
from tests.seft_ref.tiny import tiny_config


def test_GEN_001_two_threads_that_read_on_from_one_context():
    """Each sees its own tokens behind the common ones."""
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            past, found = extend(NOTHING, *[np.zeros((1, 8, 200, 64), np.float32)] * 2), {}

            def read(number, past=past, found=found):
                more = np.full((1, 8, 56, 64), number, np.float32)
                found[number] = extend(past, more, more)

            threads = [threading.Thread(target=read, args=(number,)) for number in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for number, longer in found.items():
                assert (longer.keys[:, :, 200:] == number).all()
                assert (longer.values[:, :, 200:] == number).all()
    finally:
        sys.setswitchinterval(switch)


def test_KRN_009_a_topology_of_strided_arrays_is_refused():
    topology = from_flat((3, 5), np.array([0, 2, 7, 11, 14]))
    dy, x = np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)
    twice = [np.repeat(a, 2)[::2] for a in (topology.indptr, topology.indices)]
    for strided in (
        Topology(topology.shape, twice[0], topology.indices),
        Topology(topology.shape, topology.indptr, twice[1]),
    ):
        with pytest.raises(KernelError, match=r"KRN-009.*contiguous"):
            cpu.sample(dy, x, strided)
        with pytest.raises(KernelError, match=r"KRN-009.*contiguous"):
            cpu.pack(strided, np.ones(5, np.float32))


def test_LYR_018_compiled_layers_read_nothing_beyond_their_arrays():
    ones = np.ones
    with pytest.raises(AssertionError, match="the weight is"):
        rmsnorm.rmsnorm_forward(ones((2, 8)), ones(4), 1e-6)
    _, cache = rmsnorm.rmsnorm_forward(ones((2, 8)), ones(8), 1e-6)
    with pytest.raises(AssertionError, match="gradients are"):
        rmsnorm.rmsnorm_backward(ones((1, 8)), cache)
    with pytest.raises(AssertionError, match="gate is"):
        swiglu.swiglu_forward(ones((2, 8)), ones((1, 4)))
    _, gates = swiglu.swiglu_forward(ones((2, 8)), ones((2, 8)))
    with pytest.raises(AssertionError, match="gradients are"):
        swiglu.swiglu_backward(ones((1, 8)), gates)
    table = rope.rope_table(rope.Rope("default", 100.0), 4, 3, 16, ones(0))
    with pytest.raises(AssertionError, match="5 tokens"):
        compiled_rope.rope_forward(ones((1, 1, 5, 4)), table)


def coded(codes, grid, zeros=0):
    """A row of codes with scale 1."""
    topology, group = from_flat((1, len(codes)), np.arange(len(codes))), np.ones((1, 1))
    scales, zero_points = group.astype(np.float32), (zeros * group).astype(np.int8)
    return topology, Quantised(parse_grid(grid), topology, np.array(codes, np.int8), scales, zero_points)


@pytest.mark.parametrize("kernels", [cpu, reference], ids=["cpu", "reference"])
def test_KRN_018_codes_that_the_grid_does_not_have_are_refused(kernels):
    kernels.compact(*coded([7, -8, 0], "int4"))
    for wrong in (coded([9, -9, 7], "int4"), coded([1, 2], "int8", zeros=3), coded([1, 2], "int4:asym", zeros=9)):
        with pytest.raises(KernelError, match="KRN-018"):
            kernels.compact(*wrong)


def test_KRN_018_a_packed_matrix_has_scales_of_its_own():
    topology, values = coded([1, 2, 3], "int8:asym", zeros=1)
    packed = cpu.compact(topology, values)
    before = cpu.matmul(np.eye(3, dtype=np.float32), packed)
    values.scales[:] = 2
    values.zeros[:] = 5
    assert np.array_equal(cpu.matmul(np.eye(3, dtype=np.float32), packed), before)


@pytest.mark.parametrize("layers", [attention, compiled_attention], ids=["plain", "compiled"])
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (1, 2, 0, 4)], ids=["no rows", "no tokens"])
def test_PRT_019_attention_of_nothing(layers, shape):
    q = np.zeros(shape)
    visible = np.ones((1, shape[2], shape[2]), dtype=bool)
    y, cache = layers.attention_forward(q, q[:, :1], q[:, :1], visible)
    assert y.shape == shape
    dq, dk, dv = layers.attention_backward(y, cache)
    assert (dq.shape, dk.shape, dv.shape) == (shape, q[:, :1].shape, q[:, :1].shape)


@pytest.mark.parametrize("layers", [rope, compiled_rope], ids=["plain", "compiled"])
def test_PRT_019_rope_of_no_tokens(layers):
    table = rope.rope_table(rope.Rope("default", 100.0), 4, 0, 16, np.zeros(0))
    assert layers.rope_forward(np.zeros((2, 3, 0, 4)), table)[0].shape == (2, 3, 0, 4)


def test_PRT_019_sparsegpt_of_no_columns():
    mask, weight = sparsegpt(np.zeros((3, 0)), np.zeros((0, 0)), 0.5)
    assert mask.shape == weight.shape == (3, 0)
    with pytest.raises(PruneError, match="PRN-001"):
        sparsegpt(np.zeros((3, 0)), np.zeros((0, 0)), 1.5)


def test_PRT_019_more_columns_than_int32_holds():
    wide = np.array([5, 2**31 + 5, 2**32 - 1])
    topology = from_flat((1, 2**32), wide)
    assert flat(topology).tolist() == wide.tolist()
    more = topology.with_slots(np.array([2**31 + 4]), np.array([1]))
    assert flat(more).tolist() == [5, 2**31 + 4, 2**31 + 5, 2**32 - 1]
    assert from_flat((2, 2**31), np.array([2**31 - 1])).indices.dtype == np.int32


def test_PRN_004_a_pattern_of_other_digits_or_far_too_many():
    for pattern in ("٢:٤", "2:" + "9" * 5000):
        with pytest.raises(PruneError, match="PRN-004"):
            parse_pattern(pattern)
        with pytest.raises(PruneError, match="PRN-008"):
            read_record(f'{{"pattern":"{pattern}"}}'.encode())


def test_QNT_003_errors_that_grow_without_bound_inside_a_group():
    d = np.array([1e150, 1.0, 1e-150, 1e-150])
    correlation = 0.9 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    hessian = d[:, None] * correlation * d[None, :]
    weight = np.array([[3e37, 7.3e29, 1e10, 1e20]])
    with pytest.raises(QuantiseError, match=r"QNT-003.*raise damping"):
        gptq(weight, from_flat((1, 4), np.arange(4)), hessian, parse_grid("int4"), damping=0)


def test_ADP_009_a_scale_beyond_float32_is_refused():
    with pytest.raises(AdapterError, match=r"ADP-009.*beyond float32"):
        lora_initial((2, 2), rank=1, alpha=1e40, seed=0, matrix=0, like=np.zeros(0, np.float32))


def test_KRN_017_a_matrix_that_does_not_open_is_refused():
    for kernels in (cpu, reference):
        with pytest.raises(KernelError, match="KRN-017"):
            kernels.unpack(kernels.pack_dense(np.ones((2, 2), np.float32)))
    topology = from_flat((2, 2), np.arange(4))
    values = np.ones(4, np.float32)
    with pytest.raises(KernelError, match="KRN-010"):
        cpu.pack(topology, values, reference.pack(topology, values))


def test_GEN_007_rows_ask_for_a_token_too():
    with pytest.raises(GenerateError, match="GEN-007"):
        generate_rows([[1]], None, tiny_config(), reference, lambda row, token: True, max_tokens=0)
