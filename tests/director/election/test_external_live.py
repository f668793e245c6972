"""Following two keepalived, and moving the address by rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from director.election.rig import Net, keepalived

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system


def test_keepalived_elects_by_our_ranks_and_we_follow(net: Net, tmp_path: Path) -> None:
    """The better rank gets the address; rank 0 gives it up; -9 moves it too."""
    nodes, theirs = [], []
    for space, rank in ((net.a, 200), (net.b, 100)):
        file = tmp_path / f"rank-{space.port}"
        file.write_text("0\n")
        wish = {"kind": "external", "pace": 0, "rank_file": str(file)}
        nodes.append(net.ours(space, rank=rank, **wish))
        nodes[-1].wait_role("backup")
        theirs.append(keepalived(net, space, tmp_path, 254, rank_file=file))
    first, second = nodes
    first.wait_role("master", 10)
    assert second.role() == "backup"
    first.tell("rank 0")
    second.wait_role("master", 5)
    first.wait_role("backup", 2)
    theirs[1].kill()
    first.tell("rank 200")
    first.wait_role("master", 5)
