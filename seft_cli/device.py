"""Where a command computes: the kernel set, the array that tells where arrays go, and how much memory is free there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import typer

from seft_cli import console, memory
from seft_ref.arrays.library import Array
from seft_ref.kernels import KernelSet


class Device(StrEnum):
    """What `--device` takes."""

    cpu = "cpu"
    cuda = "cuda"


DeviceOption = Annotated[
    Device, typer.Option("--device", help="Compute on the processor, or with CuPy on an NVIDIA GPU.")
]


@dataclass(frozen=True, slots=True)
class Place:
    """One device.

    Attributes:
        kernels: the kernel set that multiplies there.
        like: an array that is there; None for NumPy.
        index_bytes: what the position of a packed weight takes, plain and in 16 bits.
        dense_from: tells from which share of stored positions a matrix is held densely, by the bytes of a number.
        free_bytes: tells how much memory a run can have.
        name: what this machine calls the device.
    """

    kernels: KernelSet
    like: Array | None
    index_bytes: tuple[int, int]
    dense_from: Callable[[int], float]
    free_bytes: Callable[[], int]
    name: str = "cpu"


def place_of(device: Device, turn: int = 0, *, transposed: bool = False) -> Place:
    """Return where a process computes; transposed asks for a second copy of every sparse matrix.

    turn  how many processes of the same run chose on this machine before: GPUs are taken one by one, and again from
          the first when there are no more

    Raises:
        Refused: there is no CuPy or no GPU, or it is to hold transposed copies; the message says what to do.
    """
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


def _on_cuda(turn: int) -> Place:
    from seft_ref.arrays.library import cupy_like, without_cupy

    told = without_cupy(turn)
    if told:
        raise console.Refused(f"--device cuda: {told}")
    import cupy

    from seft_ref.kernels import gpu

    def dense_from(itemsize: int) -> float:
        # what takes no more memory so; groups of 2:4 and 4:8 take less than this says
        return itemsize / (itemsize + 12)

    # two processes may see different GPUs under one number
    name = str(cupy.cuda.Device().pci_bus_id)
    return Place(gpu, cupy_like(), (12, 4), dense_from, lambda: int(cupy.cuda.runtime.memGetInfo()[0]), name)


_PLACES: dict[Device, Callable[[int], Place]] = {Device.cpu: _on_cpu, Device.cuda: _on_cuda}
