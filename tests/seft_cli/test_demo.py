"""The page of the demo is made from the JSON beside it, and keeps what is written by hand."""

import json

from seft_cli.commands import demo
from tests.test_readme import ROOT

PAGE = ROOT / "docs" / "results" / "demo.md"


def test_the_page_in_the_manual_is_that_of_its_json():
    told = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == demo.markdown(told) + demo.by_hand(PAGE)


def test_what_is_written_by_hand_is_kept(tmp_path):
    page = tmp_path / "demo.md"
    assert demo.by_hand(page) == ""
    page.write_text("# Old\n\n## Other runs\n\nOn another day 3.\n", encoding="utf-8")
    assert demo.by_hand(page) == "\n## Other runs\n\nOn another day 3.\n"
    page.write_text("# Old\n", encoding="utf-8")
    assert demo.by_hand(page) == ""
