"""As much of CuPy as the GPU set asks for, on NumPy arrays: put a file that imports this on the path as cupy.py.

What the driver would do with arguments is done here with more care: every one has the width that its kernel reads.
"""

from numpy import *  # noqa: F403
from numpy import generic, ndarray, uint64

from conformance.ports.on_cpu import OnCpu, compiled_by_gpp
from seft_ref.kernels._launch import KERNELS, NUMBERS, SOURCE

TEXT = "from tests.kernels.cupy_on_cpu import *\nfrom tests.kernels.cupy_on_cpu import RawModule, cuda\n"
"""What that file holds."""


class cuda:  # noqa: N801
    """The device of NumPy's arrays."""

    @staticmethod
    def Device():
        return "cpu"


class RawModule:
    """gpu.cu, compiled when the first kernel is asked for."""

    def __init__(self, code, options):
        assert code == SOURCE.read_text()
        assert options == ("--std=c++14",)
        self.machine = OnCpu(compiled_by_gpp())

    def get_function(self, name):
        kernel = KERNELS[name]

        def launch(grid, block, arguments):
            assert block == kernel.block
            assert type(arguments) is tuple
            for kind, a in zip(kernel.takes, arguments, strict=True):
                if kind in NUMBERS:
                    assert isinstance(a, generic), name
                    assert type(a) is NUMBERS[kind], (name, kind, a)
                else:
                    assert isinstance(a, ndarray) or (type(a) is uint64 and not a)
            self.machine.run(name, grid, *(None if isinstance(a, uint64) else a for a in arguments))

        return launch
