"""Folders of chapter 12, read and written (12.9)."""

from typing import Any

from conformance.answers.answer import Inputs, answers, refuse
from conformance.answers.files import checkpoint_of, chosen
from conformance.answers.files_content import raw_array, tree_of
from conformance.answers.files_reading import read_folder, wire
from conformance.oracle import files_folders, second_reader
from conformance.oracle.files import text

__all__: list[str] = []


@answers("folder.read")
def _read(a: Inputs) -> dict[str, Any]:
    content = read_folder(tree_of(a["files"]))
    return wire(content) | {"files": {name: a["files"][name] for name in content.files}}


@answers("folder.write")
def _write(a: Inputs) -> dict[str, Any]:
    refuse(FMT_084=a["part_bytes"] < 1)
    tensors, more = checkpoint_of(a)
    tensors, encodings = chosen(tensors, a["encoding"])
    made = files_folders.folder(tensors, encodings, part_bytes=a["part_bytes"], companions=tree_of(a["files"]), **more)
    for part in made.parts:
        second_reader.read_manifest(text(part.manifest).encode(), whole=False)
    tree = made.pack()
    read_folder(tree)
    return {"files": {name: raw_array(raw) for name, raw in tree.items()}}
