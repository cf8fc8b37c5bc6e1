"""Properties of SPEC.md's operations, tried through a port on inputs that nobody wrote down.

A property needs hypothesis; what it finds is a folder that is asked again without it. A file is named after its area
(select, update, event, kernels, layers, model, train, prune, adapters, generate, files); AREA_large asks for sizes
beyond every boundary of an index type. What is asked and what must come back is written down in `gen` and `oracle`.
Start with `trial.py`, then `select.py`.
"""

from conformance.properties.artifacts import freeze, replay
from conformance.properties.running import PROPERTIES, run_properties

__all__ = ["PROPERTIES", "freeze", "replay", "run_properties"]
