"""Reads from config.json how the matrices of a folder are quantised to whole numbers (FMT-172).

{"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2"}
{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"weights": ...}}}
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from formats.dialects.quantised import DESCRIPTIONS, LIBRARY, quantises
from formats.errors import FormatError
from formats.strict_json import check_foreign_depth, unique_keys

Json: TypeAlias = dict[str, Any]

PACKED, PLAIN = "pack-quantized", "int-quantized"
GPTQ, GPTQ_V2, AWQ = "gptq", "gptq_v2", "awq"
TENSOR, CHANNEL, GROUP = "tensor", "channel", "group"

CONFIG = "config.json"
OWN_CONFIGS = {"quantize_config.json": GPTQ, "quant_config.json": AWQ}
"""File in which older programs describe the quantisation -> its method."""

_FORMATS = {PACKED: PACKED, PLAIN: PLAIN, "naive-quantized": PLAIN}
_BITS = {GPTQ: (2, 3, 4, 8), GPTQ_V2: (2, 3, 4, 8), AWQ: (4,)}


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the codes of a matrix are stored, and which of its weights share a scale."""

    source: str
    """PACKED, PLAIN, GPTQ, GPTQ_V2 or AWQ."""
    bits: int | None
    """Bits of a code; None if they differ between matrices and follow from their shapes."""
    strategy: str
    """TENSOR, CHANNEL or GROUP: one scale for the matrix, for each row, or for each group of columns in a row."""
    group_size: int | None = None
    """Columns of a group; None for other strategies, or if g_idx gives the groups of each matrix."""
    symmetric: bool = False
    """Whether every zero point is 0; for compressed-tensors only."""
    in_order: bool = True
    """Whether the groups are runs of columns if no g_idx is stored; for GPTQ only."""


@dataclass(frozen=True, slots=True)
class Schemes:
    """The schemes of a folder, each with the modules that it is for."""

    groups: tuple[tuple[tuple[str, ...], Scheme], ...]

    def of(self, module: str) -> list[Scheme]:
        """Return the schemes that may apply to a module: those whose targets name it, or else all; each once.

        Targets such as Linear or re:.*proj are not followed, because this package knows no classes of modules, and runs
        no regular expression from a file. The caller chooses by the shapes of the matrix.
        """
        named = [scheme for targets, scheme in self.groups if module in targets]
        return list(dict.fromkeys(named or [scheme for _, scheme in self.groups]))

    @property
    def sources(self) -> list[str]:
        """The sources of all schemes, sorted, each once."""
        return sorted({scheme.source for _, scheme in self.groups})


def read_schemes(files: Mapping[str, bytes]) -> tuple[Schemes, dict[str, bytes | None]]:
    """Return the schemes of a folder, and the companions that change once its matrices are expanded.

    Args:
        files: the companions, name -> bytes; config.json, or one of OWN_CONFIGS.

    Returns:
        The schemes; name -> new bytes, None for a file that describes nothing but the quantisation (FMT-175).

    Raises:
        FormatError: FMT-172 for a quantisation that is not read, FMT-175 if there is none or several differ.
    """
    descriptions: list[Json] = []
    changed: dict[str, bytes | None] = {}
    if CONFIG in files:
        config = without_descriptions(_parsed(files[CONFIG], CONFIG), descriptions)
        changed[CONFIG] = (json.dumps(config, indent=2) + "\n").encode()
    for file, method in OWN_CONFIGS.items():
        if file not in files:
            continue
        changed[file] = None
        own = _parsed(files[file], file)
        if not descriptions and isinstance(own, dict):
            descriptions.append({"quant_method": method, **own})
    if not descriptions or any(other != descriptions[0] for other in descriptions):
        raise FormatError(
            "FMT-175",
            f"{CONFIG} describes {'several quantisations that differ' if descriptions else 'no quantisation'}, "
            "so that nothing tells what codes mean; leave the option to expand out, or give the folder the "
            f"{CONFIG} that was written with it",
        )
    return _schemes(descriptions[0]), changed


def without_descriptions(value: Any, descriptions: list[Json]) -> Any:
    """Return JSON without its descriptions of a quantisation, at any depth; add them to `descriptions`."""
    if isinstance(value, list):
        return [without_descriptions(inner, descriptions) for inner in value]
    if not isinstance(value, dict):
        return value
    cleaned: Json = {}
    for key, inner in value.items():
        if key in DESCRIPTIONS and isinstance(inner, dict) and quantises(inner):
            descriptions.append(inner)
        else:
            cleaned[key] = without_descriptions(inner, descriptions)
    return cleaned


def _parsed(data: bytes, file: str) -> Any:
    try:
        # decoded here, because json.loads accepts bytes of UTF-16, with surrogates or a byte order mark, too
        value = json.loads(data.decode(), object_pairs_hook=unique_keys)
        check_foreign_depth(value, file)
        return value
    except (ValueError, RecursionError, FormatError) as error:
        raise FormatError("FMT-175", f"{file} is not JSON that can be read: {error}") from error


def _schemes(description: Json) -> Schemes:
    method = description.get("quant_method")
    if method in (GPTQ, AWQ):
        return Schemes((((), _gptq(description) if method == GPTQ else _awq(description)),))
    if method not in LIBRARY:
        _refuse(f"it has the method {method!r:.80}, expected gptq, awq or compressed-tensors")
    for part in ("transform_config", "kv_cache_scheme"):
        if description.get(part):
            _refuse(f"it has a {part}, without which the expanded weights would be another model")
    schemes = tuple(_groups(description))
    if not schemes:
        _refuse("none of its config_groups quantises weights")
    return Schemes(schemes)


def _gptq(description: Json) -> Scheme:
    layout = description.get("checkpoint_format") or description.get("format") or GPTQ
    if layout not in (GPTQ, GPTQ_V2) or description.get("is_marlin_format"):
        _refuse(f"it has the layout {layout!r:.80}, expected gptq or gptq_v2 and not that of a kernel")
    if description.get("dynamic"):
        return Scheme(layout, None, GROUP)
    bits = _whole(description, "bits", _BITS[layout])
    size = _group_size(description, "group_size")
    ordered = description.get("desc_act") in (None, False)
    return Scheme(layout, bits, GROUP if size else CHANNEL, size, in_order=ordered)


def _awq(description: Json) -> Scheme:
    layout = str(description.get("version") or description.get("checkpoint_format") or "gemm").lower()
    if layout != "gemm":
        _refuse(f"it has the layout {layout!r:.80}, expected gemm")
    old = "w_bit" in description
    bits = _whole(description, "w_bit" if old else "bits", _BITS[AWQ])
    size = _group_size(description, "q_group_size" if old else "group_size")
    return Scheme(AWQ, bits, GROUP if size else CHANNEL, size)


def _groups(description: Json) -> Iterator[tuple[tuple[str, ...], Scheme]]:
    """Yield targets and scheme of each group of compressed-tensors that quantises weights."""
    groups = description.get("config_groups")
    for key, group in groups.items() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if weights is None:
            continue
        targets = group.get("targets")
        if not isinstance(weights, dict) or not isinstance(targets, list):
            _refuse(f"{key!r:.80} of its config_groups has no weights and targets that can be read")
        stated = group.get("format") or description.get("format")
        if not isinstance(stated, str) or stated not in _FORMATS or weights.get("type", "int") != "int":
            _refuse(
                f"{key!r:.80} of its config_groups has the format {stated!r:.80} of type "
                f"{weights.get('type', 'int')!r:.80}, expected one of {', '.join(_FORMATS)} of type 'int'"
            )
        yield tuple(str(target) for target in targets), _of_weights(weights, _FORMATS[stated])


def _of_weights(weights: Json, source: str) -> Scheme:
    bits = _whole({"num_bits": 8, **weights}, "num_bits", range(1, 9))
    size = None if weights.get("group_size") is None else _group_size(weights, "group_size")
    # FMT-172: the strategy that the library assumes if none is stated
    implied = TENSOR if weights.get("group_size") is None else GROUP if size else CHANNEL
    strategy = weights.get("strategy") or implied
    if strategy not in (TENSOR, CHANNEL, GROUP) or (strategy == GROUP and not size):
        _refuse(f"it has the strategy {strategy!r:.80} with groups of {size}, expected tensor, channel or group")
    symmetric = weights.get("symmetric", True)
    if not isinstance(symmetric, bool):
        _refuse(f"it has symmetric = {symmetric!r:.80}, expected true or false")
    return Scheme(source, bits, strategy, size if strategy == GROUP else None, symmetric)


def _group_size(entries: Json, key: str) -> int | None:
    """Return the columns of a group, None for −1, which is a whole row."""
    size = entries.get(key)
    if type(size) is not int or not (size == -1 or 1 <= size < 1 << 31):
        _refuse(f"it has {key} = {size!r:.80}, expected the columns of a group, or -1 for all of a row")
    return None if size == -1 else size


def _whole(entries: Json, key: str, allowed: range | tuple[int, ...]) -> int:
    value = entries.get(key)
    if type(value) is not int or value not in allowed:
        _refuse(f"it has {key} = {value!r:.80}, expected one of {', '.join(map(str, allowed))}")
    return value


def _refuse(what: str) -> NoReturn:
    raise FormatError(
        "FMT-172",
        f"the quantisation that {CONFIG} describes cannot be expanded: {what}; expand the model with the library that "
        "made it, and convert the result",
    )
