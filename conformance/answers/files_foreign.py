"""Files of other programs: GGUF (FMT-155), torch.save (FMT-153, FMT-159), and SEFT adapters of PEFT (FMT-171)."""

import re
from typing import Any

from conformance.answers.answer import Inputs, answers
from conformance.answers.files_content import content, tensors_of, tree_of
from conformance.oracle import files_gguf, files_seft_adapter, files_torch
from conformance.oracle.files import text
from conformance.oracle.foreign import by, need
from conformance.oracle.second_reader import NAME

__all__: list[str] = []


@answers("convert.gguf")
def _gguf(a: Inputs) -> dict[str, Any]:
    with by("FMT-155"):
        tensors, expanded = files_gguf.read(a["raw"].tobytes(), expand=bool(a["expand_quantised"]))
        need(all(re.fullmatch(NAME[1], name) for name in tensors), "names that a checkpoint may have")
    attributes = {"source": "gguf", "expanded": expanded} if expanded else {}
    return {"tensors": content(tensors), "attributes": text(attributes)}


@answers("convert.torch")
def _torch(a: Inputs) -> dict[str, Any]:
    with by("FMT-153"):
        tensors, tied = files_torch.read(a["raw"].tobytes())
        need(all(re.fullmatch(NAME[1], name) for name in (*tensors, *tied)), "names that a checkpoint may have")
    with by("FMT-159"):
        tensors = files_torch.masked(tensors, tied)
    return {"tensors": content(tensors), "tied": tied}


@answers("convert.seft_adapter")
def _seft_adapter(a: Inputs) -> dict[str, Any]:
    changes = files_seft_adapter.read(tree_of(a["files"]), tensors_of(a["tensors"]))
    return {"how": changes.how, "tensors": content(changes.tensors), "removed": content(changes.removed)}
