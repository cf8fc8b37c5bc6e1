"""Properties of SPEC.md's operations, tried through a port on inputs that nobody wrote down.

A property needs hypothesis; what it finds is a folder that is asked again without it.
"""

from conformance.properties.artifacts import freeze, replay
from conformance.properties.running import PROPERTIES, run_properties

__all__ = ["PROPERTIES", "freeze", "replay", "run_properties"]
