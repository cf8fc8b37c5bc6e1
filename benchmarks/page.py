"""Write the tables and pictures of a page of benchmarks from the JSON files of the benchmarks.

    python -m benchmarks page docs/results/benchmarks.md RESULTS

RESULTS holds the files of `--json`: `kernels-1.json` and `kernels-2.json` (the digit is the threads), `step-1.json`,
`memory.json`, `generate-1.json`. The text between `<!-- table NAME -->` and `<!-- end -->` in the page is replaced by
the table of NAME.json; the table `goals` comes from several files. The pictures are written to the folder beside the
page that has the page's name.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.goals import GOALS, THREADS
from benchmarks.pictures import PARTS, pictures_of
from seft_cli.output import Refused, write_file

PEERS = ("torch", "torch csr", "scipy csr", "mkl csr")
"""Columns of the table of products; a peer without results is left out."""
WHO = {
    "ours": "this project",
    "compact": "this project, `--compact`",
    "transposed": "this project, `--transposed`",
    "torch": "PyTorch",
}
GOALS_TABLE = "goals"
RIGHT = {
    "numpy": "reference on NumPy",
    "numba": "compiled kernels (numba)",
    "strict": "array-api-strict, foreign device",
    "permuted": "sums in another order",
    "split": "sums in two halves",
    "fma": "products added in one rounding",
}
"""Name of a right program in `python -m conformance.properties` -> its name on the page."""
ANCHORED = {
    "steps": "steps",
    "events of matrices": "events of matrices",
    "too close to decide": "events with two scores too close to decide within the tolerance",
    "decided otherwise": "of these, decided otherwise than by the oracle",
}
"""Name of a count of the property `train.anchored` -> its name on the page."""
TABLE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(
    markdown: Annotated[
        Path, typer.Argument(help="The page whose tables are written anew.", exists=True, dir_okay=False)
    ],
    results: Annotated[Path, typer.Argument(help="A folder of what `--json` wrote.", exists=True, file_okay=False)],
) -> None:
    """Write the tables of a page and the pictures beside it from results."""
    from seft_cli.log.figures import rendered

    by_name = {path.stem: _read(path) for path in sorted(results.glob("*.json"))}
    names = {name for _, name, _ in TABLE.findall(markdown.read_text())}
    if GOALS_TABLE in names:
        names = names - {GOALS_TABLE} | {f"{goal.kind}-{n}" for goal in GOALS for n in THREADS}
    missing = sorted(names - set(by_name))
    if missing:
        raise typer.BadParameter(f"{results} lacks {', '.join(f'{name}.json' for name in missing)}")
    written = filled(markdown.read_text(), by_name)
    pictures = {f"{name}.svg": partial(draw, result) for name, result in by_name.items() for draw in pictures_of(name)}
    beside = markdown.parent / markdown.stem
    beside.mkdir(exist_ok=True)
    for name, draw in pictures.items():
        write_file(beside / name, rendered(draw, "svg"))
    write_file(markdown, written.encode())
    print(f"{markdown}: {len(by_name)} results, {len(pictures)} pictures")


def filled(text: str, by_name: Mapping[str, dict[str, Any]]) -> str:
    """Return the text of a page with the table of each result between its marks."""

    def table_of(name: str) -> str:
        return _goals(by_name) if name == GOALS_TABLE else tables(name, by_name[name])

    return TABLE.sub(lambda m: f"{m[1]}\n{table_of(m[2])}\n\n{m[3]}", text)


def _goals(by_name: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of goals: the least and the largest ratio of each on one thread and on two."""
    peers = {
        "numpy": "dense NumPy",
        "torch": "PyTorch, dense",
        "torch lora": "PyTorch, LoRA",
        "torch csr": "PyTorch's CSR",
        "scipy csr": "SciPy's CSR",
    }
    rows = []
    for goal in GOALS:
        # SciPy multiplies on one thread, however many there are
        shown = THREADS[:1] if goal.peer == "scipy csr" else THREADS
        ratios = [[*goal.ratios(by_name[f"{goal.kind}-{n}"]["rows"]).values()] if n in shown else [] for n in THREADS]
        if not any(ratios):
            continue
        missed = [n for n, of in zip(THREADS, ratios, strict=True) if of and min(of) < goal.of_threads(n)]
        where = f"not on {missed[0]} thread{'s' * (missed[0] > 1)}" if missed else "yes"
        met = "no" if len(missed) == len(shown) else where
        least = " and ".join(f"{x:g}" for x in dict.fromkeys(goal.least))
        cells = [f"{min(of):.2f} to {max(of):.2f}" if len({*of}) > 1 else f"{of[0]:.2f}" if of else "" for of in ratios]
        rows.append([goal.what, peers[goal.peer], *cells, least, met])
    return _table(["what", "against", "1 thread", "2 threads", "goal", "met?"], rows, 2)


def _read(path: Path) -> dict[str, Any]:
    """Return the result in a JSON file; raise Refused with its name if it is not one."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from None
    if not isinstance(result, dict):
        raise Refused(f"{path} is not a JSON object")
    return result


def tables(name: str, told: dict[str, Any]) -> str:
    """Return the result of a benchmark as Markdown tables; a result with `columns` is a table already."""
    if "columns" in told:
        return _as_it_is(told)
    kind = name.partition("-")[0]
    return {
        "kernels": _kernels,
        "step": _step,
        "parts": _parts,
        "layers": _layers,
        "memory": _memory,
        "generate": _generate,
        "growth": _growth,
        "bounds": _bounds,
        "held": _held,
        "tokens": _tokens,
        "large": _large,
        "programs": _programs,
    }[kind](told)


def _as_it_is(told: dict[str, Any]) -> str:
    """Return rows as a table, with commas in whole numbers; columns of numbers are right-aligned."""
    rows = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in told["rows"]]
    columns = zip(*rows, strict=True)
    rule = ["---" if any(re.search("[A-Za-z]", cell) for cell in column) else "---:" for column in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (told["columns"], rule, *rows))


def _large(told: dict[str, Any]) -> str:
    rows = [
        [s["stage"], f"{s['seconds']:.{0 if s['seconds'] > 20 else 1}f}", f"{s['peak_bytes'] / 2**30:.2f} GiB"]
        for s in told["stages"]
    ]
    return _table(["stage", "seconds", "peak so far"], rows, 1)


def _table(head: list[str], rows: list[list[str]], n_text: int) -> str:
    rule = ["---"] * n_text + ["---:"] * (len(head) - n_text)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _ratio(middle: float, lowest: float, highest: float) -> str:
    return f"{middle:.2f} ({lowest:.2f}..{highest:.2f})"


def _programs(told: dict[str, Any]) -> str:
    """Return two tables: right programs that the kit tested, and choices of compiled kernels too close to decide."""
    keys = ("runs", "properties", "examples", "false failures")
    programs = [[RIGHT[one["program"]], *(f"{one[key]:,}" for key in keys)] for one in told["programs"]]
    counts = next(one["counts"] for one in told["programs"] if one["program"] == "numba")
    close = [[what, f"{counts[f'train.anchored: {key}']:,}"] for key, what in ANCHORED.items()]
    return "\n\n".join(
        (
            _table(["program", "runs", "properties passed", "examples", "false failures"], programs, 1),
            (
                "The property `train.anchored` re-anchors a run after every step.\n"
                "It counts choices that were too close to decide, and they are no failures:"
            ),
            _table(["`train.anchored`, compiled kernels", "count"], close, 1),
        )
    )


def _kernels(told: dict[str, Any]) -> str:
    """Return two tables: our products at every number of tokens, then every method on one shape."""
    entries = {(r["product"], *r["shape"], r["pattern"], r["tokens"], r["method"]): r for r in told["rows"]}
    tokens = sorted({r["tokens"] for r in told["rows"]})
    lines = list(dict.fromkeys((r["product"], *r["shape"], r["pattern"]) for r in told["rows"]))
    order = ("forward", "dx", "dx, copy", "sample")
    lines.sort(key=lambda line: order.index(line[0]))

    def cell(line: tuple[Any, ...], n: int, method: str) -> str:
        row = entries.get((*line, n, method))
        return _ratio(row["ratio"], row["lowest"], row["highest"]) if row else ""

    ours = [[line[0], f"{line[1]} x {line[2]}", line[3], *(cell(line, n, "ours") for n in tokens)] for line in lines]
    wide = [line for line in lines if line[1:3] == (2048, 2048)]
    peers = [peer for peer in PEERS if any(r["method"] == peer for r in told["rows"])]
    beside = [
        [line[0], line[3], str(n), *(cell(line, n, method) for method in ("ours", *peers))]
        for line in wide
        for n in tokens
    ]
    return "\n\n".join(
        (
            "Ours, by tokens:",
            _table(["product", "matrix", "not stored", *(f"{n}" for n in tokens)], ours, 3),
            "Everyone, 2048 x 2048:",
            _table(["product", "not stored", "tokens", "this project", *peers], beside, 2),
        )
    )


def _step(told: dict[str, Any]) -> str:
    def cell(row: dict[str, Any], other: str) -> str:
        return _ratio(row["ratio"][other], *row["ratio_range"][other]) if other in row["ratio"] else ""

    rows = [
        [
            row["what"].replace("x", " x "),
            f"{row['sparsity']:.0%}",
            f"{row['milliseconds']['ours']:.1f}",
            cell(row, "torch"),
            cell(row, "torch lora"),
            cell(row, "torch / transposed"),
        ]
        for row in told["rows"]
    ]
    head = ["what", "not stored", "ms", "PyTorch, dense gradient", "PyTorch, LoRA", "PyTorch, to `--transposed`"]
    return _table(head, rows, 1)


def _memory(told: dict[str, Any]) -> str:
    def cell(row: dict[str, Any], sizes: dict[str, int], part: str) -> str:
        expected = f" ({row['formula'][part] / 2**20:.1f})" if part in row.get("formula", {}) else ""
        return f"{sizes[part] / 2**20:.1f}{expected}" if part in sizes else ""

    rows = []
    for row in told["rows"]:
        sizes = row["held"] | row["transient"]
        rows.append(
            [
                WHO[row["who"]],
                f"{row['sparsity']:.0%}",
                *(cell(row, sizes, part) for part in (*PARTS, "a step", "with an event")),
                f"{row['peak'] / 2**20:.0f}",
                f"{row['bytes_a_weight']:.2f}",
            ]
        )
    head = ["who", "not stored", *PARTS, "a step", "with an event", "peak resident", "bytes a weight"]
    names = list(told["patterns"][0])
    patterns = [[row[n] if isinstance(row[n], str) else f"{row[n]:.3f}" for n in names] for row in told["patterns"]]
    return "\n\n".join(
        (
            "MiB, and what the formula of TRN-012 says:",
            _table(head, rows, 1),
            "Bytes a position of a matrix of N:M in float32:",
            _table(names, patterns, 1),
        )
    )


def _generate(told: dict[str, Any]) -> str:
    others = ("ours", "scipy csr", "torch")
    rows = [
        [
            f"{row['shape'][0]} x {row['shape'][1]}",
            row["pattern"],
            f"{row['microseconds']['ours']:.0f}",
            *(_ratio(row["ratio"][who], *row["ratio_range"][who]) for who in others),
        ]
        for row in told["rows"]
    ]
    return _table(["matrix", "not stored", "us", "this project", "scipy csr", "torch"], rows, 2)


def _parts(told: dict[str, Any]) -> str:
    *parts, step = told["rows"]
    rows = [
        [
            row["what"],
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / step['seconds']:.0%}",
            f"{row['billions']:.0f}" if row["billions"] else "",
            f"{row['billions'] / row['seconds']:.0f}" if row["billions"] else "",
        ]
        for row in (*sorted(parts, key=lambda row: -row["seconds"]), step)
    ]
    return _table(["part", "seconds", "share", "billion operations", "billion a second"], rows, 1)


def _layers(told: dict[str, Any]) -> str:
    rows = [
        [
            row["what"].replace("_", " "),
            f"{row['plain']:.2f}",
            f"{row['compiled']:.2f}",
            _ratio(row["ratio"], *row["range"]),
        ]
        for row in told["rows"]
    ]
    return _table(["layer, forward and backward", "plain, ms", "compiled, ms", "plain over compiled"], rows, 1)


def _growth(told: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['shape'][0]} x {row['shape'][1]}",
            str(row["tokens"]),
            *(f"{row['milliseconds'][who]:.1f}" for who in ("ours", "numpy", "torch", "product")),
            *(_ratio(row["ratio"][who], *row["ratio_range"][who]) for who in ("numpy", "torch")),
            ", ".join(f"{row['peak'][who] / 2**20:.1f}" for who in ("ours", "numpy")),
        ]
        for row in told["rows"]
    ]
    head = ["shape", "tokens", "ms", "numpy", "torch", "product", "numpy / ours", "torch / ours"]
    return _table([*head, "peak MiB, ours and numpy"], rows, 1)


def _bounds(told: dict[str, Any]) -> str:
    rows = [
        [row["what"], f"{row['billions']:.1f} ({row['range'][0]:.1f}..{row['range'][1]:.1f})"] for row in told["rows"]
    ]
    return _table(["what", "billion operations a second"], rows, 1)


def _held(told: dict[str, Any]) -> str:
    tokens = list(dict.fromkeys(row["tokens"] for row in told["rows"]))
    cells = {(row["form"], row["product"], row["tokens"]): row for row in told["rows"]}
    rows = []
    for form, product in dict.fromkeys((row["form"], row["product"]) for row in told["rows"]):
        of = [cells[form, product, n] for n in tokens]
        rows.append([form, product, f"{of[0]['bytes']:.2f}", *(_ratio(r["ratio"], r["least"], r["most"]) for r in of)])
    return _table(["held as", "product", "bytes a stored weight", *(str(n) for n in tokens)], rows, 2)


def _tokens(told: dict[str, Any]) -> str:
    rows = [
        [
            row["method"],
            f"{row['bytes'] / 1e6:.0f}",
            f"{row['tokens a second']:.1f}",
            _ratio(row["ratio"], *row["range"]),
        ]
        for row in told["rows"]
    ]
    return _table(["program", "MB of weights", "tokens a second", "against PyTorch in float32"], rows, 1)
