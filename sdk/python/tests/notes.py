"""The tables of the notes for those who come from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

NOTES = Path(__file__).resolve().parents[3] / "docs" / "migrate"

_CELL = re.compile(r"(?<!\\)\|")


def rows(note: str, *headings: str) -> list[str]:
    """What was called before, of all rows below some headings: the first cell of each."""
    parts = re.split(r"^## (.+)$", (NOTES / f"{note}.md").read_text(), flags=re.MULTILINE)
    found = []
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        if heading in headings:
            table = [line for line in text.splitlines() if line.startswith("| ")]
            found += [_CELL.split(line)[1].strip() for line in table if not line.startswith("| ---")][1:]
    return found


def check(found: list[str], tried: Mapping[str, str], untried: Mapping[str, str]) -> None:
    """Every row is tried, or it is said why not; and what is tried is a row."""
    assert len(found) == len(set(found))
    assert set(found) - {*tried, *untried} == set(), "these rows are not tried"
    assert {*tried, *untried} - set(found) == set(), "the note has no such rows"
    assert not set(tried) & set(untried)
