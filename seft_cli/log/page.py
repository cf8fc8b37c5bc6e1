"""Draw a whole run as one HTML page: pictures and tables in one file, without scripts or other files."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from seft_cli.log import figures
from seft_cli.log.read import COUNTS, Log, Matrix

STYLE = """
:root{color-scheme:light}
body{margin:0;background:#f6f6f4;color:#222;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:22px;line-height:1.3;margin:0 0 2px}
h2{font-size:17px;margin:36px 0 10px}
p{margin:4px 0}
.quiet{color:#666}
.tiles{display:grid;grid-template-columns:repeat(5,1fr);gap:12px;margin:20px 0}
.tile,figure,.table,.warning{background:#fff;border:1px solid #e2e2de;border-radius:6px}
.tile{padding:10px 14px}
.tile b{display:block;font-size:20px;font-weight:600}
.tile span{color:#666;font-size:13px}
.warning{border-left:4px solid #d55e00;padding:8px 14px;margin:8px 0}
figure{margin:0;padding:10px 12px}
.pictures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:12px}
.wide{grid-column:1/-1}
svg{display:block;width:100%;height:auto}
.table{max-height:480px;overflow:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid #eee}
th{position:sticky;top:0;background:#fff;color:#666;font-weight:600;box-shadow:0 1px #ddd}
.left{text-align:left}
.texts td:last-child{white-space:normal;width:75%}
.low{max-height:220px}
@media(max-width:760px){.tiles{grid-template-columns:repeat(2,1fr)}.pictures{grid-template-columns:1fr}}
@media print{body{background:#fff}.table{max-height:none}}
"""
WIDE, HALF = (10.4, 3.1), (5.1, 3.1)
PICTURES = {
    "loss": (("loss",), WIDE, "Loss of every step, with events and warnings."),
    "support": (("support",), (5.1, 3.9), "Stored weights and density after every event, with the target."),
    "moved": (("overlap", "churn"), (5.1, 3.9), "Overlap with the weights of load, and churn, at every event."),
    "counts": (("counts",), HALF, "Weights grown, reactivated and pruned at every event."),
    "gaps": (("gaps",), HALF, "Relative gaps at the boundaries of drop, grow and adapt."),
    "map": (("map",), (10.4, 2.3), "Churn of every matrix, summed over the events."),
    "replaced": (("replaced",), (10.4, 2.3), "Share of the weights of load that every matrix no longer stores."),
    "density": (("density",), (10.4, 2.3), "Change of density of every matrix."),
}


def page(log: Log) -> str:
    """Return the HTML page of a run."""
    title, below = figures.heading(log)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(below)}</p>',
        _tiles(log),
        _warnings(log),
        _pictures(log),
        _events(log),
        _matrices(log),
        _settings(log),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width">'
    body = "\n".join(part for part in parts if part)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body><main>\n{body}\n</main></body>\n</html>\n'


def _tiles(log: Log) -> str:
    losses = [step.loss for step in log.steps]
    seconds = sorted(step.seconds for step in log.steps if not math.isnan(step.seconds))
    grown = sum(event.total.counts["grown"] for event in log.events)
    back = sum(event.total.counts["reactivated"] for event in log.events)
    stored = log.stored_at_end if log.stored_at_end is not None else _latest(log)
    last = losses[-10:]
    tiles = [
        (
            f"{sum(last) / len(last):.4g}" if last else "none",
            f"loss, mean of the last {figures.plural(len(last), 'step')}",
        ),
        (f"{stored:,}", f"weights stored {'at the end' if log.stored_at_end is not None else 'so far'}"),
        (f"{stored - log.budget:+,}" if stored != log.budget else "±0", "against load"),
        (f"{grown:,}", f"grown, {back:,} of them reactivated"),
        (f"{seconds[len(seconds) // 2]:.3g} s" if seconds else "unknown", "a step, median"),
    ]
    cells = "".join(f'<div class="tile"><b>{escape(n)}</b><span>{escape(what)}</span></div>' for n, what in tiles)
    return f'<div class="tiles">{cells}</div>'


def _latest(log: Log) -> int:
    return log.events[-1].total.counts["support"] if log.events else sum(m.stored for m in log.matrices.values())


def _warnings(log: Log) -> str:
    """Return each warning name with its first message, and a table of all warnings if a name comes more than once."""
    if not log.warnings:
        return "<h2>Warnings</h2><p>None.</p>"
    parts = []
    for name in dict.fromkeys(warned.name for warned in log.warnings):
        same_name = [warned for warned in log.warnings if warned.name == name]
        when = f"step {same_name[0].step:,}"
        if len(same_name) > 1:
            when += f", the first of {len(same_name):,}, the last at step {same_name[-1].step:,}"
        head = f'<b>{escape(name)}</b> <span class="quiet">{when}</span>'
        parts.append(f'<div class="warning">{head}<p>{escape(same_name[0].message)}</p></div>')
    if len(parts) < len(log.warnings):
        rows = [[warned.step, warned.name, warned.message] for warned in log.warnings]
        parts.append(_table(["step", "warning", "message"], rows, n_left=3, kind="table texts low"))
    return "<h2>Warnings</h2>" + "".join(parts)


def _pictures(log: Log) -> str:
    names = list(PICTURES) if log.events else ["loss", "support"]
    flat = {
        "replaced": all(figures.replaced_of(name, log.events) == 0 for name in log.matrices),
        "density": all(figures.gained_of(name, log) == 0 for name in log.matrices),
    }
    names = [name for name in names if not flat.get(name)]
    shown = []
    for name in names:
        panels, size, says = PICTURES[name]
        if not log.events:
            size = WIDE
        picture = _inline(figures.rendered(partial(figures.panel, log, panels, size), "svg"), name, says)
        shown.append(f"<figure{' class=wide' if size[0] > HALF[0] else ''}>{picture}</figure>")
    return f'<h2>Pictures</h2><div class="pictures">{"".join(shown)}</div>'


def _inline(svg: bytes, name: str, says: str) -> str:
    """Return an SVG file as an element of the page: without its head, and with its ids made unique."""
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bxmlns(:\w+)?="[^"]*" ?', "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text).replace("xlink:href", "href")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(says)}" ', 1).strip()


def _events(log: Log) -> str:
    if not log.events:
        return "<h2>Events</h2><p>None.</p>"
    rows = [[e.step, f"{e.fraction:.4f}", *(e.total.counts[key] for key in COUNTS)] for e in log.events]
    return "<h2>Events, sums over all matrices</h2>" + _table(["step", "fraction", *COUNTS], rows)


def _matrices(log: Log) -> str:
    heads = ["matrix", "shape", "at load", "stored", "density", "slots", "grown", "reactivated", "pruned", "churn",
             "overlap"]  # fmt: skip
    rows: list[list[Any]] = []
    for matrix in sorted(log.matrices.values(), key=_order):
        parts = [event.matrices[matrix.name] for event in log.events if matrix.name in event.matrices]
        after = parts[-1].counts if parts else {"support": matrix.stored, "slots": matrix.slots}
        sums = [sum(part.counts[key] for part in parts) for key in ("grown", "reactivated", "pruned")]
        churn = f"{sum(part.ratios['churn'] for part in parts):.3f}"
        overlap = f"{parts[-1].ratios['overlap']:.4f}" if parts else "1.0000"
        name = matrix.name.removesuffix(".weight").removeprefix("model.")
        density = f"{after['support'] / max(matrix.numel, 1):.4f}"
        shape = "×".join(map(str, matrix.shape))
        rows.append([name, shape, matrix.stored, after["support"], density, after["slots"], *sums, churn, overlap])
    return "<h2>Matrices, over the whole run</h2>" + _table(heads, rows, n_left=1)


def _order(matrix: Matrix) -> tuple[Any, ...]:
    role, block = figures.place(matrix.name)
    return block is None, block or 0, figures.projection_order(role), matrix.name


def _settings(log: Log) -> str:
    rows = [[key, value] for key, value in _flat(log.settings)]
    return "<h2>Settings</h2>" + _table(["setting", "value"], rows, n_left=2, kind="table texts")


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Yield every setting and its value as text; a nested one is named `outer.inner`."""
    for key, value in settings.items():
        if isinstance(value, dict) and value and before.count(".") < 8:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, n_left: int = 0, kind: str = "table") -> str:
    """Return an HTML table whose first `n_left` columns are aligned to the left."""
    side: Callable[[int], str] = lambda column: " class=left" if column < n_left else ""  # noqa: E731
    top = "".join(f"<th{side(i)}>{escape(head)}</th>" for i, head in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{side(i)}>{escape(_cell(cell))}</td>" for i, cell in enumerate(row)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="{kind}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
