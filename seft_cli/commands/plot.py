"""Draw the log of a run: seft plot LOG OUT.png|OUT.svg|OUT.html [--html]

A log may be drawn while the run still goes on; an existing picture is replaced.
"""

from pathlib import Path
from typing import Annotated

import typer

from seft_cli import console
from seft_cli.input import require_input
from seft_cli.log.read import Log, read_log
from seft_cli.output import require_file, write_file

KINDS = (".png", ".svg", ".html")


def main(
    file: Annotated[Path, typer.Argument(metavar="LOG", help="The log of one run, which seft finetune --log wrote.")],
    destination: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="OUT.png, OUT.svg or OUT.html; an older one is replaced."),
    ],
    *,
    html: Annotated[
        bool, typer.Option("--html", help="One page with pictures and tables, OUT.html, whatever suffix OUT has.")
    ] = False,
) -> None:
    """Draw loss, support, what events did and where, and the warnings of a run, as one picture or as one page."""
    if html and destination.suffix in ("", *KINDS):
        destination = destination.with_suffix(".html")
    if destination.suffix not in KINDS:
        raise console.Refused(f"{destination} is neither .png nor .svg nor .html; name the picture OUT.png, say")
    if not file.exists() or require_input(file).is_dir():
        raise console.Refused(f"there is no log {file}; seft finetune --log writes one")
    require_file(destination)
    log = read_log(file)
    write_file(destination, _drawn(log, destination.suffix))
    console.out.print(f"{destination}: steps {len(log.steps)}, events {len(log.events)}, warnings {len(log.warnings)}")


def _drawn(log: Log, suffix: str) -> bytes:
    # this import stands here because matplotlib is an optional dependency and loads slowly
    try:
        from seft_cli.log.figures import rendered, sheet
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise console.Refused("a picture needs matplotlib; pip install '.[plot]' in the clone brings it") from None
    if suffix == ".html":
        from seft_cli.log.page import page

        return page(log).encode("utf-8")
    return rendered(lambda: sheet(log), suffix[1:])
