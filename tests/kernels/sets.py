"""The kernel sets that are judged alike; the GPU's on NumPy arrays, where a g++ can compile it."""

from conformance.engine.on_cpu import on_cpu, without_gpp
from seft_ref.kernels import cpu, cpu_transposed, reference

COMPILED = [cpu, cpu_transposed] if without_gpp() else [cpu, cpu_transposed, on_cpu()]
SETS = [reference, *COMPILED]
NAMED = dict(zip(["reference", "cpu", "cpu_transposed", "gpu"], SETS, strict=False))
