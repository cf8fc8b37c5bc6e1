"""Mutants of the reader of SEFT adapters (FMT-171)."""

from conformance.engine.parts import change, changes, seft_adapter
from conformance.wrong.mutants.base import Mutant, Rows, edited, mutants

OP = "convert.seft_adapter"
_READ, _SECTIONS, _STORED = seft_adapter.read_seft, seft_adapter._check_sections, seft_adapter._check_stored

_ROWS: Rows = tuple(
    (OP, "FMT-171", function, old, new, flaw)
    for function, old, new, flaw in (
        (_READ, "adapter.array(modules[name], VALUES)[permutation]", "adapter.array(modules[name], VALUES)",
         "amounts not sorted with their positions"),
        (_READ, "check_options(adapter.config, KNOWN, \"FMT-171\")", "pass", "options that may change values"),
        (_READ, "if len(tensor.shape) != 2:", "if False:", "bases that are no matrices"),
        (_READ, "if isinstance(tensor, Sparse) and not np.isin(pruned, flat(tensor)).all():", "if False:",
         "pruned positions that are not stored"),
        (_READ, "old[np.isin(at, pruned)] = 0", "pass", "the old value at a position that grew again"),
        (_READ, "if isinstance(tensor, Dense):\n", "if False:\n", "pruned weights of a dense base that stay"),
        (_READ, "zeros = np.setdiff1d(pruned, at, assume_unique=True)", "zeros = np.empty(0, np.int64)",
         "pruned weights of a dense base left out"),
        (_READ, "return from_flat(tensor.shape, np.setdiff1d(pruned, flat(amounts), assume_unique=True))",
         "return from_flat(tensor.shape, pruned)", "positions removed that grew again"),
        (_READ, "if not prunes:", "if False:", "new values where nothing is pruned"),
        (_READ, "sparse = [name for name in modules if isinstance(base[name], Sparse)]", "sparse = []",
         "pruned positions that stay"),
        (_READ, "if dtype_name(tensor.dtype) not in change.SUMMED:", "if False:", "sums in 8 bits"),
        (_READ, "_check_stored(adapter.config.get(\"stored_sha256\"), [base[name] for name in sorted(modules)])",
         "pass", "a base that stores other positions"),
        (_READ, "for name in sorted(modules)])", "for name in modules])", "masks in the order of the file"),
        (_READ, "for name in sorted(modules)])", "for name in sorted(base)])", "masks of all tensors of the base"),
        (_SECTIONS, 'frozenset({"F32", "F64"})', 'frozenset({"F16", "F32", "F64"})', "amounts in 16 bits"),
        (_SECTIONS, "check_vector(section, _INTEGERS,", "check_vector(section, _INTEGERS | {\"U8\"},",
         "positions in another dtype"),
        (_SECTIONS, "if indices.shape != values.shape:", "if indices.shape[0] > values.shape[0]:",
         "amounts without an index"),
        (_STORED, "digest is None or len(matrices) < len(tensors)", "digest is None", "dense bases compared too"),
        (change.sums_of, "sums = sums.astype(np.float32)", "pass", "sums rounded once"),
        (change.sums_of, "amounts.astype(np.float64)", "amounts.astype(np.float32)", "amounts in 32 bits"),
        (change.sums_of, "if not np.isfinite(sums).all():", "if False:", "sums that are not finite"),
        (changes.sorted_support, "if twice.size:", "if False:", "positions that come twice"),
    )
)  # fmt: skip

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _ROWS),
    *mutants(OP, unchecked="FMT-171"),
]
