"""Adapters and patches of other libraries, read as changes of a base entry by entry.

FMT-151 and FMT-157 say it of lists of positions, FMT-152 of products, FMT-170 of Super-Tuning.
"""

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import SIGNS, packed, words
from conformance.oracle.files_deltas import cells, number
from conformance.oracle.foreign import Tree, by, need, numbers, parsed, read_stock
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.train_around import FORMATS

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
ABOUT = "auto_mapping base_model_name_or_path inference_mode peft_type peft_version revision task_type target_modules"
FACTORS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class Library:
    """How a library stores adapters.

    Attributes:
        peft_type: value of this key of the configuration.
        clause: the clause by which an adapter is refused.
        roles: the tensors that a module has, in one or several ways.
        known: options that do not affect values, or that are read here.
    """

    peft_type: str
    clause: str
    roles: tuple[tuple[str, ...], ...]
    known: str


LIBRARIES = {
    "spiel": Library("SFT", "FMT-151", (("sft_delta.indices", "sft_delta.values"),), """candidate_reselection_proportion
        candidate_reselection_steps density dtype initial_reselection_rate num_deltas num_tunable_weights
        reselection_rate_policy reselection_steps selection_accumulation_steps selection_algorithm"""),
    "shira": Library("SHIRA", "FMT-151", (("shira_indices", "shira_weight"),), "init_weights mask_type r random_seed"),
    "super-tuning": Library("SUPERTUNING", "FMT-170", (("supertuning_indices", "supertuning_values"),),
                            "init_weights lora_alpha lora_dropout save_precomputed_indices select_top sparsity"),
    "lora": Library("LORA", "FMT-152", FACTORS, """alpha_pattern eva_config exclude_modules fan_in_fan_out
        init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout megatron_core qalora_group_size r
        rank_pattern runtime_config use_rslora"""),
}  # fmt: skip
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base as it was."""


@dataclass(frozen=True)
class Changes:
    """Changes of a base: `how` is add or replace, `left_out` counts amounts off the support of the base."""

    how: str
    tensors: dict[str, Tensor]
    left_out: dict[str, int]


def read(kind: str, tree: Tree, base: Mapping[str, Tensor]) -> Changes:
    """Return the changes that a source makes of a base.

    Raises:
        RefusedError: FMT-121, or the clause of the source.
    """
    if kind == "trl-delta":
        with by("FMT-151"):
            return Changes("replace", _patch(tree, base), {})
    library = LIBRARIES[kind]
    with by(library.clause):
        config, metadata, modules = adapter(tree, library.peft_type, library.roles, library.known)
        made, left_out = {}, {}
        for module, parts in modules.items():
            name = f"{module}.weight"
            need(base[name].dtype.startswith(("F", "BF")), "a base of floats")
            if kind == "lora":
                made[name], left_out[name] = _lora(config, module, parts, base[name])
                continue
            at, values = parts.values()
            need(values.dtype in FORMATS and len(values.shape) == 1, "one dimension of amounts")
            if kind == "shira":
                places, padded = _of_rows(at, base[name]), config.get("mask_type") == "given-padded"
            else:
                need(len(at.shape) == 1, "one dimension of positions")
                places, padded = numbers(at, "I32", "I64"), "seft.padding" in metadata and kind == "super-tuning"
            if kind == "super-tuning":
                sparsity, mark = config["sparsity"], metadata.get("seft.padding")
                need(
                    type(sparsity) in (int, float) and 0 <= sparsity < 1 and mark in (None, "-0.0"),
                    "a sparsity, a mark",
                )
                need(len(base[name].shape) == 2 and values.dtype != "F64", "a matrix, and amounts of 32 bits")
                need(len(places) == room(math.prod(base[name].shape), sparsity), "FMT-170.2")
            made[name] = changed(base[name].shape, places, values, padded=padded)
        sizes = {module: parts[library.roles[0][1]].shape[0] for module, parts in modules.items() if kind == "spiel"}
        need(kind != "spiel" or config.get("num_deltas") in (None, sizes), "num_deltas")
    return Changes("add", made, left_out)


def adapter(
    tree: Tree, peft_type: str, roles: Sequence[tuple[str, ...]], known: str
) -> tuple[dict[str, Any], dict[str, str], dict[str, dict[str, Tensor]]]:
    """Return configuration and metadata of an adapter of PEFT, and the tensors of each module by role."""
    config = parsed(tree[CONFIG])
    need(config["peft_type"] == peft_type, "a peft_type")
    off = {key for key, value in config.items() if not value or value == "none"}
    need({*config} - off <= {*ABOUT.split(), *known.split()}, "no option that is on")
    metadata, tensors = read_stock(tree[WEIGHTS])
    modules: dict[str, dict[str, Tensor]] = {}
    every = [role for way in roles for role in way]
    for name, t in tensors.items():
        role = next((role for role in every if name.endswith(f".{role}")), "")
        module = name.removeprefix(PREFIX).removesuffix(f".{role}")
        need(role and module and name == f"{PREFIX}{module}.{role}", "a tensor of a module")
        modules.setdefault(module, {})[role] = t
    need(
        modules and all({*parts} in [{*way} for way in roles] for parts in modules.values()), "all tensors of a module"
    )
    return config, metadata, {m: {role: parts[role] for role in every if role in parts} for m, parts in modules.items()}


def room(positions: int, sparsity: float) -> int:
    """Return K of a matrix: positions · (1 − sparsity) in binary64, truncated to an integer (FMT-170.2)."""
    return int(positions * (1.0 - sparsity))


def _of_rows(pair: Tensor, one: Tensor) -> list[int]:
    """Return the flat positions of rows and columns."""
    both, (two, count), (rows, columns) = numbers(pair, "I32", "I64", "F32"), pair.shape, one.shape
    need(two == 2 and (pair.dtype != "F32" or all(x == x // 1 and 0 <= x < 2**24 for x in both)), "pairs of integers")
    pairs = [*zip(map(int, both[:count]), map(int, both[count:]), strict=True)]
    need(all(0 <= r < rows and 0 <= c < columns for r, c in pairs), "positions inside")
    return [r * columns + c for r, c in pairs]


def changed(shape: tuple[int, ...], places: Sequence[int], values: Tensor, *, padded: bool = False) -> Tensor:
    """Return the sparse tensor with these values at flat positions, which may come in any order (FMT-151).

    Args:
        shape: of the tensor.
        places: the positions.
        values: as many values.
        padded: values of −0.0 are padding, and left out (FMT-157).
    """
    need(
        len({*places}) == len(places) and all(0 <= at < math.prod(shape) for at in places), "positions once and inside"
    )
    pairs = sorted(zip(places, words(values), strict=True))
    if padded:
        pairs = [(at, word) for at, word in pairs if word != SIGNS[values.dtype]]
    bits = packed(values.dtype, (word for _, word in pairs))
    return Tensor(values.dtype, shape, bits, tuple(divmod(at, shape[-1]) for at, _ in pairs))


def _patch(tree: Tree, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the new bits of a patch of TRL."""
    (raw,) = (raw for name, raw in tree.items() if name.endswith(".safetensors"))
    metadata, tensors = read_stock(raw)
    coded = any(name.endswith(".idx") for name in tensors)
    roles, encoding = ((".idx", ".val"), metadata["encoding"]) if coded else ((".indices", ".values"), "raw")
    names = {name.removesuffix(roles[0]) for name in tensors if name.endswith(roles[0])}
    need(names and {*tensors} == {name + role for name in names for role in roles}, "pairs of tensors")
    need(encoding in ("raw", "gap_delta"), "an encoding")
    made = {}
    for name in names:
        at, values = (tensors[name + role] for role in roles)
        places = numbers(at, *(("I32", "I64") if encoding == "raw" else ("U16", "U32")))
        need(len(at.shape) == len(values.shape) == 1 and values.dtype == base[name].dtype, "values of the base's dtype")
        if encoding != "raw":
            places = [at + i for i, at in enumerate(accumulate(places))]
        made[name] = changed(base[name].shape, places, values)
    return made


# products ----------------------------------------------------------------------------------------


def _lora(config: dict[str, Any], module: str, parts: dict[str, Tensor], one: Tensor) -> tuple[Tensor, int]:
    """Return the amounts of a LoRA adapter on the support of a base, and the number of those that are left out."""
    start, options = config.get("init_lora_weights"), ("use_rslora", "fan_in_fan_out")
    need(type(start) is not int and start in PLAIN_STARTS, "a start that leaves the base as it was")
    need(all(type(config.get(key, False)) is bool for key in options), "options that are on or off")

    def stated(key: str, patterns: str) -> Any:
        ends = config.get(patterns) or {}
        need(all(re.fullmatch(r"[\w.-]+", end) for end in ends), "plain endings")
        value = next((own for end, own in ends.items() if f".{module}".endswith(f".{end}")), config.get(key))
        need(type(value) in (int, float), "a number")
        return value

    (role, a), (_, b) = parts.items()
    rank, alpha = stated("r", "rank_pattern"), stated("lora_alpha", "alpha_pattern")
    need(len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1] == rank >= 1, "factors of the rank")
    need(a.dtype in FORMATS and b.dtype in FORMATS, "factors of floats")
    turned = role in FACTORS[1] or bool(config.get("fan_in_fan_out"))
    shape = (b.shape[0], a.shape[1])
    need(one.shape == (shape[::-1] if turned else shape), "the shape of the base")
    return lora(one, product(a, b, float(alpha), root=bool(config.get("use_rslora")), turned=turned))


def entries(t: Tensor) -> list[list[float]]:
    """Return the rows of a dense matrix of floats as binary64."""
    flat = [number(t.dtype, raw) for raw in cells(t).values()]
    return [flat[r * t.shape[1] : (r + 1) * t.shape[1]] for r in range(t.shape[0])]


def product(a: Tensor, b: Tensor, alpha: float, *, root: bool, turned: bool) -> list[list[float]]:
    """Return B·A or its transpose. Entries are summed from the first rank on, scaled, and rounded to F32 (FMT-152).

    Raises:
        RefusedError: an entry is not finite in F32.
    """
    rows_a, rows_b, rank = entries(a), entries(b), a.shape[0]
    scale = alpha / (math.sqrt(rank) if root else rank)
    out = [[_rounded([row[k] * rows_a[k][c] for k in range(rank)], scale) for c in range(a.shape[1])] for row in rows_b]
    return [list(column) for column in zip(*out, strict=True)] if turned else out


def _rounded(terms: list[float], scale: float) -> float:
    total = terms[0]
    for term in terms[1:]:
        total += term
    try:
        single = float(struct.unpack("<f", struct.pack("<f", total * scale))[0])
    except OverflowError as error:
        raise RefusedError("FMT-152: beyond F32") from error
    need(math.isfinite(single), "a finite amount")
    return single


def lora(base: Tensor, amounts: list[list[float]]) -> tuple[Tensor, int]:
    """Return the amounts on the support of the base, and the number of other amounts that are not +0.0 (FMT-152)."""
    rows, columns = base.shape
    every = [(r, c) for r in range(rows) for c in range(columns)]
    support = every if base.support is None else list(base.support)
    raw = {(r, c): struct.pack("<f", amounts[r][c]) for r, c in every}
    left_out = sum(raw[at] != bytes(4) for at in {*every} - {*support})
    return Tensor("F32", base.shape, b"".join(raw[at] for at in support), tuple(support)), left_out
