"""The evidence of a whole gradient: every position scored at once, which the loop over blocks of rows must equal."""

import math

from seft_ref.arrays.library import array_namespace, device
from seft_ref.topology.csr import difference, union
from seft_ref.update.criteria import GROW, Known
from seft_ref.update.evidence import Evidence
from seft_ref.update.select import largest


def evidence_of(gradient, base_positions, delta_positions, n, scope="anywhere"):
    """Its values on S = B ∪ η and its n largest outside η, as many as there are (GROW-001, SEL-001)."""
    xp = array_namespace(gradient, base_positions)
    values = xp.reshape(gradient, (-1,))
    everywhere = xp.arange(values.shape[0], dtype=xp.int64, device=device(values))
    outside = difference(everywhere if scope == "anywhere" else base_positions, delta_positions)
    found = xp.take(values, outside)
    score = GROW["gradient"]
    chosen = largest(score(Known(gradient=found)), min(n, outside.shape[0]))
    at_candidates = xp.take(found, chosen)
    return Evidence(
        delta_positions,
        score(Known(gradient=xp.take(values, delta_positions))),
        xp.take(outside, chosen),
        score(Known(gradient=at_candidates)),
        gradient=xp.take(values, union(base_positions, delta_positions)),
        gradient_norm=math.sqrt(float(xp.vecdot(values, values))),
        candidate_gradient=at_candidates,
    )
