"""Cases of adapters and patches that are read as changes of a base (FMT-151, FMT-152)."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from conformance.gen.files import content, on, raw_array
from conformance.gen.numbers import Area
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import dense, stock
from conformance.oracle.files_convert_adapters import changed, lora, product
from conformance.oracle.train_around import rounded_bits

OP = "convert.adapter"
CONFIG, WEIGHTS, MODULE = "adapter_config.json", "adapter_model.safetensors", "model.layers.0.q"
PREFIX = f"base_model.model.{MODULE}"
NAME = f"{MODULE}.weight"
SPIEL: dict[str, Any] = {"peft_type": "SFT", "task_type": "CAUSAL_LM", "selection_algorithm": "rigl"}
SHIRA: dict[str, Any] = {"peft_type": "SHIRA", "r": 2, "mask_type": "random"}
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q"]}
BASE = on("F16", (3, 4), [0, 2, 5, 7, 11])


def whole_numbers(values: Sequence[int], dtype: str = "I64") -> Tensor:
    """Return integers as a vector of dtype I32, I64 or F32."""
    code = {"I32": "i", "I64": "q", "F32": "f"}[dtype]
    return Tensor(dtype, (len(values),), struct.pack(f"<{len(values)}{code}", *values))


def reals(values: Sequence[float], *shape: int, dtype: str = "F32") -> Tensor:
    """Return floats as a tensor."""
    return dense(dtype, shape or (len(values),), [rounded_bits(x, dtype) for x in values])


def folder(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Return the folder of an adapter; tensors are named by the module's prefix and their role."""
    own = {f"{PREFIX}.{role}": t for role, t in tensors.items()}
    return {CONFIG: json.dumps(dict(config)).encode(), WEIGHTS: stock(own, {"format": "pt"})}


def asked(kind: str, tree: Mapping[str, bytes], base: dict[str, Tensor]) -> dict[str, Any]:
    """Return the inputs of `convert.adapter`."""
    files = {name: raw_array(raw) for name, raw in tree.items()}
    return {"kind": kind, "files": files, "tensors": content(base)["tensors"]}


def answered(how: str, tensors: dict[str, Tensor], left_out: dict[str, int] | None = None) -> dict[str, Any]:
    """Return the outputs of `convert.adapter`."""
    return {"how": how, "tensors": content(tensors)["tensors"], "left_out": left_out or {}}


def adapters() -> Area:
    """Return cases of SpIEL, SHiRA and LoRA adapters and of patches (FMT-151, FMT-152)."""
    area = Area("convert-adapter", "loops by 12.11")
    _positions(area)
    _lora(area)
    _refused(area)
    _path_parts(area)
    _wide_gap(area)
    return area


def _path_parts(area: Area) -> None:
    """Add a LoRA adapter whose first patterns end the text of a module path, but begin within a part (FMT-152.5)."""
    a, b = reals([1.0, -2.0, 3.0, 0.5], 1, 4), reals([0.5, 1.0, -0.25], 3, 1)
    module, config = "layers.0.up", LORA | {"r": 9, "rank_pattern": {"p": 4, "up": 1}}
    config |= {"alpha_pattern": {"p": 7, "rs.0.up": 9, "0.up": 5}}
    factors = {f"base_model.model.{module}.lora_{role}.weight": t for role, t in (("A", a), ("B", b))}
    tree = {CONFIG: json.dumps(config).encode(), WEIGHTS: stock(factors, {"format": "pt"})}
    change, left_out = lora(BASE, product(a, b, 5.0, root=False, turned=False))
    name = f"{module}.weight"
    purpose = "a pattern taken for the end of a text, not of a path"
    inputs, answer = asked("lora", tree, {name: BASE}), answered("add", {name: change}, {name: left_out})
    area.add("lora-path-parts", OP, "FMT-152", purpose, inputs, answer)


def _wide_gap(area: Area) -> None:
    """Add a patch with the largest gap that U16 holds, which one more would make 0 (FMT-151)."""
    base, new = on("F16", (2, 50_000), [7]), dense("F16", (3,), [1, 2, 3])
    gaps = Tensor("U16", (3,), struct.pack("<3H", 4, 65_535, 0))
    patch = {f"{NAME}.idx": gaps, f"{NAME}.val": new}
    tree = {"patch.safetensors": stock(patch, {"encoding": "gap_delta"})}
    answer = answered("replace", {NAME: changed((2, 50_000), [4, 65_540, 65_541], new)})
    inputs, purpose = asked("trl-delta", tree, {NAME: base}), "a gap and its position counted in 16 bits"
    area.add("patch-gap", OP, "FMT-151", purpose, inputs, answer)


def _positions(area: Area) -> None:
    purpose = "amounts that are not sorted with their positions, or changed on the way"
    places = [7, 0, 11, 4]
    for dtype, of in (("I32", "F32"), ("I64", "BF16")):
        values = reals([1.5, -0.0, 0.0, 3.0], dtype=of)
        tree = folder(SPIEL, {"sft_delta.indices": whole_numbers(places, dtype), "sft_delta.values": values})
        answer = answered("add", {NAME: changed((3, 4), places, values)})
        area.add(f"spiel-{dtype}-{of}", OP, "FMT-151", purpose, asked("spiel", tree, {NAME: BASE}), answer)
    values = reals([1.5, -2.0, -0.0, 3.0])
    rows, columns = [p // 4 for p in places], [p % 4 for p in places]
    for dtype in ("I32", "F32"):
        pair = whole_numbers([*rows, *columns], dtype)
        pair = Tensor(dtype, (2, 4), pair.bits)
        tree = folder(SHIRA, {"shira_indices": pair, "shira_weight": values})
        answer = answered("add", {NAME: changed((3, 4), places, values)})
        purpose = "rows and columns exchanged, or filling left out that is none"
        area.add(f"shira-{dtype}", OP, "FMT-151", purpose, asked("shira", tree, {NAME: BASE}), answer)
    tree = folder(SHIRA | {"mask_type": "given-padded"}, {"shira_indices": pair, "shira_weight": values})
    kept = [places[i] for i in (0, 1, 3)]
    answer = answered("add", {NAME: changed((3, 4), kept, reals([1.5, -2.0, 3.0]))})
    area.add("shira-padded", OP, "FMT-157 FMT-151", "filling that is read", asked("shira", tree, {NAME: BASE}), answer)
    zeros = reals([0.0, -2.0, -0.0, 0.0])
    tree = folder(SHIRA | {"mask_type": "given-padded"}, {"shira_indices": pair, "shira_weight": zeros})
    kept = [places[i] for i in (0, 1, 3)]
    answer = answered("add", {NAME: changed((3, 4), kept, reals([0.0, -2.0, 0.0]))})
    purpose = "amounts of +0.0 taken for filling"
    inputs = asked("shira", tree, {NAME: BASE})
    area.add("shira-padded-zeros", OP, "FMT-157 FMT-151", purpose, inputs, answer)
    new = dense("F16", (4,), [0x8000, 0, 0x7E01, 5])
    patch = {f"{NAME}.indices": whole_numbers(places, "I32"), f"{NAME}.values": new}
    answer = answered("replace", {NAME: changed((3, 4), places, new)})
    purpose = "new bits taken for amounts"
    inputs = asked("trl-delta", {"patch.safetensors": stock(patch)}, {NAME: BASE})
    area.add("patch", OP, "FMT-151", purpose, inputs, answer)


def _lora(area: Area) -> None:
    a = reals([1.0, 2.0**-30, -3.0, 0.0, 0.1, -0.7, 0.3, 2.0], 2, 4)
    b = reals([0.5, 1.0, -0.0, 0.0, 3.0, 1.0 / 3], 3, 2)
    full = reals([1.0] * 12, 3, 4, dtype="BF16")
    turned_base = on("F32", (4, 3), [0, 4, 8, 11])
    for name, config, base, names in (
        ("sparse", LORA, BASE, ("lora_A.weight", "lora_B.weight")),
        ("dense", LORA, full, ("lora_A.weight", "lora_B.weight")),
        ("root", LORA | {"use_rslora": True}, BASE, ("lora_A.weight", "lora_B.weight")),
        ("turned", LORA | {"fan_in_fan_out": True}, turned_base, ("lora_A.weight", "lora_B.weight")),
        ("embedding", LORA, turned_base, ("lora_embedding_A", "lora_embedding_B")),
        ("fraction", LORA | {"lora_alpha": 0.3}, BASE, ("lora_A.weight", "lora_B.weight")),
        ("pattern", LORA | {"r": 9, "rank_pattern": {"k": 4, "q": 2}, "alpha_pattern": {"0.q": 5, "q": 7}}, BASE,
         ("lora_A.weight", "lora_B.weight")),
    ):  # fmt: skip
        alpha = 5.0 if name == "pattern" else float(config["lora_alpha"])
        turned = base is turned_base
        amounts = product(a, b, alpha, root="use_rslora" in config, turned=turned)
        change, left_out = lora(base, amounts)
        tree = folder(config, dict(zip(names, (a, b), strict=True)))
        answer = answered("add", {NAME: change}, {NAME: left_out})
        purpose = "a scale, an order of sums or a shape that is another one, or amounts off the support"
        area.add(f"lora-{name}", OP, "FMT-152", purpose, asked("lora", tree, {NAME: base}), answer)
    _zeros(area)


def _zeros(area: Area) -> None:
    """Add amounts of +0.0 and −0.0, on the support of the base and off it."""
    a, b = reals([1.0, -1.0, -0.0, 2.0], 1, 4), reals([0.0, -0.0, 3.0], 3, 1)
    change, left_out = lora(BASE, product(a, b, 1.0, root=False, turned=False))
    tree = folder(LORA | {"r": 1, "lora_alpha": 1}, {"lora_A.weight": a, "lora_B.weight": b})
    answer = answered("add", {NAME: change}, {NAME: left_out})
    purpose = "amounts of −0.0 off the support that are not counted, though a bit of them is set"
    area.add("lora-zeros", OP, "FMT-152", purpose, asked("lora", tree, {NAME: BASE}), answer)


def _refused(area: Area) -> None:
    indices, values = whole_numbers([7, 0, 11]), reals([1.0, 2.0, 3.0])
    good = {"sft_delta.indices": indices, "sft_delta.values": values}

    def refuse(name: str, clause: str, kind: str, tree: dict[str, bytes], base: Tensor = BASE, at: str = NAME) -> None:
        inputs = asked(kind, tree, {at: base})
        area.add(f"refuse-{name}", OP, clause, "a change that is taken as it is", inputs, refused=clause)

    for name, change in (
        ("twice", {"sft_delta.indices": whole_numbers([7, 0, 7])}),
        ("outside", {"sft_delta.indices": whole_numbers([7, 0, 12])}),
        ("negative", {"sft_delta.indices": whole_numbers([7, 0, -1])}),
        ("shorter", {"sft_delta.indices": whole_numbers([7, 0])}),
        ("floats", {"sft_delta.indices": whole_numbers([7, 0, 1], "F32")}),
        ("codes", {"sft_delta.values": dense("I8", (3,), [1, 2, 3])}),
        ("more", {"sft_delta.more": values}),
    ):
        refuse(name, "FMT-151", "spiel", folder(SPIEL, good | change))
    refuse("partner", "FMT-151", "spiel", folder(SPIEL, {"sft_delta.values": values}))
    refuse("option", "FMT-151", "spiel", folder(SPIEL | {"scale_by_norm": True}, good))
    refuse("counts", "FMT-151", "spiel", folder(SPIEL | {"num_deltas": {MODULE: 4}}, good))
    refuse("type", "FMT-151", "spiel", folder(SHIRA, good))
    refuse("no-base", "FMT-151", "spiel", folder(SPIEL, good), BASE, "other")
    refuse("integers", "FMT-151", "spiel", folder(SPIEL, good), on("I16", (3, 4), [1]))
    refuse("mask", "FMT-151", "spiel", folder(SPIEL, good), on("NONE", (3, 4), [1]))
    patch = {f"{NAME}.indices": indices, f"{NAME}.values": values}
    refuse("patch-dtype", "FMT-151", "trl-delta", {"patch.safetensors": stock(patch)})
    a, b = reals([1.0] * 8, 2, 4), reals([1.0] * 6, 3, 2)
    for name, config, factors in (
        ("lora-rank", LORA | {"r": 4}, (a, b)),
        ("lora-shape", LORA, (b, a)),
        ("lora-dora", LORA | {"use_dora": True}, (a, b)),
        ("lora-saved", LORA | {"modules_to_save": ["head"]}, (a, b)),
        ("lora-start", LORA | {"init_lora_weights": "pissa"}, (a, b)),
        ("lora-large", LORA | {"lora_alpha": 1e39}, (a, b)),
    ):
        tree = folder(config, dict(zip(("lora_A.weight", "lora_B.weight"), factors, strict=True)))
        refuse(name, "FMT-152", "lora", tree)
