"""The kernel sets that are judged alike; the GPU's on NumPy arrays, where a g++ can compile it."""

from conformance.engine.on_cpu import on_cpu, without_gpp
from seft_ref.kernels import cpu, reference
from seft_ref.kernels.cpu import transposed

COMPILED = [cpu, transposed] if without_gpp() else [cpu, transposed, on_cpu()]
SETS = [reference, *COMPILED]
NAMED = dict(zip(["reference", "cpu", "transposed", "gpu"], SETS, strict=False))
