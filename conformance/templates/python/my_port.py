"""A port of SEFT with two operations. Judge it with

    seft verify doctor --port-py my_port:Port
    seft verify --port-py my_port:Port --only select.largest

`seft verify list --ops` lists the others; SPEC.md says what they mean.
"""

import math

import numpy as np

from conformance import Refused, Unsupported


def largest(scores, ids, k):
    """SEL-001, SEL-003 to SEL-005."""
    if not np.isfinite(scores).all():
        raise Refused("SEL-004", "a score is NaN or infinite")
    if not 0 <= k <= len(scores):
        raise Refused("SEL-005", f"cannot select {k} of {len(scores)}")
    order = np.lexsort((ids, -scores))  # by score descending, then id ascending
    return {"chosen": np.sort(ids[order[:k]])}


def drops(drop_fraction, step, steps, slots):
    """SCH-001, SCH-002, SEL-006."""
    fraction = 0.5 * drop_fraction * (1 + math.cos(math.pi * step / steps))
    return {"n": math.floor(fraction * slots + 2**-20)}


class Port:
    """What the kit calls: a name, what is offered in which numeric class, and one method."""

    name = "my_port"
    ops = {"select.largest": largest, "count.drop": drops}

    def describe(self):
        return {
            "port": {"name": self.name, "version": "0.1", "language": "Python"},
            "ops": {op: ["exact64", "fp32"] for op in self.ops},
            "flags": {"deterministic": True},
        }

    def call(self, op, inputs, dtype):
        if op not in self.ops:
            raise Unsupported(op)
        return self.ops[op](**inputs)
