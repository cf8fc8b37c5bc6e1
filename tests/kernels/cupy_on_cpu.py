"""As much of CuPy as kernels and tools ask for, on NumPy arrays: `install` puts a module of that name on a path.

What the driver would do with arguments is done here with more care: every one has the width that its kernel reads.
Options take the way that they take in CuPy 13.6 and 14.2, up to where a compiler would be handed them.
"""

from numpy import *  # noqa: F403
from numpy import generic, ndarray, uint64

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


class Compiler:
    """cupy.cuda.compiler, as far as options go through it; what a compiler was handed is noted in `handed`."""

    def __init__(self):
        self.handed = []
        self._empty_file_preprocess_cache = {}

    def _compile_module_with_cache(
        self, source, options=(), *, arch=None, extra_source=None, backend="nvrtc", jitify=False
    ):
        return self._compile_with_cache_cuda(source, options, arch, extra_source, backend, jitify)

    def _compile_with_cache_cuda(self, source, options, arch, extra_source, backend, jitify):
        options += ("-ftz=true",)
        if jitify and "-DCUPY_USE_JITIFY" not in options:
            options += ("-DCUPY_USE_JITIFY",)
        env = (arch, options, (12, 9), backend, f"-arch=sm_{arch}", "cubin")
        self._empty_file_preprocess_cache[env] = "// nothing"
        options += (f"-arch=sm_{arch}",)
        options += ("--device-as-default-execution-space",)
        self.handed.append(list(options))


_PROPERTIES = {"name": b"a processor", "major": 0, "minor": 0, "totalGlobalMem": 1 << 30}


class Device(str):
    """One of two devices, both of NumPy's arrays; it is equal to what those call theirs."""

    __slots__ = ("id",)
    current = 0

    def __new__(cls, number=None):
        self = super().__new__(cls, "cpu")
        self.id = cls.current if number is None else number
        assert 0 <= self.id < 2
        return self

    def use(self):
        Device.current = self.id

    @property
    def pci_bus_id(self):
        return f"0000:0{self.id}:00.0"


class cuda:  # noqa: N801
    """The devices of NumPy's arrays."""

    compiler = Compiler()
    Device = Device

    class runtime:  # noqa: N801
        """What the driver tells of its devices."""

        getDevice = staticmethod(lambda: Device.current)  # noqa: N815
        getDeviceCount = staticmethod(lambda: 2)  # noqa: N815
        getDeviceProperties = staticmethod(lambda device: dict(_PROPERTIES))  # noqa: N815
        runtimeGetVersion = driverGetVersion = staticmethod(lambda: 0)  # noqa: N815
        deviceSynchronize = staticmethod(lambda: None)  # noqa: N815
        memGetInfo = staticmethod(lambda: (1 << 40, 1 << 40))  # noqa: N815


class _Pool:
    def total_bytes(self):
        return 0

    def free_all_blocks(self):
        pass


def asnumpy(a):
    return a


def get_default_memory_pool():
    return _Pool()


class RawModule:
    """gpu.cu, compiled when the first kernel is asked for."""

    def __init__(self, code, options):
        # they import the package gpu, which imports what this module is installed as
        from conformance.engine.on_cpu import OnCpu, compiled_by_gpp
        from seft_ref.kernels.gpu.launch import SOURCE

        assert code == SOURCE.read_text()
        cuda.compiler._compile_module_with_cache(code, options, arch="90")
        assert cuda.compiler.handed[-1] == ["--std=c++14", "-arch=sm_90", "--device-as-default-execution-space"]
        self.machine = OnCpu(compiled_by_gpp())
        self.asked = set()

    def get_function(self, name):
        from seft_ref.kernels.gpu.launch import KERNELS, NUMBERS

        assert name not in self.asked, f"{name} is looked up for every launch"
        self.asked.add(name)
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
