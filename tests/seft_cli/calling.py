"""A command as a person types it, run in this process."""

import sys

import pytest

from seft_cli import app


def call(monkeypatch, capture, name, *arguments):
    """Run `seft NAME ARGUMENTS`; return (exit code, stdout, stderr) as `capsys` or `capfd` has them."""
    monkeypatch.setattr(sys, "argv", [f"seft {name}", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        app.run(name)
    captured = capture.readouterr()
    return left.value.code or 0, captured.out, captured.err
