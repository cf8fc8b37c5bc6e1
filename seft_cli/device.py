"""Choose the device of a command: its kernel set, an array that lives there, and how much memory is free there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import typer

from seft_cli import console, memory
from seft_ref.arrays.library import Array
from seft_ref.kernels import KernelSet


class Device(StrEnum):
    """The values of `--device`."""

    cpu = "cpu"
    cuda = "cuda"


class Arithmetic(StrEnum):
    """The values of `--arithmetic`."""

    float32 = "float32"
    bfloat16 = "bfloat16"


DeviceOption = Annotated[
    Device, typer.Option("--device", help="Compute on the processor, or with CuPy on an NVIDIA GPU.")
]


@dataclass(frozen=True, slots=True)
class Place:
    """One device.

    Attributes:
        kernels: the kernel set of the device.
        like: an array on the device; None for NumPy.
        index_bytes: bytes for the position of a packed weight: in a plain matrix, and in one of 16 bits.
        dense_from: returns, for an item size, the share of stored positions from which a matrix is stored as dense.
        free_bytes: returns how much memory a run can have.
        name: the name of the device on this machine.
    """

    kernels: KernelSet
    like: Array | None
    index_bytes: tuple[int, int]
    dense_from: Callable[[int], float]
    free_bytes: Callable[[], int]
    name: str = "cpu"


def place_of(
    device: Device, turn: int = 0, *, transposed: bool = False, arithmetic: Arithmetic = Arithmetic.float32
) -> Place:
    """Return the device that a process computes on.

    turn        how many processes of the run chose on this machine before this one; each takes the next GPU, and
                after the last the first again
    transposed  keep a second, transposed copy of every sparse matrix
    arithmetic  how float32 products are computed (KRN-019)

    Raises:
        Refused: there is no CuPy or no GPU, the processor has no AMX, or an option is of another device; the message
        says what to do.
    """
    if arithmetic is Arithmetic.bfloat16:
        return _in_bfloat16(device, transposed=transposed)
    if device is Device.cuda and transposed:
        raise console.Refused("--transposed is for --device cpu; a GPU multiplies both ways from one copy")
    if transposed:
        return _with_transposes()
    return _PLACES[device](turn)


def _on_cpu(turn: int = 0) -> Place:
    from seft_ref.kernels import cpu
    from seft_ref.train.memory import DENSE_FROM

    return Place(cpu, None, (1, 1), lambda itemsize: DENSE_FROM, lambda: memory.available_bytes())


def _with_transposes() -> Place:
    from seft_ref.kernels.cpu import transposed

    return replace(_on_cpu(), kernels=transposed)


def _in_bfloat16(device: Device, *, transposed: bool) -> Place:
    from seft_ref.kernels.cpu import tiles

    if device is Device.cuda:
        raise console.Refused("--arithmetic bfloat16 is for --device cpu")
    if transposed:
        raise console.Refused("--arithmetic bfloat16 multiplies both ways from one copy; leave --transposed out")
    reason = tiles.without_tiles()
    if reason:
        raise console.Refused(f"--arithmetic bfloat16: {reason}; leave it out")
    return replace(_on_cpu(), kernels=tiles)


def _on_cuda(turn: int) -> Place:
    from seft_ref.arrays.library import cupy_like, without_cupy

    reason = without_cupy(turn)
    if reason:
        raise console.Refused(f"--device cuda: {reason}")
    import cupy

    from seft_ref.kernels import gpu

    def dense_from(itemsize: int) -> float:
        # from this share on dense takes no more memory than CSR, because a CSR position takes 12 bytes beside its
        # value; 2:4 and 4:8 groups take less than CSR
        return itemsize / (itemsize + 12)

    # the name is the PCI id, because two processes may see different GPUs under one number
    name = str(cupy.cuda.Device().pci_bus_id)
    return Place(gpu, cupy_like(), (12, 4), dense_from, lambda: int(cupy.cuda.runtime.memGetInfo()[0]), name)


_PLACES: dict[Device, Callable[[int], Place]] = {Device.cpu: _on_cpu, Device.cuda: _on_cuda}
