"""Folders of steps, which a follower reads: inputs, mutations and a plain definition (FMT-176)."""

import re
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import ANY

from conformance.fuzz import chains, mutate
from conformance.fuzz.content import Disagreement
from conformance.fuzz.foreign import Case
from conformance.fuzz.foreign_files import Tree
from conformance.fuzz.judge import READER_FIXED
from conformance.fuzz.judge_folders import content_of
from conformance.fuzz.mutate import CANNOT
from conformance.fuzz.parts import CONTENT, NOTHING, SECTIONS, Parts
from conformance.fuzz.spoil import bytes_of
from conformance.oracle import files, files_deltas, second_folder, second_reader
from conformance.oracle.foreign import Refused, is_whole, need, parsed
from formats.errors import FormatError
from formats.steps import Follower

CURRENT, LOCK = "current.sparse", ".current.sparse.lock"
NAME = re.compile(r"([0-9]{6,18})\.(model|delta)")


@dataclass
class Draft:
    """The pieces of the files of a folder of steps, and of the file of a follower."""

    steps: dict[str, Parts]
    current: Parts | None
    of_tree: list[Any] = field(default_factory=list)
    """seeds of mutations of the files"""


class Steps:
    """The reader of folders of steps, as `foreign.Reader`."""

    def grow(self, chance: Random) -> Draft:
        """Return a valid folder of one to four versions, and perhaps a follower's file."""
        number, run = chance.choice((0, 0, 7, 999999, 1234567)), chance.choice(("run-7", "é"))
        model = chains.model_of(chance)
        links: dict[str, Any] = {"tied": {}, "scales": {}}
        steps = {f"{number:06d}.model": _parts(model, number, run, kind="model", **links)}
        currents = [None, steps[f"{number:06d}.model"]]
        for _ in range(chance.choice((0, 1, 2, 3))):
            stored, gone = chains.operations_of(chance, model)
            after = {n for n in (*model, *(key.partition(":")[2] for key in stored)) if n not in gone}
            new_links = chains.links_of(chance, sorted(after))
            model, described = files_deltas.step(model, stored, gone, before=links, **new_links)
            links = new_links
            stored = {key: t for key, t in stored.items() if key.partition(":")[2] in described["tensors"]}
            if described["base_sha256"] == described["target_sha256"]:
                break
            number += 1
            steps[f"{number:06d}.delta"] = _parts(stored, number, run, kind="delta", delta=described)
            whole = _parts(model, number, run, kind="model", **links)
            currents.append(whole)
            if chance.random() < 0.3:
                steps[f"{number:06d}.model"] = whole
        return Draft(steps, deepcopy(chance.choice(currents)))

    def case(self, chance: Random, draft: Draft, *, valid: bool) -> Case:
        """Return folder and file as a case, mutated unless `valid`."""
        for _ in range(0 if valid else chance.choice((1, 1, 1, 2, 3))):
            try:
                _spoil(chance, draft)
            except CANNOT:
                continue
        tree: Tree = {name: _packed(part) for name, part in draft.steps.items()}
        own: Tree = {} if draft.current is None else {CURRENT: _packed(draft.current)}
        for seed in draft.of_tree:
            _spoil_files(Random(seed), tree, own)  # noqa: S311 - not for secrets
        # sorted, so that a folder comes before its file; a file whose folder a mutation took away is left out
        tree = {n: tree[n] for n in sorted(tree) if "/" not in n or tree.get(n.partition("/")[0], b"") is None}
        # `fixed` is large, because 15 bytes of gaps may have 2^20 rows, whose row pointers take 8 MiB (FMT-056)
        makes = (f"own/{CURRENT}", f"own/{LOCK}")
        return Case({"steps": tree, "own": own}, valid=valid, makes=makes, fixed=READER_FIXED)

    def read(self, case: Case, place: Path) -> Any:
        """Return run, version and content of the follower's file after a poll; no content if there is nothing new."""
        del case
        path = place / "own" / CURRENT
        before = path.read_bytes() if path.is_file() else None
        with Follower(place / "steps", path) as follower:
            try:
                news = follower.poll()
            except FormatError:
                if (path.read_bytes() if path.is_file() else None) != before:
                    raise Disagreement("a refused poll changes the follower's file") from None
                raise
            if news is None:
                return follower.run, follower.version, None
            if follower.poll() is not None:
                raise Disagreement("a second poll finds something new")
            return follower.run, news, content_of(second_reader.read(path))

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-176 alone."""
        tree, own = case.folders["steps"], case.folders["own"].get(CURRENT)
        numbers: dict[str, set[int]] = {"model": set(), "delta": set()}
        for name in tree:
            named = NAME.fullmatch(name)
            if named and name == f"{int(named[1]):06d}.{named[2]}":
                numbers[named[2]].add(int(named[1]))
        run, have = (None, None) if own is None else _says(own)
        newest = max(numbers["model"] | numbers["delta"], default=None)
        if newest == have:
            return run, have, None
        need(newest is not None and (have is None or newest > have), "FMT-176.8: a newer version")
        assert newest is not None
        start = -1 if have is None else have
        if have is None or not numbers["delta"].issuperset(range(have + 1, newest + 1)):
            start = max(numbers["model"])
            need(have is None or start > have, "FMT-176.7")
        if start != have:
            says = _says(tree[f"{start:06d}.model"])
            run = says[0] if run is None else run
            need(says == (run, start), "FMT-176.2")
        contents = []
        for number in range(start + 1, newest + 1):
            content = _read(tree[f"{number:06d}.delta"])
            run = content.attributes["published"]["run"] if run is None else run
            need(content.attributes["published"] == {"run": run, "version": number}, "FMT-176.2")
            need(content.kind == "delta" and type(content.attributes["published"]["version"]) is int, "FMT-176")
            contents.append(content)
        made = _applied(tree[f"{start:06d}.model"] if start != have else own, contents)
        need(isinstance(run, str), "a run")
        return run, newest, content_of(made)


READER = Steps()


def _parts(tensors: dict[str, Any], number: int, run: str, **about: Any) -> Parts:
    """Return the pieces of the file of a version."""
    attributes = {"published": {"run": run, "version": number}}
    pieces = files.pieces(tensors, attributes=attributes, **deepcopy(about))
    return Parts(pieces.manifest, pieces.sections)


def _packed(part: Parts) -> bytes:
    try:
        raw = part.pack()
    except CANNOT:
        return b""
    # a file that may have sections in zstd is replaced by an empty one, because the definition cannot read it
    return b"" if b"zstd" in raw else raw


# mutations ---------------------------------------------------------------------------------------


def _spoil(chance: Random, draft: Draft) -> None:
    kind = chance.randrange(10)
    if kind < 3:
        draft.of_tree.append(chance.random())
    elif kind < 5:
        _published(chance, chance.choice([*draft.steps.values()]))
    elif kind < 6 and draft.current is not None:
        _published(chance, draft.current)
    elif kind < 7 and draft.current is not None:
        _mutate(chance, draft.current)
    else:
        _mutate(chance, chance.choice([*draft.steps.values()]))


def _mutate(chance: Random, part: Parts) -> None:
    """Apply a mutation of single files to a part."""
    part.seal = chance.choices((CONTENT, SECTIONS, NOTHING), (8, 1, 1))[0]
    mutate.once(chance, part, deepcopy(part))


def _published(chance: Random, part: Parts) -> None:
    """Change the attribute `published` of a version."""
    attributes = part.manifest["attributes"]
    published, kind = attributes["published"], chance.randrange(6)
    if kind == 0:
        published["run"] = chance.choice(("run-8", "", 7, None, "run-7"))
    elif kind < 3:
        old = published["version"]
        published["version"] = chance.choice((old + 1, old - 1, -1, True, str(old), None, 0, 1, 2**53 - 1))
    elif kind == 3:
        published[chance.choice(("x", "kind"))] = 0
    elif kind == 4:
        published.pop(chance.choice(sorted(published)))
    else:
        attributes["published"] = chance.choice((None, [], {}, "run-7", published))


def _spoil_files(chance: Random, tree: Tree, own: Tree) -> None:
    """Remove, rename, exchange or corrupt files."""
    if not tree:
        return
    name, kind = chance.choice(sorted(tree)), chance.randrange(9)
    raw, (number, _, ending) = tree[name] or b"", name.partition(".")
    near = int(number) + chance.choice((1, -1, 2)) if number.isdecimal() else 0
    if kind == 0:
        tree.pop(name)
    elif kind == 1:
        tree[f"{max(near, 0):06d}.{ending}"] = tree.pop(name)
    elif kind == 2:
        tree[f"{number}.{'delta' if ending == 'model' else 'model'}"] = raw
    elif kind == 3:
        strange = (
            f"0{name}",
            f".{name}",
            "7.model",
            "999999999999999999.delta",
            "\u0660" * 6 + ".model",
            f"{name}.tmp",
        )
        tree[chance.choice((*strange, f".{name}.tmp-0123456789abcdef", "lock", "0" * 19 + ".model"))] = raw
    elif kind == 4:
        # the checkpoint becomes a folder of the same name
        tree[name] = None
        tree[f"{name}/model.sparse.safetensors"] = raw
    elif kind == 5:
        tree[chance.choice(sorted(tree))] = raw
    elif kind == 6 and own:
        own[CURRENT] = raw
    elif kind == 7 and own:
        own[CURRENT] = bytes_of(chance, own[CURRENT] or b"")
    else:
        tree[name] = bytes_of(chance, raw)
    # files are removed if their folder has become a file, or was removed
    for inner in [one for one in tree if any(tree.get(outer, b"") is not None for outer in _folders(one))]:
        tree.pop(inner)


def _folders(name: str) -> list[str]:
    """Return the folders that contain a file."""
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


# the definition ----------------------------------------------------------------------------------


def _read(raw: bytes | None) -> Any:
    need(raw is not None, "a file")
    try:
        return second_reader.read(raw or b"")
    except second_reader.Refused as error:
        raise Refused(str(error)) from error


def _applied(raw: bytes | None, deltas: list[second_reader.Content]) -> second_reader.Content:
    """Return a base after deltas; refuse damage of the base only if it reaches the result (FMT-137.2)."""
    need(raw is not None, "a file")
    try:
        result, digests = _base_of(raw or b"", deltas)
        for number, delta in enumerate(deltas):
            result, digests = second_folder.applied(result, digests, delta, first=number == 0)
        return result
    except second_reader.Refused as error:
        raise Refused(str(error)) from error


def _base_of(raw: bytes, deltas: list[second_reader.Content]) -> tuple[second_reader.Content, dict[str, str]]:
    """Return a base and the content digests that it states.

    Damage may stay unseen where it does not reach the result (FMT-137.2). So no digest of a section is checked, and no
    content digest of a tensor that the first delta lists. A tensor that nothing is computed from is None, and its pads
    are not checked (FMT-095).
    """
    unread: dict[str, bool] = {}
    for delta in deltas[:1]:
        for name, change in delta.delta["tensors"].items():
            unread.setdefault(name, change["target"] is None or f"whole:{name}" in delta.tensors)

    def read(name: str, entry: dict[str, Any]) -> Any:
        if unread.get(name):
            return None
        sections = {role: section | {"sha256": ANY} for role, section in entry["sections"].items()}
        checked = {"content_sha256": ANY} if name in unread else {}
        entry = entry | {"sections": sections} | checked
        return second_reader.read_tensor(name, entry, parts[name])

    header, text, start = second_reader.read_header(raw)
    stated = second_reader.read_manifest(text)
    entries = stated["tensors"]
    implied = {name: second_reader.implied(name, entry) for name, entry in entries.items()}
    data = bytearray(raw[start:])
    for key in (f"{name}#{role}#pad" for name in implied if unread.get(name) for role in implied[name]):
        ends = header[key]["data_offsets"] if key in header else []
        # `locate` refuses other offsets
        if len(ends) == 2 and ends[1] <= len(data):
            data[slice(*ends)] = bytes(max(0, ends[1] - ends[0]))
    parts = second_reader.locate(header, implied, bytes(data))
    second_reader.check_links(stated, stated.get("delta"))
    need(not stated["files"], "FMT-102")
    tensors = {name: read(name, entry) for name, entry in entries.items()}
    digests = {name: entry["content_sha256"] for name, entry in entries.items()}
    state = second_folder.state_of(digests, stated)
    kind, attributes, tied, scales = (stated[name] for name in ("kind", "attributes", "tied", "scales"))
    return second_reader.Content(kind, attributes, tied, scales, None, [], tensors, state), digests


def _says(raw: bytes | None) -> tuple[str, int]:
    """Return run and version of a follower's file from its manifest alone, because its tensors may not be needed."""
    need(raw is not None, "a file")
    assert raw is not None
    header = parsed(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    manifest = parsed(header["__metadata__"]["seft.manifest"].encode())
    published = manifest["attributes"]["published"]
    need(
        set(published) == {"run", "version"} and isinstance(published["run"], str) and is_whole(published["version"]),
        "FMT-176.2",
    )
    need(manifest["kind"] == "model", "a model")
    return published["run"], published["version"]
