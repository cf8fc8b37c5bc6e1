"""Make the page of bad files from the answers of the readers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PROFILE = ("seft second reader", "seft C reader")
"""Readers that read only sparse checkpoints. No file of the pack is one, so they refuse all files."""
CRATE = "safetensors: "
HUNG = ("crash", "panic", "memory", "timeout")
NOTES = {
    "safetensors: safe_open (np)": "NumPy has no dtype for BF16, F8 and F4.",
    "safetensors: safe_open (pt)": "torch counts values of F4 in pairs, so a shape [4] comes as [2].",
    "safetensors: flax.load_file": "JAX makes 32 bits of 64 unless `jax_enable_x64` is set.",
    "gguf": "`gguf.utility.SafetensorsLocal` returns dtype, shape and bytes as they stand. "
    "With `offsets-negative` it returns bytes of the header.",
    "tinygrad": "`safe_load` gives bytes to `json.loads`, which also reads UTF-16 and byte order marks. Slices end "
    "where the file ends, and `reshape` takes -1, null and a number.",
    "MLX": "Sizes are int32: 2^40 becomes 0 without a word. F8_E4M3 and F8_E8M0 come as U8. A fraction is "
    "cut. `shape-two-negatives` comes with the shape (-1, -1).",
    "pure-safetensors": "It needs marshmallow 3: with 4 it reads no file at all. It, too, gives bytes to `json.loads`.",
    "modelvet": "It judges files and loads none, so no tensors are compared. Escapes in names and dtypes are refused.",
    "safetensors-cpp": "Asked as in its README: `load_from_file`, then `validate_data_offsets`. Numbers pass through "
    "doubles. Objects in objects take time with the square of their depth: 2.0 s at 2,000 levels, 8.5 s at 4,000.",
    "csafetensors": "Asked by `csafetensors_load_from_file`, then `csafetensors_validate`. As in safetensors-cpp, "
    "`size-bytes-wrap` comes with a shape of 2^62 values and 8 bytes.",
    "seft": "FMT-121 lets a foreign header begin with spaces, and `__metadata__` be null, as safetensors does.",
    "fastsafetensors": "On the CPU, with `nogds`.",
}
"""Reader -> remarks, found by hand, that explain its figures."""
LEFT_OUT = (
    ("candle", "Hugging Face publishes no wheel of it on PyPI; `candle-python` is another project"),
    ("transformers", "it calls `safe_open`"),
    (
        "torch.distributed.checkpoint",
        "it loads by `safe_open`; its tool that consolidates shards parses headers by itself",
    ),
    ("instanttensor", "it needs CUDA"),
    ("cattensors", "it reads ahead, then calls safetensors"),
)


def page(result: Mapping[str, Any], index: Mapping[str, Any]) -> str:
    """Return the page in Markdown.

    result  the content of a file of `readers --json`
    index   index.json of the pack
    """
    asked = [r for r in result["readers"] if r["reader"] not in PROFILE]
    files = {entry["file"].removesuffix(".safetensors"): entry for entry in index["files"]}
    verdicts = Counter(entry["verdict"] for entry in index["files"])
    lines = ["# Bad files and the readers of safetensors", ""]
    lines += [*_summary(asked, verdicts), ""]
    lines += ["The pack is [conformance/badfiles](../../conformance/badfiles/README.md).", ""]
    lines += ["## Who takes what", "", *_readers(asked, verdicts), "", *_remarks(asked), ""]
    lines += ["## Bad files that a reader accepts", "", *_accepted(asked, files), ""]
    lines += ["## Good files that a reader refuses or reads otherwise", "", *_refused(asked, files), ""]
    lines += ["## What the format leaves open", "", *_open(asked, files), ""]
    lines += ["## How it was measured", "", *_measured(result, verdicts)]
    return "\n".join(lines) + "\n"


def _summary(asked: Sequence[Mapping[str, Any]], verdicts: Mapping[str, int]) -> list[str]:
    bad = {r["reader"]: _bad(r) for r in asked}
    least, most = min(bad.values()), max(bad.values())
    best = ", ".join(name for name, count in bad.items() if count == least)
    hung = [r["reader"] for r in asked if any(key.split()[1] in HUNG for key in r["counts"])]
    every = [
        file.partition("/")[2]
        for file in asked[0]["surprises"]
        if all(r["surprises"].get(file, {}).get("outcome") == "accept" for r in asked)
    ]
    clean = sum(not any(key in r["counts"] for key in ("accept refuse", "accept other")) for r in asked)
    passed = f", and all of them accept {' and '.join(f'`{name}`' for name in every)}" if every else ""
    bad_ends = f"crashed or hung: {', '.join(hung)}" if hung else "none crashed, hung or ran out of memory"
    return [
        f"{len(asked)} readers of safetensors were given {verdicts['refuse']} files that each break one rule of it.",
        f"They accept between {least} ({best}) and {most}{passed}.",
        f"{clean} of {len(asked)} read all {verdicts['accept']} good files rightly; {bad_ends}.",
    ]


def _bad(r: Mapping[str, Any]) -> int:
    return int(r["counts"].get("refuse accept", 0))


def _readers(asked: Sequence[Mapping[str, Any]], verdicts: Mapping[str, int]) -> Iterator[str]:
    yield f"| reader | version | of {verdicts['refuse']} bad files accepted | crashed or hung | of {verdicts['accept']} good files refused | read otherwise |"  # noqa: E501
    yield "|---|---|---:|---:|---:|---:|"
    for r in sorted(asked, key=_bad):
        stuck = sum(count for key, count in r["counts"].items() if key.split()[1] in HUNG)
        refused, other = r["counts"].get("accept refuse", 0), r["counts"].get("accept other", 0)
        yield f"| {r['reader']} | {r['version'] or 'this tree'} | {_bad(r)} | {stuck} | {refused} | {other} |"


def _remarks(asked: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table with the remarks on readers and the files that took them long."""
    yield "What the figures do not say:"
    yield ""
    yield "| reader | remark |"
    yield "|---|---|"
    for r in asked:
        slow = [f"`{file.partition('/')[2]}` took {seconds:.0f} s." for file, seconds in r["slow"].items()]
        words = [NOTES[r["reader"]]] if r["reader"] in NOTES else []
        if words or slow:
            yield f"| {r['reader']} | {' '.join(words + slow)} |"


def short(names: Sequence[str], asked: Sequence[Mapping[str, Any]]) -> str:
    """Return names of readers as text; all those of the crate safetensors together are shortened to one name."""
    own = [r["reader"] for r in asked if r["reader"].startswith(CRATE)]
    if len(names) == len(asked):
        return "all"
    if own and set(own) <= set(names):
        names = [f"safetensors (all {len(own)} ways)", *(n for n in names if n not in own)]
    return ", ".join(names)


def _accepted(asked: Sequence[Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| file | what is wrong | accepted by |"
    yield "|---|---|---|"
    clean = []
    for file, entry in files.items():
        if entry["verdict"] != "refuse":
            continue
        names = [r["reader"] for r in asked if r["surprises"].get(file, {}).get("outcome") == "accept"]
        if names:
            yield f"| `{file.partition('/')[2]}` | {entry['rule']} | {short(names, asked)} |"
        else:
            clean.append(file.partition("/")[2])
    yield ""
    yield f"Every reader refuses the other {len(clean)}."


def _refused(asked: Sequence[Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| file | what it is | reader | what it says or finds |"
    yield "|---|---|---|---|"
    for file, entry in files.items():
        for r in asked if entry["verdict"] == "accept" else ():
            surprise = r["surprises"].get(file)
            if surprise:
                said = surprise.get("error") or "; ".join(surprise.get("found", ())) or surprise["outcome"]
                yield f"| `{file.partition('/')[2]}` | {entry['rule']} | {r['reader']} | {said.replace('|', '¦')} |"


def _open(asked: Sequence[Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| file | what it is | read by | read otherwise by | refused by |"
    yield "|---|---|---|---|---|"
    dtypes = []
    for file, entry in files.items():
        name = file.partition("/")[2]
        if entry["verdict"] != "open":
            continue
        if name.startswith("dtype-") and name != "dtype-escaped":
            dtypes.append(name)
            continue
        columns = [short([r["reader"] for r in asked if r["open"][name] == o], asked) for o in ("accept", "other")]
        rest = short([r["reader"] for r in asked if r["open"][name] not in ("accept", "other")], asked)
        yield f"| `{name}` | {entry['rule']} | {columns[0]} | {columns[1]} | {rest} |"
    yield ""
    yield "The format has no list of dtypes, so a reader that lacks one breaks no rule."
    yield ""
    yield "| reader | dtypes that it refuses | read as another dtype or shape |"
    yield "|---|---|---|"
    for r in asked:
        cells = [
            ", ".join(n.removeprefix("dtype-") for n in dtypes if r["open"][n] in outcomes) or "none"
            for outcomes in (("refuse", *HUNG), ("other",))
        ]
        yield f"| {r['reader']} | {cells[0]} | {cells[1]} |"


def _measured(result: Mapping[str, Any], verdicts: Mapping[str, int]) -> Iterator[str]:
    about = result["machine"]
    yield f"On {result['date']}, {about['cores']} cores of {about['cpu']}, Python {about['python']}."
    yield "Each file was loaded, all tensors included, in a process of its own with 60 s and 4 GiB."
    yield "The figures are in [bad-files.json](bad-files.json)."
    yield ""
    yield "```"
    yield "python -m benchmarks readers --python VENV/bin/python --program NAME@VERSION=PATH --json bad-files.json"
    yield "python -m benchmarks readers-page bad-files.json bad-files.md"
    yield "```"
    yield ""
    yield "`--python` is given once for each environment, `--program` once for each driver of `benchmarks/drivers`."
    yield ""
    strict = [r["reader"] for r in result["readers"] if r["reader"] in PROFILE]
    if strict:
        every = sum(verdicts.values())
        yield f"{' and '.join(strict)} read sparse checkpoints alone."
        yield f"No file of the pack is one; they refuse all {every}, without a crash."
        yield "The vectors of the kit judge them rule by rule (`seft verify --profile ckpt-read`)."
        yield ""
    if result["missing"]:
        yield f"Not installed: {', '.join(result['missing'])}."
        yield ""
    yield "Not asked:"
    yield ""
    for name, reason in LEFT_OUT:
        yield f"- {name}: {reason}."
