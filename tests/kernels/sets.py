"""The kernel sets that are judged alike; the GPU's on NumPy arrays, where a g++ can compile it."""

from conformance.ports.engine_on_cpu import on_cpu, without_gpp
from seft_ref.kernels import cpu, reference

COMPILED = [cpu] if without_gpp() else [cpu, on_cpu()]
SETS = [reference, *COMPILED]
NAMED = dict(zip(["reference", "cpu", "gpu"], SETS, strict=False))
