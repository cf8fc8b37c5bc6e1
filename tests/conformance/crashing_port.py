"""A port that is lost: it chooses as it should, but ends where more than two scores are equal."""

import os

import numpy as np


class Crashing:
    name = "crashing"

    def describe(self):
        return {"port": {"name": self.name}, "ops": {"select.smallest": ["exact64"]}, "flags": {}}

    def call(self, op, inputs, dtype):
        from conformance.protocol.port import Refused

        scores, k = inputs["scores"], inputs["k"]
        if not np.isfinite(scores).all():
            raise Refused("SEL-004")
        if not 0 <= k <= len(scores):
            raise Refused("SEL-005")
        if len(scores) and np.unique(scores, return_counts=True)[1].max() > 2:
            os._exit(3)
        return {"chosen": np.sort(inputs["ids"][np.argsort(scores, kind="stable")[:k]])}
