"""Properties of files of torch.save (FMT-153, FMT-159)."""

import pickle
import struct
import zipfile
from math import prod

from conformance.answers.files_content import raw_array
from conformance.oracle import files_torch
from conformance.oracle.files import BITS
from conformance.oracle.files_convert import packed
from conformance.oracle.files_torch import Sparse, Stored, View, call, pickled, pushed, saved, text, whole, zipped
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []

_DTYPES = ("F32", "F16", "BF16", "F64", "I8", "U8", "I16", "I32", "I64", "C64")
_SHAPES = ((3,), (2, 3), (), (1, 2, 4), (5, 1), (0, 3))
_NAMES = ("layers.0.q.weight", "a", "é", "b")
_FAULTS = ("compressed", "cut", "another call", "a value that is no tensor", "beside the state dict", "a short storage")
Storages = dict[str, tuple[str, bytes]]


def _stored(d: Draw, storages: Storages, dtype: str, count: int) -> str:
    """Add a storage of random elements and return its key."""
    key = str(len(storages))
    storages[key] = dtype, packed(dtype, d.integers(count, 0, min(2 ** BITS[dtype] - 1, 2**60)))
    return key


def _indices(storages: Storages, dtype: str, values: list[int]) -> str:
    key = str(len(storages))
    storages[key] = dtype, struct.pack(f"<{len(values)}{'i' if dtype == 'I32' else 'q'}", *values)
    return key


def _dense(d: Draw, storages: Storages) -> View:
    """Return a dense tensor, sometimes turned, or a part of its storage."""
    dtype, shape = d.choice(_DTYPES), d.choice(_SHAPES)
    more = d.integer(0, 2)
    view = whole(_stored(d, storages, dtype, prod(shape) + more), dtype, shape)
    turned = View(view.key, dtype, more, shape[::-1], view.strides[::-1])
    return turned if d.flag(3) else view


def _sparse(d: Draw, storages: Storages, wrong: str) -> Sparse:
    """Return a sparse matrix, CSR or COO, with indices that rise unless they are `wrong`."""
    rows, columns = d.integer(1, 4), d.integer(1, 5)
    at = d.subset(rows * columns)
    if wrong and at:
        at = {"repeated": [*at, at[-1]], "out of range": [*at[:-1], at[-1] + columns], "turned": at[::-1]}[wrong]
    dtype = d.choice(("I64", "I32"))
    values = whole(_stored(d, storages, "F32", len(at)), "F32", (len(at),))
    if d.flag():
        # torch keeps the indices of COO tensors in 64 bits
        pairs = [p // columns for p in at] + [p % columns for p in at]
        indices = whole(_indices(storages, "I64", pairs), "I64", (2, len(at)))
        return Sparse("torch.sparse_coo", (indices, values), (rows, columns))
    pointers = [sum(p // columns < r for p in at) for r in range(rows + 1)]
    of_rows = whole(_indices(storages, dtype, pointers), dtype, (rows + 1,))
    of_columns = whole(_indices(storages, dtype, [p % columns for p in at]), dtype, (len(at),))
    return Sparse("torch.sparse_csr", (of_rows, of_columns, values), (rows, columns))


@property_of(
    "convert.torch",
    "FMT-153",
    "foreign",
    "convert.torch",
    sees=("a sparse tensor", "a tied tensor", "a state dict in a dict", "a fault", "wrong indices"),
)
def _torch(d: Draw, t: Trial) -> None:
    """Tensors keep every bit, support and tie, or the file is refused."""
    storages: Storages = {}
    tensors: dict[str, Stored] = {}
    for name in d.some(_NAMES, d.integer(1, 3)):
        if d.flag():
            wrong = d.choice(("repeated", "out of range", "turned")) if d.flag(4) else ""
            tensors[name] = _sparse(d, storages, wrong)
            t.saw("a sparse tensor")
            t.saw("wrong indices", wrong)
        else:
            tensors[name] = _dense(d, storages)
    if d.flag():
        t.saw("a tied tensor")
        tensors["tied"] = tensors[next(iter(tensors))]
    nested = d.flag()
    t.saw("a state dict in a dict", nested)
    raw = saved(tensors, storages, nested=nested)
    if d.flag(4):
        t.saw("a fault")
        raw = _spoilt(d, d.choice(_FAULTS), raw, tensors, storages)
    t.case("convert.torch", {"raw": raw_array(raw)})


def _spoilt(d: Draw, fault: str, raw: bytes, tensors: dict[str, Stored], storages: Storages) -> bytes:
    """Return a file with a fault."""
    sizes = {key: 8 * len(data) // BITS[dtype] for key, (dtype, data) in storages.items()}
    inner = {key: data for key, (_, data) in storages.items()}
    entries = [(name, pushed(one, sizes)) for name, one in tensors.items()]
    if fault == "compressed":
        return zipped(pickled(entries), inner, method=zipfile.ZIP_DEFLATED)
    if fault == "cut":
        return raw[: d.integer(0, len(raw) - 1)]
    if fault == "a short storage":
        key = max(inner, key=lambda one: len(inner[one]))
        return zipped(pickled(entries), inner | {key: inner[key][:-1]}) if inner[key] else raw[:-1]
    if fault == "another call":
        entries.append(("x", call(d.choice(("os.system", "builtins.list", "numpy.core.multiarray.scalar")), text("a"))))
    elif fault == "beside the state dict":
        entries = [("state_dict", pickled(entries)), ("epoch", pickle.BININT1 + b"\7")]
    else:
        entries.append(("x", d.choice((text("a"), pickle.NONE, pickle.EMPTY_LIST, pickle.EMPTY_DICT))))
    return zipped(pickled(entries), inner)


_MASKS = ("zeros and ones", "another value", "the tensor itself", "a tie", "another shape", "no mask")


@property_of("convert.torch-masks", "FMT-159", "foreign", "convert.torch", sees=_MASKS[:2])
def _masks(d: Draw, t: Trial) -> None:
    """A masked parameter becomes one tensor with the support of its mask."""
    storages: Storages = {}
    shape = d.choice(_SHAPES[:2])
    dtype = d.choice(("F32", "F16", "I8"))
    case = d.choice((*_MASKS[:2], *_MASKS[:2], *_MASKS))
    t.saw(case)
    one = {"F32": 0x3F80_0000, "F16": 0x3C00, "I8": 1}[dtype]
    flags = [one * k for k in d.integers(prod(shape), 0, 1)]
    if case == "another value":
        flags[d.integer(0, len(flags) - 1)] = one + d.integer(1, 9)
    storages["m"] = dtype, packed(dtype, flags)
    values = whole(_stored(d, storages, "F32", prod(shape)), "F32", shape)
    mask = whole("m", dtype, shape)
    tensors: dict[str, Stored] = {"q.weight_orig": values, "q.bias": _dense(d, storages), "q.weight_mask": mask}
    if case == "the tensor itself":
        tensors["q.weight"] = _dense(d, storages)
    elif case == "a tie":
        tensors["x"] = d.choice((values, mask))
    elif case == "another shape":
        tensors["q.weight_mask"] = files_torch.View("m", dtype, 0, shape[::-1], mask.strides[::-1])
    elif case == "no mask":
        del tensors["q.weight_mask"]
    t.case("convert.torch", {"raw": raw_array(saved(tensors, storages))})
