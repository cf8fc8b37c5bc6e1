"""Mutants of the reader of files of torch.save (FMT-153, FMT-159)."""

from conformance.engine.extras import torch_file, torch_tensors
from conformance.wrong.mutants.base import Mutant, Rows, Values, edited, mutant, mutants, right

OP = "convert.torch"
_ENTRY, _VIEW, _MASKS = torch_file._check_entry, torch_file._view, torch_file._with_masks
_DICT = torch_file._state_dict
_CSR, _COO = torch_tensors._from_csr, torch_tensors._from_coo


def _untied(a: Values) -> Values:
    """Give every tied name a tensor of its own."""
    out = right(OP)(a)
    return {"tensors": out["tensors"] | {name: out["tensors"][own] for name, own in out["tied"].items()}, "tied": {}}


_ROWS: Rows = tuple(
    (OP, "FMT-153", function, old, new, flaw)
    for function, old, new, flaw in (
        (_DICT, "_check_storage(storage, sizes, path.name)", "pass", "a storage larger than its member"),
        (_DICT, "if others:", "if False:", "entries beside a state dict that are left out"),
        (_DICT, "isinstance(state, dict) and isinstance(", "False and isinstance(", "a state dict not taken out"),
        (_ENTRY, "validate.check_name(name)", "pass", "a name that no checkpoint may have"),
        (_ENTRY, "part.numel() * part.element_size() > nbytes", "False", "a few bytes shown as many elements"),
        (_VIEW, "p.data_ptr(), ", "", "tensors of one shape tied"),
        (_CSR, "validate.check_row_ptr(row_ptr, len(values), name)", "pass", "row pointers not looked at"),
        (_CSR, "validate.check_columns(indptr, columns, shape[1], name)", "pass", "columns not looked at"),
        (_CSR, "validate.check_columns(indptr, columns, shape[1], name)",
         "validate.check_columns(indptr, columns.astype(np.int32), shape[1], name)", "columns cast first"),
        (_COO, "(positions[1:] <= positions[:-1]).any()", "(positions[1:] < positions[:-1]).any()",
         "positions that come twice"),
        (_COO, "(positions[1:] <= positions[:-1]).any()", "False", "positions that do not rise"),
        (_COO, "if axis.size and not 0 <= int(axis.min()) <= int(axis.max()) < size:", "if False:",
         "indices outside their dimension"),
        (torch_file.check_values, "validate.check_bool(tensor.values, name)", "pass", "booleans of other values"),
    )
) + tuple(
    (OP, "FMT-159", _MASKS, old, new, flaw)
    for old, new, flaw in (
        ("if not bool((mask.values[support] == 1).all()):", "if False:", "masks of any values"),
        ("(mask.values[support] == 1)", "(mask.values[support] > 0)", "masks of values above 0"),
        ("stem in tensors or ", "", "a tensor that is overwritten"),
        ("{stem, name, f\"{stem}_mask\"} & {*tied, *tied.values()}", "False", "ties to a pair"),
        ("{*tied, *tied.values()}", "{*tied}", "names that are tied to one of a pair"),
        ("if values.shape != mask.shape:", "if values.values.size != mask.values.size:", "two shapes for a pair"),
        ("support = mask.values != 0", "support = values.values != 0", "the support of the values"),
    )
)  # fmt: skip

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _ROWS),
    mutant("FMT-153", OP, _untied, "tied names with tensors of their own"),
    *mutants(OP, unchecked="FMT-153 FMT-159"),
]
