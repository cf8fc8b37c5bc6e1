"""Mutants of codes that are kept, expanded, pruned or written for others (QNT-009, QNT-010, FMT-178, FMT-180)."""

import json

from conformance.engine.parts import (
    coded,
    coded_folder,
    gguf_codes,
    gptq_folder,
    int_folder,
    int_words,
    pack_quantized,
    quantise_files,
)
from conformance.wrong.mutants.base import Mutant, Values, edits, mutants

KEEP, EXPAND, PACK = "convert.keep_codes", "convert.expand_codes", "convert.pack_codes"
GPTQ, GGUF = "convert.gptq_codes", "convert.gguf_blocks"


def rounding_to_nearest(out: Values, a: Values) -> Values:
    described = json.loads(out["attributes"])
    described["quantised"]["rounding"] = "nearest"
    return {"attributes": json.dumps(described, sort_keys=True, separators=(",", ":"))}


"""Operation, clauses, function, text of its source, replacement, and flaw."""

EXPAND, PACK, GPTQ = "convert.expand_codes", "convert.pack_codes", "convert.gptq_codes"

"""Operation, clauses, function, text of its source, replacement, and flaw."""

MODEL = "quantise.model"
_WRITE = quantise_files.StoredModel.write

"""Operation, clauses, function, text of its source, replacement, and flaw."""


MUTANTS: list[Mutant] = [
    *mutants(KEEP,
        ("QNT-009", int_folder.part_of, "return Dense(matrix.zeros)", "return Dense(-matrix.zeros)",
         "zero points of the other sign"),
        ("QNT-009", int_folder.grid_of_matrix, "if groups > 1 or whole else", "if True else",
         "the size of the only group of a row named"),
        ("QNT-010", int_folder.QuantisedFolder.codes, "return replace(matrix, zeros=None)", "return matrix",
         "zero points of 0 kept"),
        ("QNT-010", int_folder.refuse_taken, "sorted(set(names) & set(owner))", "[]", "a name that is taken"),
        ("QNT-009", rounding_to_nearest, "a rounding that nobody knows"),
        unchecked="QNT-010"),
    *edits(KEEP, "QNT-010", int_folder.part_of,
        (".astype(np.float32)", ".astype(np.float16).astype(np.float32)", "scales in 16 bits"),
        ("np.where(largest > 0, largest, np.float32(1))", "np.float32(1)", "1 for every scale of 0"),
        ("np.where(largest > 0, largest, np.float32(1))", "largest", "a row whose scales are all 0 keeps them")),
    *edits(KEEP, "QNT-010", int_folder.grid_of_matrix,
        ("if matrix.bits not in (4, 8):", "if False:", "any number of bits"),
        ("if size * groups != columns or", "if False and", "groups that are no runs of columns"),
        ("if (matrix.scales < 0).any():", "if False:", "a scale below 0")),
    *mutants(EXPAND,
        ("QNT-009 QNT-002", coded.weights_of, " - matrix.zeros.reshape(-1)[group]", "", "no zero points"),
        ("QNT-009 QNT-002", coded.groups_of, "// max(columns, 1) * groups", "// max(columns, 1)",
         "the groups of another row"),
        ("QNT-009", coded.expanded, "without_grid(checkpoint.attributes)", "checkpoint.attributes",
         "the attribute of the grid stays"),
        ("QNT-009", coded._part, ' or dtype_name(tensor.dtype) != dtype', "", "scales of any dtype"),
        ("QNT-009", coded._part, " or tensor.shape != shape", "", "groups of any size"),
        ("QNT-009", coded._update, ' or dtype_name(tensor.dtype) not in ("F32", "F64")', "",
         "weights beside codes in 16 bits"),
        ("QNT-009", coded._update, " or tensor.shape != shape", "", "weights beside codes in another shape"),
        ("QNT-006 QNT-009", coded.weights_of, "if matrix.update is None:", "if True:",
         "weights beside codes that are ignored"),
        ("QNT-006 QNT-009", coded.weights_of, "= matrix.update.values", "+= matrix.update.values",
         "weights beside codes added to those of the codes"),
        ("QNT-008", coded.compute_dtype, 'np.float64 if "F64" in dtypes else np.float32', "np.float32",
         "weights of F64 cast to F32"),
        unchecked="QNT-009"),
    *edits(EXPAND, "QNT-009", coded.read_coded,
        ("if set(roles) - {UPDATE} != expected:", "if not set(roles) >= expected:",
         "zero points of a grid that has none"),
        ("least <= lowest <= highest <= most", "True", "codes beyond the bits of the grid"),
        ("in (codes.values, zeros):", "in (codes.values,):", "zero points beyond the bits of the grid"),
        ('refuse_large_scales("QNT-009", name, scales, bits, zero_points=zero_points)', "pass",
         "scales whose weights are infinite"),
        ("(scales > 0).all()", "(scales >= 0).all()", "a scale of 0"),
        ("(scales > 0).all()", "scales.all()", "a scale below 0")),
    *mutants(PACK,
        ("FMT-178", int_words.codes_everywhere, "np.repeat(matrix.zeros,", "np.repeat(0 * matrix.zeros,",
         "0 as the code of a pruned position"),
        ("FMT-178 FMT-173", int_words.packed, "np.arange(0, 32, bits,", "np.arange(32 - bits, -1, -bits,",
         "the highest bits first"),
        ("FMT-178", pack_quantized._part, "packed(matrix.zeros.T, grid.bits).T.copy()",
         "packed(matrix.zeros, grid.bits)", "zero points packed along the columns"),
        ("FMT-178", pack_quantized._described, '"group" if grid.size else "channel"', '"channel"',
         "always a row a group"),
        ("FMT-178", pack_quantized._described, "not grid.asymmetric", "True", "zero points that are not described"),
        ("FMT-178", coded_folder._zeros, "==", "!=", "the number of weights that are not 0"),
        ("FMT-178", coded_folder.write_coded, "if beside:", "if False:", "weights beside codes left out")),
    *mutants(GPTQ,
        ("FMT-180 FMT-173", gptq_folder._part, "packed(codes_everywhere(matrix), grid.bits).T.copy()",
         "packed(codes_everywhere(matrix).T, grid.bits)", "codes packed along the rows, as AWQ does"),
        ("FMT-180", int_words.refuse_parts_of_words, "in shape)", "in shape[1:])", "rows of part of a word"),
        ("FMT-180", int_words.refuse_parts_of_words, "in shape)", "in shape[:1])", "columns of part of a word"),
        ("FMT-180", coded_folder._rounded, "!= matrix.scales", "== matrix.scales", "the scales that F16 holds"),
        ("FMT-180", coded_folder.write_coded, "if beside:", "if False:", "weights beside codes left out")),
    *edits(GPTQ, "FMT-180", gptq_folder._part,
        (" - np.int8(not grid.asymmetric)", "", "zero points of gptq as of gptq_v2"),
        ("- np.int8(not grid.asymmetric)", "- np.int8(1)", "1 less in gptq_v2 too"),
        ("matrix.scales.T.copy()", "matrix.scales", "scales that are not turned"),
        ("np.arange(columns) //", "0 * np.arange(columns) //", "one group a row")),
    *edits(GPTQ, "FMT-180", gptq_folder._described,
        ('"gptq_v2" if grid.asymmetric else "gptq"', '"gptq"', "the layout of zero points not named"),
        ("grid.size or -1", "grid.size or 128", "a usual group for a whole row"),
        ('"lm_head.weight" in matrices', "False", "a head of codes not named")),
    *mutants(GGUF,
        ("QNT-010", gguf_codes._on_grid, " & (scales != 0)[:, group]", "", "weights under a scale of 0 stored"),
        ("QNT-010", gguf_codes._q8_0, ".view(np.int8)", ".view(np.uint8).astype(np.int16)", "codes without a sign")),
    *edits(GGUF, "QNT-010", gguf_codes._q4_0,
        ("[halves & 15, halves >> 4]", "[halves >> 4, halves & 15]", "high halves first"),
        ("np.concatenate([halves & 15, halves >> 4], axis=2)",
         "np.stack([halves & 15, halves >> 4], axis=3).reshape(rows, groups, 32)",
         "halves of a byte as neighbours"),
        ("scales < 0", "np.signbit(scales)", "a scale of −0.0 taken for one below 0"),
        ("-codes - 1", "-codes", "codes turned without a zero point of −1"),
        ("np.where(negative, -1, 0)", "np.where(negative, 0, 0)", "zero points of 0")),
    *mutants(MODEL, unchecked="QNT-009"),
    *edits(MODEL, "QNT-009", _WRITE,
        ("(SCALE,) if grid.symmetric else (SCALE, ZERO)", "(SCALE,)", "zero points left out"),
        ("{**source.attributes, ATTRIBUTE:", "{ATTRIBUTE:", "attributes of the model lost"),
        ('"rounding": rounding', '"rounding": "unknown"', "a rounding that nobody knows"),
        ('"grid": str(grid)', '"grid": str(grid).partition(":")[0]', "a grid without its groups"),
        ("for part in parts} for name in matrices", "for part in parts} for name in ()",
         "scales that no role names")),
]  # fmt: skip
