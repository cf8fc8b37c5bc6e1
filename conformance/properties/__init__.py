"""Properties of SPEC.md's operations, tried through a port on random inputs.

Trying needs hypothesis. A failing example is saved as a folder, which `artifacts.replay` asks again without hypothesis.
A file is named after its area: select, update, event, kernels, layers, model, train, prune, quantise, adapters,
generate, files.
AREA_large and AREA_TOPIC_large have sizes beyond every boundary of an index type, or beyond what programs take at once.
Inputs come from helpers in `gen`, answers from `answers` or `oracle`.
Start with `trial.py`, then `select.py`.
"""

from conformance.properties.artifacts import freeze, replay
from conformance.properties.running import PROPERTIES, run_properties
from conformance.properties.trial import Property

__all__ = ["PROPERTIES", "Property", "freeze", "replay", "run_properties"]
