"""Cases of Super-Tuning adapters of PEFT, read as amounts to add to a base (FMT-170)."""

import json
from collections.abc import Mapping
from typing import Any

from conformance.gen.files import on
from conformance.gen.files_convert_adapters import (
    BASE,
    CONFIG,
    NAME,
    PREFIX,
    SPIEL,
    WEIGHTS,
    answered,
    asked,
    folder,
    reals,
    whole_numbers,
)
from conformance.gen.numbers import Area
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import dense, stock
from conformance.oracle.files_convert_adapters import changed
from conformance.oracle.files_versions import room

OP, KIND = "convert.adapter", "super-tuning"
INDICES, VALUES = "supertuning_indices", "supertuning_values"
SUPER: dict[str, Any] = {
    "peft_type": "SUPERTUNING",
    "task_type": "CAUSAL_LM",
    "sparsity": 0.75,
    "r": None,
    "lora_alpha": None,
    "lora_dropout": 0.0,
    "init_weights": True,
    "save_precomputed_indices": True,
    "select_top": True,
    "target_modules": ["q"],
}
PLACES = [7, 11, 0]
"""Unsorted positions on the support of `BASE`; there are three, because a sparsity of 0.75 leaves 3 of 12."""


def padded(tensors: Mapping[str, Tensor], mark: str) -> dict[str, bytes]:
    """Return an adapter whose weights have the mark of padding (FMT-170.7)."""
    own = {f"{PREFIX}.{role}": t for role, t in tensors.items()}
    return {CONFIG: json.dumps(SUPER).encode(), WEIGHTS: stock(own, {"format": "pt", "seft.padding": mark})}


def super_tuning() -> Area:
    """Return cases of Super-Tuning adapters (FMT-170)."""
    area = Area("convert-super-tuning", "loops by 12.11")
    _amounts(area)
    _rooms(area)
    _several(area)
    _refused(area)
    return area


def _pair(places: list[int], values: Tensor, dtype: str = "I32") -> dict[str, Tensor]:
    return {INDICES: whole_numbers(places, dtype), VALUES: values}


def _amounts(area: Area) -> None:
    for dtype, of in (("I32", "F32"), ("I64", "BF16"), ("I32", "F16")):
        values = reals([1.5, -0.0, 0.0], dtype=of)
        answer = answered("add", {NAME: changed((3, 4), PLACES, values)})
        purpose = "amounts that are not sorted with their positions, changed on the way, or taken for padding"
        inputs = asked(KIND, folder(SUPER, _pair(PLACES, values, dtype)), {NAME: BASE})
        area.add(f"{dtype}-{of}", OP, "FMT-170", purpose, inputs, answer)
    off = [1, 3, 10]
    answer = answered("add", {NAME: changed((3, 4), off, reals([1.0, 2.0, 3.0]))})
    inputs = asked(KIND, folder(SUPER, _pair(off, reals([1.0, 2.0, 3.0]))), {NAME: BASE})
    area.add("off-support", OP, "FMT-170", "amounts beside the support of the base left out", inputs, answer)
    values = reals([-0.0, 0.0, 2.0])
    answer = answered("add", {NAME: changed((3, 4), PLACES[1:], reals([0.0, 2.0]))})
    inputs = asked(KIND, padded(_pair(PLACES, values), "-0.0"), {NAME: BASE})
    area.add("padded", OP, "FMT-170", "padding that is read, or +0.0 taken for it", inputs, answer)


def _rooms(area: Area) -> None:
    """Add sparsities for which decimal numbers, rounding or another order of operations give another K."""
    for name, shape, sparsity in (
        ("decimal", (4, 5), 0.9),
        ("none", (2, 5), 0.9),
        ("all", (2, 3), 0.0),
        ("cut", (3, 5), 0.7),
        ("product-first", (3, 5), 0.8),
        ("integer", (2, 3), 0),
        ("tiny", (2, 2), 5e-324),
    ):
        count = room(shape[0] * shape[1], float(sparsity))
        places, values = list(range(count))[::-1], reals([float(i + 1) for i in range(count)])
        base = on("F32", shape, list(range(shape[0] * shape[1] - 1)))
        answer = answered("add", {NAME: changed(shape, places, values)})
        purpose = "a K computed in other numbers or in another order"
        tree = folder(SUPER | {"sparsity": sparsity}, _pair(places, values))
        area.add(f"room-{name}", OP, "FMT-170", purpose, asked(KIND, tree, {NAME: base}), answer)


def _several(area: Area) -> None:
    """Add two modules of different sizes, each with its own K."""
    bases = {"a.weight": on("F32", (2, 4), [0, 5]), "b.weight": on("BF16", (4, 4), list(range(16)))}
    places = {"a.weight": [6, 1], "b.weight": [15, 0, 3, 8]}
    own: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for name, at in places.items():
        values = reals([float(i - 1) for i in range(len(at))])
        module = f"base_model.model.{name.removesuffix('.weight')}"
        own |= {f"{module}.{role}": t for role, t in _pair(at, values).items()}
        changes[name] = changed(bases[name].shape, at, values)
    tree = {CONFIG: json.dumps(SUPER).encode(), WEIGHTS: stock(own, {"format": "pt"})}
    inputs = asked(KIND, tree, bases | {"c.weight": BASE})
    area.add("several", OP, "FMT-170", "one K for all modules", inputs, answered("add", changes))


def _refused(area: Area) -> None:
    good = _pair(PLACES, reals([1.0, 2.0, 3.0]))

    def refuse(name: str, tree: dict[str, bytes], base: Tensor = BASE, at: str = NAME) -> None:
        inputs = asked(KIND, tree, {at: base})
        area.add(f"refuse-{name}", OP, "FMT-170", "a change that is taken as it is", inputs, refused="FMT-170")

    for name, change in (
        ("twice", {INDICES: whole_numbers([7, 7, 0], "I32")}),
        ("outside", {INDICES: whole_numbers([7, 12, 0], "I32")}),
        ("negative", {INDICES: whole_numbers([7, -1, 0], "I32")}),
        ("shorter", {INDICES: whole_numbers([7, 11], "I32")}),
        ("floats", {INDICES: whole_numbers([7, 11, 0], "F32")}),
        ("two-dimensions", {INDICES: Tensor("I32", (1, 3), good[INDICES].bits)}),
        ("wide", {VALUES: reals([1.0, 2.0, 3.0], dtype="F64")}),
        ("codes", {VALUES: dense("I8", (3,), [1, 2, 3])}),
        ("more", {"more": good[VALUES]}),
        ("supra", {f"supertuning_lora_{x}.weight": reals([1.0] * 4, 2, 2) for x in "AB"}),
    ):
        refuse(name, folder(SUPER, good | change))
    refuse("room-more", folder(SUPER, _pair([7, 11, 0, 1], reals([1.0, 2.0, 3.0, 4.0]))))
    refuse("room-less", folder(SUPER, _pair([7, 11], reals([1.0, 2.0]))))
    refuse("no-indices", folder(SUPER, {VALUES: good[VALUES]}))
    refuse("no-values", folder(SUPER, {INDICES: good[INDICES]}))
    for name, options in (
        ("no-sparsity", {"sparsity": None}),
        ("sparsity-text", {"sparsity": "most"}),
        ("sparsity-true", {"sparsity": True}),
        ("rank", {"r": 4}),
        ("option", {"scale_by_norm": True}),
    ):
        refuse(name, folder(SUPER | options, good))
    refuse("sparsity-one", folder(SUPER | {"sparsity": 1}, _pair([], reals([]))))
    every = _pair(list(range(12)), reals([1.0] * 12))
    refuse("sparsity-negative", folder(SUPER | {"sparsity": -0.05}, every))
    refuse("type", folder(SPIEL, good))
    refuse("mark", padded(good, "0.0"))
    refuse("no-base", folder(SUPER, good), BASE, "other")
    refuse("vector", folder(SUPER, good), on("F32", (12,), [0, 7]))
    refuse("kernel", folder(SUPER, good), on("F32", (3, 2, 2), [0, 7]))
    refuse("integers", folder(SUPER, good), on("I16", (3, 4), [1]))
    refuse("mask", folder(SUPER, good), on("NONE", (3, 4), [1]))


AREAS = (super_tuning,)
