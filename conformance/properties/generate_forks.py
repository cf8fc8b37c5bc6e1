"""Properties of several readings that continue one context (GEN-001)."""

import numpy as np

from conformance.gen import tiny
from conformance.gen.generate_forks import forked
from conformance.gen.model import tensors_of
from conformance.gen.numbers import Numbers
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


@property_of("generate.fork", "GEN-001", "generate", "generate.fork", sees=("several branches",), cost=4)
def _fork(d: Draw, t: Trial) -> None:
    """Readings behind one context do not see each other."""
    n = Numbers(94, d.integer(0, 1000))
    config = tiny.CONFIG | {"num_key_value_heads": d.choice((1, 2))}
    kinds = ("llama", "mistral")
    config |= {"model_type": d.choice(kinds), "sliding_window": d.choice((2, 4, 9))}
    tensors, size = tensors_of(config, n), d.integer(1, 3)
    branches: list[np.ndarray] = [n.integers((size, d.integer(1, 4)), 0, 4) for _ in range(d.integer(1, 4))]
    t.saw("several branches", len(branches) > 1)
    inputs, answer = forked(config, tensors, n.integers((size, d.integer(1, 6)), 0, 4), branches)
    t.case("generate.fork", inputs, answer)
