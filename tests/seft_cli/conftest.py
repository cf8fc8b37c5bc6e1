"""What the tests of commands share."""

import pytest

from tests.seft_cli.calling import call


@pytest.fixture
def cli(monkeypatch, capsys):
    """`cli(name, *arguments)` runs a command in this process; returns (exit code, stdout, stderr)."""
    return lambda name, *arguments: call(monkeypatch, capsys, name, *arguments)
