"""Properties of several readings that continue one context (GEN-001)."""

from conformance.properties.draws import Draw, Many
from conformance.properties.models import TINY, drawn_tensors
from conformance.properties.trial import Trial, property_of


@property_of("generate.fork", "GEN-001", "generate", "generate.fork", sees=("several branches",), cost=4)
def _fork(d: Draw, t: Trial) -> None:
    """Readings behind one context do not see each other."""
    config = TINY | {"num_key_value_heads": d.choice((1, 2)), "model_type": d.choice(("llama", "mistral"))}
    config |= {"sliding_window": d.choice((2, 4, 9))}
    many, rows = Many(d), d.integer(1, 3)
    context, *branches = (
        many.integers(rows * n, 0, 4).reshape(rows, n)
        for n in (d.integer(1, 6), *(d.integer(1, 4) for _ in range(d.integer(1, 4))))
    )
    t.saw("several branches", len(branches) > 1)
    inputs = {"config": config, "tensors": drawn_tensors(d, config), "tokens": context, "branches": branches}
    t.case("generate.fork", inputs)
