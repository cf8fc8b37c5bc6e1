"""Five laws that every forward/backward pair obeys (chapter 4, NUM-004). The table is in pairs.py."""

import numpy as np
import pytest

from tests.backends import BACKENDS, REFERENCE
from tests.compare import assert_close, same_bits
from tests.gradcheck import directional_derivative, unit_direction
from tests.seft_ref.pairs import PAIRS


@pytest.fixture(params=list(PAIRS))
def pair(request):
    return PAIRS[request.param]


def upstream(pair, seed):
    """Return a dy for the output, of float32 numbers."""
    return np.asarray(np.random.default_rng(seed).standard_normal(pair.output).astype(np.float32).astype(np.float64))


def run(pair, backend, inputs, dy):
    """Return y and the gradients, as NumPy."""
    y, back = pair.run(backend.arrays(inputs), backend.arrays(pair.fixed), backend)
    return backend.numpy(y), {name: backend.numpy(g) for name, g in back(backend.array(dy)).items()}


def test_the_backward_is_the_derivative_of_the_forward(pair):
    inputs, dy = pair.inputs(), upstream(pair, 1)
    _, gradients = run(pair, REFERENCE, inputs, dy)
    assert set(gradients) == set(pair.shapes) == set(inputs)
    rng = np.random.default_rng(2)
    for name, x in inputs.items():

        def forward(moved, name=name):
            y, _ = pair.run(REFERENCE.arrays(inputs | {name: moved}), dict(pair.fixed), REFERENCE)
            return float(np.sum(dy * y))

        # along the gradient nothing cancels; a random direction sees everything else
        gradient = gradients[name]
        for direction in (gradient / np.sqrt(np.sum(gradient * gradient)), unit_direction(rng, x.shape)):
            numeric, analytic = (
                directional_derivative(forward, x, direction),
                float(np.sum(gradient * direction)),
            )
            scale = max(abs(analytic), 1e-2 * np.sqrt(np.sum(gradient * gradient)))
            assert abs(numeric - analytic) <= 1e-7 * scale, f"d{name}: {analytic!r}, by differences {numeric!r}"


def test_the_backward_is_linear_in_dy(pair):
    inputs, first, second = pair.inputs(), upstream(pair, 3), upstream(pair, 4)
    _, one = run(pair, REFERENCE, inputs, first)
    _, other = run(pair, REFERENCE, inputs, second)
    _, both = run(pair, REFERENCE, inputs, 2.0 * first - 0.5 * second)
    for name, gradient in both.items():
        assert_close(gradient, 2.0 * one[name] - 0.5 * other[name], 1e-12, name)


def test_inputs_stay_unchanged(pair, backend):
    inputs, fixed, dy = (
        backend.arrays(pair.inputs()),
        backend.arrays(pair.fixed),
        backend.array(upstream(pair, 5)),
    )
    watched = {**inputs, **fixed, "dy": dy}
    before = {name: backend.numpy(x).copy() for name, x in watched.items()}
    y, back = pair.run(inputs, fixed, backend)
    kept = backend.numpy(y).copy()
    first = {name: backend.numpy(g).copy() for name, g in back(dy).items()}
    again = {name: backend.numpy(g) for name, g in back(dy).items()}
    assert same_bits(backend.numpy(y), kept), "the backward wrote to the output"
    assert all(same_bits(again[name], first[name]) for name in first), "a second backward gives something else"
    for name, x in watched.items():
        assert same_bits(backend.numpy(x), before[name]), f"{name} was written to"


def test_dtype_device_and_shape_are_kept(pair, backend):
    inputs = backend.arrays(pair.inputs())
    y, back = pair.run(inputs, backend.arrays(pair.fixed), backend)
    assert backend.owns(y)
    assert tuple(y.shape) == pair.output
    gradients = back(backend.array(upstream(pair, 6)))
    assert set(gradients) == set(pair.shapes)
    for name, gradient in gradients.items():
        assert backend.owns(gradient), name
        assert tuple(gradient.shape) == tuple(inputs[name].shape) == tuple(pair.shapes[name]), name


def test_NUM_004_every_backend_gives_the_same(pair, backend):
    inputs, dy = pair.inputs(), upstream(pair, 7)
    want_y, want = run(pair, REFERENCE, inputs, dy)
    y, gradients = run(pair, backend, inputs, dy)
    assert_close(y, want_y, backend.tight, "y")
    for name, gradient in gradients.items():
        assert_close(gradient, want[name], backend.tight, name)


def test_the_backends_are_the_ones_promised():
    assert {"numpy-float64", "numpy-float32", "strict-device1", "strict-no_float64"} <= set(BACKENDS)
