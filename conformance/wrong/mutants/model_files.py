"""Mutants of models in files: tensors that are not compared with the config, weights that are not finite."""

from conformance.engine.parts import file_dtypes, model_files
from conformance.wrong.mutants.base import Mutant, Rows, Values, edited, mutant, mutants, right

OP = "checkpoint.open"
_NAMES, _SHAPE, _FINITE = model_files.check_names, model_files.check_shape, file_dtypes.computable


def _of_values(a: Values) -> Values:
    """Count the values of each target that are not 0."""
    out = right(OP)(a)
    for i, name in enumerate(out["targets"]):
        t = a["tensors"][name]
        size = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}[t["dtype"]]
        out["stored"][i] = t["bits"].reshape(-1, size).any(axis=1).sum()
    return out


def _sorted(a: Values) -> Values:
    """Return the targets in the order of their names."""
    out = right(OP)(a)
    pairs = sorted(zip(out["targets"], out["stored"].tolist(), strict=True))
    out["stored"][:] = [n for _, n in pairs]
    return out | {"targets": [name for name, _ in pairs]}


_ROWS: Rows = (
    (OP, "CKP-002", _NAMES, "if unknown:", "if False:", "unknown tensors"),
    (OP, "CKP-002", _NAMES, 'not name.endswith("rotary_emb.inv_freq")', '"rotary_emb.inv_freq" not in name',
     "frequencies known by a part of their name"),
    (OP, "CKP-002", _NAMES, 'not name.endswith("rotary_emb.inv_freq")', "True", "frequencies refused"),
    (OP, "CKP-002", _NAMES, 'if config.tie_word_embeddings and "lm_head.weight" in unknown:', "if False:",
     "a tied head refused"),
    (OP, "CKP-002", _NAMES, "if table.tobytes() != head.tobytes():", "if False:", "a tied head that is another"),
    (OP, "CKP-002", _NAMES, "if table.tobytes() != head.tobytes():", "if (table != head).any():",
     "a tied head with other zeros"),
    (OP, "CKP-002", _NAMES, "(formats.to_dense(source[n])", "(source[n].values",
     "a tied head stored in another way"),
    (OP, "CKP-002", _SHAPE, "tuple(actual) != expected", "sorted(actual) != sorted(expected)", "a matrix turned"),
    (OP, "CKP-002", _SHAPE, "tuple(actual) != expected", "tuple(actual)[1:] != expected[1:]", "rows not counted"),
    (OP, "CKP-003", _FINITE, "not np.isfinite(values).all()", "np.isnan(values).any()", "infinite weights"),
    (OP, "CKP-003", _FINITE, "not np.isfinite(values).all()", "np.isinf(values).any()", "weights that are NaN"),
    (OP, "CKP-003", _FINITE, "not np.isfinite(values).all()", "(values == np.inf).any() or np.isnan(values).any()",
     "weights of −∞"),
    (OP, "CKP-003", _FINITE, "not np.isfinite(values).all()", "values.ndim > 1 and not np.isfinite(values).all()",
     "norms and sparse weights not looked at"),
)  # fmt: skip

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _ROWS),
    mutant("CKP-002", OP, _of_values, "zeros that are not stored"),
    mutant("CKP-002", OP, _sorted, "targets in the order of names"),
    *mutants(OP, unchecked="CKP-002 CKP-003"),
]
