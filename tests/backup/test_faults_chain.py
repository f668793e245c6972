"""kill -9 around every command and every store operation of incremental sends."""

from __future__ import annotations

import dataclasses
import signal

import pytest
from chains import begin, has_bookmarks, our_marks
from conftest import ForkServer, Made, Pool, Ran, Standfast, incompressible

pytestmark = pytest.mark.system

KILLED = -signal.SIGKILL


@pytest.fixture
def standfast(standfast: Standfast, forks: ForkServer) -> Standfast:
    """The command, quicker: these tests run it hundreds of times."""
    return dataclasses.replace(standfast, forks=forks)


def test_increments_killed_at_every_step(
    standfast: Standfast, vault: Made, pool: Pool, forks: ForkServer
) -> None:
    """No base is ever lost, no mark is left behind, and all of it can be restored.

    One chain of some seventy archives, each of which begins with a death.
    """
    history = begin(pool, "swept")
    history.step(0, size=70_000)

    def send() -> dict[str, object]:
        words = ("backup", "send", history.full, vault.path, "--json")
        found: dict[str, object] = forks.run(standfast, *words).json()
        return found

    send()
    number, survived = 0, 0
    ran = Ran(0, "", "")
    for at in range(1, 100):
        for when in ("before", "after"):
            number += 1
            history.write("changed", b"state %d\n" % number * 1000)
            history.write("other", incompressible(70_000, number))
            history.snapshot(f"k{number}")
            # The second of a pair goes on with what the first left, and dies too.
            for _ in range(2 if when == "before" else 1):
                ran = forks.ask(
                    standfast,
                    doomed="dataset",
                    vault=vault.path,
                    dataset=history.full,
                    at=at,
                    when=when,
                )
                assert ran.code in {0, KILLED}, ran
            survived += ran.code == 0
            document = send()
            where = (at, when, document)
            assert history.guid(f"k{number}") == document["guid"], where
            if document["sent"]:
                assert document["from_guid"] is not None, where
            bookmarks, holds = our_marks(pool, history)
            if has_bookmarks(pool):
                assert (True, {}) == (len(bookmarks) <= 6, holds), where
            else:
                assert {f"{history.full}@k{number}": 1} == holds, where
        if survived:
            break
    assert at > 20
    archives = len(vault.archives())
    verdict = standfast("backup", "verify", vault.path).out
    assert f"{archives} of {archives} archives are whole (" in verdict
    assert "unfinished" not in verdict
    assert "all clean" in standfast("backup", "clean", vault.path).out
    for snapshot in ("s0", "k7", f"k{number}"):
        history.restored(vault, standfast, snapshot)
