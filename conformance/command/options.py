"""Options of the command line: those that several commands take, and the time that a port has."""

from typing import Annotated

import typer

from conformance.command.runner import BACKENDS, DEFAULT

__all__ = ["Backend", "Device", "Only", "Patience", "Port", "PortPy", "Timeout"]

Port = Annotated[
    str | None,
    typer.Option(metavar="COMMAND", help="The port: a program that speaks the protocol on stdin and stdout."),
]
PortPy = Annotated[
    str | None, typer.Option(metavar="pkg.mod:Class", help="A Python class as the port, run in a child process.")
]
Backend = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help=f"Our engine on this backend ({', '.join(BACKENDS)}); may be repeated; default {', '.join(DEFAULT)}.",
    ),
]
Device = Annotated[str | None, typer.Option(help="Our engine on cpu, or on cuda: short for --backend cupy.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Only cases and properties that GLOB matches by id, operation or clause; may be repeated."
    ),
]
Timeout = Annotated[
    float,
    typer.Option(min=0.1, metavar="S", help="Seconds that a call may take; a property takes three times as many."),
]
Patience = Annotated[
    float | None,
    typer.Option(min=0.1, metavar="S", help="Seconds that a port has for its hello, and for a call [120 and 20]."),
]
