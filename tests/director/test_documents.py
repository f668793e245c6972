"""The configurations that README and docs show are good ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

from standfast.director.config import parse_config

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("director*.md"))]
LINES = 10


def configurations(page: Path) -> list[str]:
    """Return the blocks of TOML that name a service: whole configurations."""
    blocks = re.findall(
        r"^```toml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [block for block in blocks if "virtual" in block]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_configurations_are_good(page: Path) -> None:
    for block in configurations(page):
        config = parse_config(block, page.name)
        assert config.services
        assert config.backends


def test_readme_shows_ten_lines_for_both_systems() -> None:
    blocks = configurations(ROOT / "README.md")
    assert ["nftables", "pf"] == [parse_config(b, "README").file.driver for b in blocks]
    assert all(len(block.splitlines()) <= LINES for block in blocks)


def test_pf_conf_lines_are_those_of_contrib() -> None:
    """What README says to add stands in the file to copy, in the same order."""
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"^```\n(nat-anchor.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = (ROOT / "contrib" / "freebsd" / "pf.conf").read_text().splitlines()
    places = [lines.index(line) for line in block.splitlines()]
    assert places == sorted(places)
