"""docs/http.md has every refusal of the parser, and no other."""

from pathlib import Path

from sockd.http.parser import REFUSALS

PAGE = Path(__file__).parents[1] / "docs" / "http.md"


def test_the_page_has_every_refusal() -> None:
    rows = [f"| {status} | {reason} | {rule} |" for _, status, reason, rule in REFUSALS if status]
    table = PAGE.read_text().partition("| status | reason | rule |\n| --- | --- | --- |\n")[2]
    assert table.partition("\n\n")[0].splitlines() == rows
