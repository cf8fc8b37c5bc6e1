"""Models in files: the tensors that a config asks for (chapter 13: CKP-002, CKP-003)."""

import math
from typing import Any

from conformance.answers.answer import Inputs, answers, ids, refuse
from conformance.answers.files_content import tensors_of
from conformance.answers.model import legal
from conformance.oracle import model
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import expanded
from conformance.oracle.files_deltas import number

__all__: list[str] = []

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _is_finite(t: Tensor) -> bool:
    size = BITS[t.dtype] // 8
    return all(math.isfinite(number(t.dtype, t.bits[i : i + size])) for i in range(0, len(t.bits), size))


@answers("checkpoint.open")
def _open(a: Inputs) -> dict[str, Any]:
    config, tensors = legal(a["config"]), tensors_of(a["tensors"])
    shapes = model.shapes(config)
    others = {name for name in tensors if name not in shapes and not name.endswith("rotary_emb.inv_freq")}
    if HEAD in others and EMBEDDING in tensors and config.get("tie_word_embeddings"):
        head, embedding = (expanded(tensors[name], None) for name in (HEAD, EMBEDDING))
        others -= {HEAD} if head == embedding else set()
    fits = {*shapes} <= {*tensors} and all(tensors[name].shape == shape for name, shape in shapes.items())
    finite = all(_is_finite(t) for name, t in tensors.items() if name in shapes)
    refuse(CKP_002=bool(others) or not fits, CKP_003=not finite)
    stored = [tensors[name].nnz for name in model.targets(config)]
    return {"targets": model.targets(config), "stored": ids(stored)}
