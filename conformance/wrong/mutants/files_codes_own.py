"""Mutants of quantised models that a port reads from its own files (QNT-009, FMT-178, FMT-180)."""

from conformance.engine.parts import coded, coded_folder
from conformance.wrong.mutants.base import Mutant, edited, edits, mutants

EXPAND, PACK, GPTQ = "convert.expand_codes", "convert.pack_codes", "convert.gptq_codes"

"""Operation, clauses, function, text of its source, replacement, and flaw."""

MUTANTS: list[Mutant] = [
    *mutants(EXPAND,
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
    edited("FMT-178", PACK, coded_folder.write_coded, "if beside:", "if False:", "weights beside codes left out"),
    edited("FMT-180", GPTQ, coded_folder.write_coded, "if beside:", "if False:", "weights beside codes left out"),
]  # fmt: skip
