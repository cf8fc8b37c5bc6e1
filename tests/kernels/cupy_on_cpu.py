"""As much of CuPy as kernels and tools ask for, on NumPy arrays: `install` puts a module of that name on a path.

What the driver would do with arguments is done here with more care: every one has the width that its kernel reads.
"""

from numpy import *  # noqa: F403
from numpy import generic, ndarray, uint64

from conformance.ports.engine_on_cpu import OnCpu, compiled_by_gpp
from seft_ref.kernels._launch import KERNELS, NUMBERS, SOURCE

TEXT = """
from tests.kernels.cupy_on_cpu import *
from tests.kernels.cupy_on_cpu import RawModule, cuda, get_default_memory_pool
__version__ = "0 on NumPy"
"""


def install(folder):
    """Write cupy and cupyx into a folder; what is sparse there is SciPy's."""
    (folder / "cupy.py").write_text(TEXT)
    (folder / "cupyx" / "scipy").mkdir(parents=True)
    (folder / "cupyx" / "scipy" / "sparse.py").write_text("from scipy.sparse import *\n")


_PROPERTIES = {"name": b"a processor", "major": 0, "minor": 0, "totalGlobalMem": 1 << 30}


class cuda:  # noqa: N801
    """The device of NumPy's arrays."""

    @staticmethod
    def Device():
        return "cpu"

    class runtime:  # noqa: N801
        """What the driver tells of one device."""

        getDevice = staticmethod(lambda: 0)  # noqa: N815
        getDeviceProperties = staticmethod(lambda device: dict(_PROPERTIES))  # noqa: N815
        runtimeGetVersion = driverGetVersion = staticmethod(lambda: 0)  # noqa: N815
        deviceSynchronize = staticmethod(lambda: None)  # noqa: N815
        memGetInfo = staticmethod(lambda: (1 << 40, 1 << 40))  # noqa: N815


class _Pool:
    def total_bytes(self):
        return 0

    def free_all_blocks(self):
        pass


def get_default_memory_pool():
    return _Pool()


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
