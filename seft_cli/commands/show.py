"""What is in a checkpoint: seft show PATH [--json] [--digests]"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import formats
from formats.container import Section
from formats.dialects.hf import HfFolder, open_hf
from formats.dialects.version_index import is_version
from formats.dialects.weight_sync import open_version
from formats.index import is_sparse
from seft_cli import console
from seft_cli.input import require_input, tell_leftovers

SCHEMA = "seft.show/1"
"""The name of the --json object in docs/reference/json.md."""


def main(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Sparse checkpoint (folder or file), Hugging Face or version folder."),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    digests: Annotated[bool, typer.Option("--digests", help="Digests in full, those of sections too.")] = False,
) -> None:
    """Print tensors, encodings, support, sparsity, bytes and digests of a checkpoint, without reading the tensors."""
    require_input(path)
    tell_leftovers(path)
    if is_sparse(path):
        with formats.open(path) as reader:
            description = of_sparse(reader, digests=digests)
    elif is_version(path):
        description = of_version(path)
    elif path.is_dir():
        with open_hf(path) as source:
            description = of_hf(source)
    else:
        folder = f", or give the folder {path.parent}" if path.suffix == ".safetensors" else ""
        raise console.Refused(f"{path} is no sparse checkpoint; seft convert reads other files{folder}")
    if as_json:
        # json.dumps escapes to ASCII, so no foreign name can act on a terminal
        print(json.dumps({"schema": SCHEMA, **description}, indent=1))
    else:
        _print(path, description, digests=digests)


def of_sparse(reader: formats.Reader, *, digests: bool) -> dict[str, Any]:
    """Return the description of a sparse checkpoint, ready for JSON."""
    tensors: dict[str, Any] = {}
    for name in reader.names():
        info = reader.info(name)
        tensors[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "encoding": info.encoding + (f" {info.pattern.n}:{info.pattern.m}" if info.pattern else ""),
            "nnz": info.nnz,
            "numel": info.numel,
            "bytes": info.nbytes,
            "content_sha256": info.content_sha256,
        }
        if digests:
            tensors[name]["sections"] = reader.section_digests(name)
    description: dict[str, Any] = {
        "kind": reader.kind,
        "spec": reader.spec,
        "root_sha256": reader.root_sha256,
        "state_sha256": reader.state_sha256,
        "tensors": tensors,
        "tied": reader.tied,
        "scales": reader.scales,
        "attributes": reader.attributes,
        "files": sorted(reader.files),
    }
    if reader.delta is not None:
        description["delta"] = {
            "base_sha256": reader.delta.base_sha256,
            "target_sha256": reader.delta.target_sha256,
            "tensors": {name: list(ends) for name, ends in reader.delta.tensors.items()},
        }
    return description


def of_version(path: Path) -> dict[str, Any]:
    """Return the description of a version folder of slime, miles or SGLang, ready for JSON."""
    version = open_version(path)
    sections = {name: section for name, (_, section, _) in sorted(version.sections.items())}
    return {"kind": "version folder", "tensors": _outlines(sections), "files": [], "version": version.metadata}


def _outlines(sections: Mapping[str, Section]) -> dict[str, Any]:
    return {
        name: {"dtype": s.dtype, "shape": list(s.shape), "numel": prod(s.shape), "bytes": s.nbytes}
        for name, s in sections.items()
    }


def of_hf(source: HfFolder) -> dict[str, Any]:
    """Return the description of a Hugging Face folder, ready for JSON."""
    tensors = _outlines({name: source.section(name) for name in source})
    return {"kind": "Hugging Face folder", "tensors": tensors, "files": sorted(source.files)}


def _print(path: Path, summary: Mapping[str, Any], *, digests: bool) -> None:
    sparse = "spec" in summary
    title = f"{path}: {summary['kind']}" + (f", format {summary['spec']}" if sparse else "")
    table = Table(title=title)
    left, right = ("tensor", "dtype", "shape"), ("bytes",)
    columns = (*left, "encoding", "support", "sparsity", *right, "content") if sparse else (*left, *right)
    for heading in columns:
        side: Any = "right" if heading in ("support", "sparsity", "bytes") else "left"
        # fold long names, because a cut name cannot be used
        least = min(24, max(map(len, summary["tensors"]), default=0)) if heading == "tensor" else None
        table.add_column(heading, justify=side, no_wrap=heading != "tensor", overflow="fold", min_width=least)
    for name, t in summary["tensors"].items():
        row = [name, t["dtype"], "x".join(map(str, t["shape"])) or "scalar"]
        if sparse:
            row += [t["encoding"], f"{t['nnz']:,}", f"{1 - t['nnz'] / max(t['numel'], 1):.4f}"]
        row.append(f"{t['bytes']:,}")
        if sparse:
            row.append(t["content_sha256"] if digests else t["content_sha256"][:12])
        table.add_row(*row)
    table.add_section()
    every = list(summary["tensors"].values())
    # scales, and weights beside codes, are parts of a matrix that is counted already
    beside = {part for roles in summary.get("scales", {}).values() for part in roles.values()}
    parts = [t for n, t in summary["tensors"].items() if sparse and t["encoding"] != "dense" and n not in beside]
    for kind, tensors in (("sparse ", parts), ("", every)):
        # the sparsity of a model is that of its sparse tensors: embeddings and norms are not pruned
        if tensors and not (kind and len(parts) == len(every)):
            table.add_row(*_total(tensors, kind, sparse=sparse))
    console.show(table)
    if sparse:
        _print_rest(summary)
    if "version" in summary:
        v = summary["version"]
        console.out.print(
            f"leads from version {v['base_version']} to {v['version']}: "
            f"{v['delta_encoding']}, {v['compression_format']}, {v['checksum_format']}"
        )
    if summary["files"]:
        console.out.print("files: " + ", ".join(summary["files"]))


def _total(tensors: Sequence[Mapping[str, Any]], kind: str, *, sparse: bool) -> list[str]:
    """Return the table row with the sums over some tensors."""
    row = [f"{len(tensors)} {kind}tensor{'s' * (len(tensors) != 1)}", "", ""]
    if sparse:
        support, numel = (sum(t[key] for t in tensors) for key in ("nnz", "numel"))
        row += ["", f"{support:,}", f"{1 - support / max(numel, 1):.4f}"]
    return [*row, f"{sum(t['bytes'] for t in tensors):,}"]


def _print_rest(summary: Mapping[str, Any]) -> None:
    for name, t in summary["tensors"].items():
        for role, digest in t.get("sections", {}).items():
            console.out.print(f"{name}#{role}: {digest}")
    console.out.print(f"digest of the whole: {summary['root_sha256']}")
    console.out.print(f"digest of what the tensors say: {summary['state_sha256']}")
    if "delta" in summary:
        console.out.print(f"from {summary['delta']['base_sha256']} to {summary['delta']['target_sha256']}")
    for alias, target in sorted(summary["tied"].items()):
        console.out.print(f"{alias} is {target}")
    for name, roles in sorted(summary["scales"].items()):
        console.out.print(f"{name} has " + ", ".join(f"{role} {target}" for role, target in sorted(roles.items())))
    for key, value in sorted(summary["attributes"].items()):
        console.out.print(f"{key}: {value}")
