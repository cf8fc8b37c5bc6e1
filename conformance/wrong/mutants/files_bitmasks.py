"""Mutants of folders of compressed-tensors: misread bitmasks and names, descriptions that stay, wrong groups."""

from conformance.engine.parts import bitmasks, compressed_tensors
from conformance.wrong.mutants.base import Mutant, Rows, Values, edited, ids, mutant, mutants, right

OP, PACK = "convert.bitmasks", "convert.pack_bitmasks"
_unpack, _groups, _shape = compressed_tensors._unpack, compressed_tensors._groups, compressed_tensors._shape
_cleaned, _config = compressed_tensors._without_sparsity, compressed_tensors._read_config


def _without_zeros(a: Values) -> Values:
    """Read a folder, and drop every value whose bits are all 0 from its sparse tensors of 16 bits."""
    out = right(OP)(a)
    tensors = dict(out["tensors"])
    for name, t in tensors.items():
        if t["row_pointers"] is not None and t["dtype"] in ("F16", "BF16"):
            kept = t["bits"].view("<u2") != 0
            before = [int(kept[:end].sum()) for end in t["row_pointers"]]
            bits = t["bits"].reshape(-1, 2)[kept].reshape(-1)
            tensors[name] = t | {"row_pointers": ids(before), "columns": t["columns"][kept], "bits": bits}
    return out | {"tensors": tensors}


_READ: Rows = tuple(
    (OP, "FMT-150", function, old, new, flaw)
    for function, old, new, flaw in (
        (_unpack, 'bitorder="little"', 'bitorder="big"', "bits of a byte from the highest"),
        (_unpack, "packed.kind == TWO_OF_FOUR and (present", "False and (present", "groups of four not looked at"),
        (_groups, "own_names = any(", "own_names = all(", "own names only if all prefixes are such"),
        (_groups, "prefix if own_names else", "prefix if False else", "a second .weight behind own names"),
        (_groups, "if parts != PARTS[kind]:", 'if not parts | {"row_offsets"} >= PARTS[kind]:', "offsets not missed"),
        (_groups, "if parts != PARTS[kind]:", "if not parts >= PARTS[kind]:", "a part that the format does not have"),
        (_groups, "if name in source:", "if False:", "a tensor that is dense and packed"),
        (_shape, " or mask.shape != packed", "", "a bitmask of another shape"),
        (_shape, "kind == BITMASK and len(values.shape) != 1", "False", "values in two dimensions"),
        (_shape, " or values.shape != (rows, columns // 2)", "", "values of two of four in one dimension"),
        (_shape, 'stated.dtype != "I64" or ', "", "a shape of another dtype"),
        (_shape, "stated.shape[1:] != one_each or ", "", "a shape of two of four in one dimension"),
        (_shape, "not columns or ", "", "rows without columns"),
        (_config, "if len(stated) != 1:", "if not stated or not (stated := {max(stated)}):",
         "the last of two formats"),
        (_config, "for description in quantisations if kind in PARTS else ():", "for description in ():",
         "words of codes beside packed tensors"),
        (compressed_tensors._check_quantisation, "for group in inner if",
         "for group in () if", "words of codes in a group"),
    )
) + tuple(
    (OP, "FMT-158", function, old, new, flaw)
    for function, old, new, flaw in (
        (_cleaned, "if quantises(rest):", "if True:", "a description that holds nothing stays"),
        (_cleaned, "if quantises(rest):", "if False:", "a description that holds a quantisation goes"),
        (_cleaned, "rest.pop(SPARSITY, None)", "pass", "an empty description of sparsity stays"),
        (_cleaned, "cleaned[key] = _without_sparsity(value, stated, quantisations)",
         "cleaned[key] = value", "descriptions at the outer level only"),
        (_cleaned, 'value.get("quant_method") not in LIBRARY', "False", "a description of another program goes"),
    )
)  # fmt: skip

_WRITTEN: Rows = tuple(
    (PACK, "FMT-179", function, old, new, flaw)
    for function, old, new, flaw in (
        (bitmasks._beyond, "tensor.shape[1] % 4", "False", "groups over the end of a row"),
        (bitmasks._beyond, "np.max(counts) <= 2", "np.max(counts) < 2", "two of four only where a group has one"),
        (bitmasks.write_bitmasks, "if all(n is not None for n in counted)", "if counted[0] is not None",
         "two of four if the first tensor fits"),
        (bitmasks.write_bitmasks, "if padded else []", "if False else []", "zeros that are not counted"),
        (bitmasks._filled, 'np.argsort(~stored.reshape(-1, 4), axis=1, kind="stable")[:, :2]',
         '(3 - np.argsort(~stored.reshape(-1, 4)[:, ::-1], axis=1, kind="stable"))[:, :2]', "the last free places"),
        (bitmasks._part, 'bitorder="little"', 'bitorder="big"', "bits of a byte from the highest"),
        (bitmasks._config_of, "if not sparse:", "if False:", "a model that packs nothing"),
        (bitmasks._config_of, "not name.endswith(WEIGHT) or ", "", "a tensor that is no weight"),
        (bitmasks._config_of, " or name.endswith(WEIGHT * 2)", "", "a name with two endings"),
        (bitmasks._config_of, "for kind in PARTS for", "for kind in [TWO_OF_FOUR] for", "a tensor named row_offsets"),
        (bitmasks._config_of, "if described:", "if False:", "a config.json that describes a quantisation"),
        (bitmasks._config_of, "quantisations(checkpoint.files[CONFIG])", "()", "a quantisation deep in config.json"),
        (bitmasks._config_of, "sorted(sparsity_formats(config))", "()", "another sparsity format beside ours"),
    )
)  # fmt: skip

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _READ),
    mutant("FMT-150", OP, _without_zeros, "stored zeros that leave the support"),
    *mutants(OP, unchecked="FMT-150"),
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _WRITTEN),
    *mutants(PACK, unchecked="FMT-179"),
]
