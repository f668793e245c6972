"""Two real directors: what one is told the other knows, and where a flow goes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from labs import lab_of_two

from standfast.director.lab.rig import VIRTUAL, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with lab_of_two() as rig:
        yield rig


def agreed(rig: Rig) -> None:
    rig.wait(
        lambda: "same" == rig.ask("a", do="status", backends=[])["peer"]["agrees"],
        "their tables do not agree",
    )


def where(rig: Rig, director: str, client: str) -> dict[str, Any]:
    places = rig.ask(director, do="where", client=client)["places"]
    return next(row for row in places if row["virtual"] == f"{VIRTUAL}:81")


def test_where_an_open_connection_goes(rig: Rig) -> None:
    """Slot, backend, age here; and after its backend was drained the pin there."""
    agreed(rig)
    script = (
        f"import socket,sys; s=socket.create_connection(('{VIRTUAL}',81));"
        "print('%s:%d' % s.getsockname(), flush=True); sys.stdin.read()"
    )
    space = ["ip", "netns", "exec", rig.space("client")]
    with subprocess.Popen(
        [*space, sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        try:
            assert client.stdout is not None
            name = client.stdout.readline().decode().strip()
            rig.wait(
                lambda: (where(rig, "a", name)["age"] or 0) >= 1, "the flow has no age"
            )
            row = where(rig, "a", name)
            backend = row["backend"]
            assert {"holder": backend, "peer": backend, "pinned": False}.items() <= (
                row.items()
            )
            assert "ESTABLISHED" == row["state"]
            there = where(rig, "b", name)
            assert (row["slot"], backend) == (there["slot"], there["backend"])
            assert "" == there["holder"]
            rig.ask("a", do="drain", backend=backend)
            rig.wait(lambda: where(rig, "b", name)["pinned"], "the peer has no pin")
            agreed(rig)
            row = where(rig, "a", name)
            assert backend != row["backend"]
            assert (backend, backend) == (row["holder"], row["peer"])
            assert backend == where(rig, "b", name)["pin"]
            argv = [sys.executable, "-m", "standfast", "director", "where", name]
            socket = ["--socket", str(rig.folder / "a.ctl")]
            shown = subprocess.run([*argv, *socket], check=True, capture_output=True)
            words = rf"connected to {backend} for [\d.]+ s; on the peer {backend}$"
            assert re.search(words, shown.stdout.decode(), re.MULTILINE)
        finally:
            client.kill()
            rig.ask("a", do="undrain", backend=backend)


def test_a_client_that_is_no_address(rig: Rig) -> None:
    argv = [sys.executable, "-m", "standfast", "director", "where", "nonsense"]
    socket = ["--json", "--socket", str(rig.folder / "a.ctl")]
    shown = subprocess.run([*argv, *socket], check=False, capture_output=True)
    assert 1 == shown.returncode
    assert "198.51.100.7:51812" in json.loads(shown.stdout)["error"]["hint"]


def test_a_drain_holds_on_both_and_outlives_both(rig: Rig) -> None:
    rig.ask("a", do="drain", backend="h3")
    rig.wait_states("b", h3="draining")
    agreed(rig)
    # b was killed, and a took the order back meanwhile: b must not bring it again.
    rig.kill("b", signal.SIGKILL)
    rig.wait_end("b")
    rig.ask("a", do="undrain", backend="h3")
    rig.start_director("b", election="vrrp")
    rig.wait_up("b")
    assert "up" == rig.states("a")["h3"]
    rig.ask("b", do="disable", backend="h2")
    rig.wait_states("a", h2="disabled")
    rig.kill("a", signal.SIGKILL)
    rig.wait_end("a")
    rig.start_director("a", election="vrrp")
    rig.wait_states("a", h2="disabled", h1="up", h3="up")
