"""Properties of sizes beyond every boundary of an index type: generate."""

from typing import Any

from conformance.gen.numbers import ids
from conformance.oracle import (
    generate,
)
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND
from conformance.properties.trial import Trial, property_of


@property_of("generate.pick-large", "GEN-003 GEN-004 GEN-005", "generate", "generate.pick", sees=(BEYOND,), seeded=2)
def _pick(d: Draw, t: Trial) -> None:
    """A port picks the token that a loop over more than 65,536 sorted ids picks."""
    n, many = 65_600 + d.integer(0, 999), Many(d)
    logits, seed = many.lattice((n,), 200) / 64, d.integer(0, 2**40)
    t.saw(BEYOND, n > 65_536)
    ties: tuple[tuple[float, int | None, float | None], ...] = ((0.0, None, None), (1.0, None, None), (0.5, None, 0.9),
                                                                (1.0, 40_000, None))  # fmt: skip
    for temperature, top_k, top_p in ties:
        number = d.integer(0, 2**33)
        picked, sure = generate.picked(logits.tolist(), temperature, top_k, top_p, seed, number)
        if not sure:
            continue
        inputs: dict[str, Any] = {"logits": logits, "temperature": temperature, "seed": seed, "numbers": [number]}
        inputs |= {"top_k": top_k} if top_k else {}
        inputs |= {"top_p": top_p} if top_p else {}
        t.case("generate.pick", inputs, {"picked": ids([picked])})
