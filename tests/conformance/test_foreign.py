"""What others wrote reaches the kit's command line: shown as it is, refused in one line, never waited for."""

import os

import pytest

from conformance.properties import artifacts
from conformance.report.terminal import Terminal
from conformance.report.words import clip


def shown(capsys, *lines, **options):
    terminal = Terminal(keep="\n\t", soft_wrap=True, **options)
    for line in lines:
        terminal.print(line)
    return capsys.readouterr().out


def test_FMT_167_the_terminal_shows_markup_and_hidden_characters(capsys):
    told = shown(capsys, "w[/x] [bold]b :smile: \x1b[2J\x9b\u202e\ud800", "a\n\tb")
    assert "w[/x] [bold]b :smile: \\x1b[2J\\x9b\\u202e\\ud800" in told


def test_reports_and_terminals_hide_the_same():
    assert clip("a\x1b\u200b\u061c\n\tb") == "a\\x1b\\u200b\\u061c\n\tb"


@pytest.mark.parametrize(
    "content",
    ["", "[", "[]", "{}", "[1]", "[{}]", '[{"id": 1}]', "[" * 100_000, '[{"id":"a","op":"no.such"}]', "\ud800"],
)
@pytest.mark.parametrize("command", ["replay", "freeze"])
def test_a_damaged_case_ends_in_one_line(verify, tmp_path, content, command):
    folder = tmp_path / "f[/x]\x1b"
    folder.mkdir(parents=True)
    (folder / "case.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"case\.json"):
        artifacts.read(folder)
    more = ("--clause", "SEL-001", "--name", "x") if command == "freeze" else ("--backend", "numpy")
    code, out, err = verify(command, str(folder), *more)
    assert code == 2
    assert not out
    assert "f[/x]\\x1b" in err
    assert "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_FMT_165_the_kit_does_not_wait_for_a_pipe(verify, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "case.json")
    for line in (
        ("--expect", tmp_path / "pipe", "--only", "select.largest", "--examples", "0", "--backend", "numpy"),
        ("replay", tmp_path / "d"),
        ("freeze", tmp_path / "d", "--clause", "SEL-001", "--name", "x"),
    ):
        code, _, err = verify(*map(str, line))
        assert code == 2, line
        assert err.startswith("verify: ")
