"""Hugging Face folders that become sparse checkpoints (12.11)."""

import re
from contextlib import suppress
from typing import Any

from conformance.answers.answer import Inputs, answers, refuse
from conformance.answers.files_content import content, tree_of
from conformance.oracle import files_convert, foreign
from conformance.oracle.files import digest, text
from conformance.oracle.second_reader import COMPANION, NAME
from conformance.oracle.train_around import FORMATS

__all__ = ["checked_companions"]


def checked_companions(sizes: dict[str, int], read: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of companions and of entries that are left out; refuse names that no companion may have."""
    companions, left_out = files_convert.sorted_out(sizes, read)
    odd = len({name.lower() for name in companions}) < len(companions)
    odd |= not all(re.fullmatch(COMPANION[1], name) for name in companions)
    refuse(FMT_013=odd, FMT_123=odd)
    return companions, left_out


@answers("convert.from_hf")
def _from_hf(a: Inputs) -> dict[str, Any]:
    tree, large = tree_of(a["files"]), a["large"] or {}
    odd, wrong = a["zeros"] not in ("any", "positive"), a["cast"] not in (None, *FORMATS)
    refuse(FMT_127=odd, FMT_126=wrong, FMT_084=odd or wrong)
    tensors, read = foreign.read_folder(tree)
    flags = any(t.dtype == "BOOL" and max(t.bits, default=0) > 1 for t in tensors.values())
    names = not all(re.fullmatch(NAME[1].encode(), name.encode()) for name in tensors)
    refuse(FMT_009=names, FMT_070=flags, FMT_121=names or flags)
    companions, left_out = checked_companions({name: len(raw) for name, raw in tree.items()} | large, read)
    made = files_convert.converted(tensors, a["encoding"], a["zeros"], a["cast"])
    odd = not all(files_convert.storable(t, a["encoding"]) for t in made.tensors.values())
    refuse(FMT_084=odd, FMT_051=odd)
    quantised = False
    with suppress(foreign.Refused, ValueError, RecursionError):
        quantised = any(foreign.described(foreign.parsed(tree.get("config.json"), constants=True)))
    return {
        "kind": "model",
        "tensors": content(made.tensors),
        "attributes": text(made.attributes),
        "tied": {},
        "scales": text({}),
        "companions": {name: digest(tree[name] if name in tree else bytes(large[name])) for name in companions},
        "left_out": left_out,
        "quantised": int(quantised),
    }
