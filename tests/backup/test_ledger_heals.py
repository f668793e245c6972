"""A crash right after the commit point is made good by the next look."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Made, Standfast


def test_a_forgotten_commit_is_noted(standfast: Standfast, vault: Made) -> None:
    """The archive is vouched for again: taking it away is seen."""
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=b"data")
    ledger = standfast.folder / "state/standfast/vaults" / vault.id / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    states = [json.loads(line)["state"] for line in lines]
    assert ["reserved", "committed"] == states
    ledger.write_text(lines[0])
    standfast("backup", "verify", vault.path)
    assert "".join(lines) == ledger.read_text()
    shutil.rmtree(vault.archives()[0])
    refused = standfast("backup", "verify", vault.path, ok=13)
    assert "missing: the whole archive" in refused.out
