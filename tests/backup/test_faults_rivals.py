"""Two senders to one vault at once: both land whole."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Made, Standfast, incompressible, make_vault, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Sshd

pytestmark = pytest.mark.system

SIZE = ("--segment-size", "64k")
HALF = incompressible(150_000)
REST = incompressible(100_000, seed=2)


@pytest.fixture(params=["directory", "ssh"])
def at(
    request: pytest.FixtureRequest, standfast: Standfast, tmp_path: Path
) -> tuple[Standfast, Made]:
    if request.param == "directory":
        return standfast, make_vault(standfast, tmp_path / "vault", *SIZE)
    sshd: Sshd = request.getfixturevalue("plain_sshd")
    client = sshd.client(standfast)
    address = sshd.address(f"rivals-{tmp_path.name}")
    made = make_vault(client, tmp_path / "vault", *SIZE, address=address)
    made.path = sshd.home / f"rivals-{tmp_path.name}"
    return client, made


def race(made: Made, *rivals: tuple[Standfast, list[str]]) -> list[dict[str, Any]]:
    """Send from all at once: each has begun before any may end. Return their words."""
    running = []
    for number, (rival, options) in enumerate(rivals):
        words = ("backup", "send", "--stdin", f"x{number}", made.address, *options)
        process = rival.start(*words, "--json", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(HALF)
        process.stdin.flush()
        running.append(process)

    def all_began() -> bool:
        segments = made.path.glob("archives/*/00000001.zst.age")
        return len(list(segments)) == len(running)

    wait_until(all_began, "segments of every sender")
    for process in running:
        assert process.stdin is not None
        process.stdin.write(REST)
        process.stdin.close()
        process.stdin = None
    outcomes = [
        (*process.communicate(timeout=60), process.returncode) for process in running
    ]
    assert [0] * len(running) == [code for _, _, code in outcomes], outcomes
    return [json.loads(out) for out, _, _ in outcomes]


def listed(client: Standfast, made: Made, *options: object) -> list[dict[str, Any]]:
    words = ("backup", "list", made.address, "--json", *options)
    archives: list[dict[str, Any]] = client(*words).json()["archives"]
    return archives


def test_two_from_one_machine(at: tuple[Standfast, Made]) -> None:
    """Both archives are whole, and their numbers differ."""
    client, made = at
    race(made, (client, []), (client, []))
    archives = listed(client, made)
    assert ["committed"] * 2 == [a["state"] for a in archives]
    assert [1, 2] == sorted(a["sequence"] for a in archives)
    client("backup", "verify", made.address)
    assert "all clean\n" == client("backup", "clean", made.address).out
    for name in ("x0", "x1"):
        words = ("backup", "restore", made.address, name, "-o", name)
        client(*words, "-i", made.key)
        assert HALF + REST == (client.folder / name).read_bytes()


def test_two_machines(at: tuple[Standfast, Made]) -> None:
    """Each has a key and numbers of its own, and neither hinders the other."""
    client, made = at
    other = client.elsewhere()
    race(made, (client, []), (other, ["--recipient", made.recipient]))
    kit = other("backup", "kit", made.address, "--json").json()
    (signer,) = kit["signers"]
    assert signer != made.signer
    both = ("--signer", made.signer, "--signer", signer)
    archives = listed(client, made, *both)
    assert ["committed"] * 2 == [a["state"] for a in archives]
    assert {(made.signer, 1), (signer, 1)} == {
        (a["signer"], a["sequence"]) for a in archives
    }
    client("backup", "verify", made.address, *both)
    other("backup", "verify", made.address, *both)


def test_clean_leaves_a_running_send(standfast: Standfast, vault: Made) -> None:
    """What a living sender has stored so far is no leftover, here and elsewhere."""
    other = standfast.elsewhere()
    words = ("backup", "send", "--stdin", "x", vault.path)
    with standfast.start(*words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(HALF)
        process.stdin.flush()
        wait_until(lambda: list(vault.path.rglob("00000001.*")), "segments")
        for machine in (standfast, other):
            steps = machine("backup", "clean", vault.path, "--json").json()["steps"]
            assert ["keep"] == [step["action"] for step in steps]
        standfast("backup", "verify", vault.path)
        process.stdin.close()
        assert 0 == process.wait(timeout=30)
    standfast("backup", "verify", vault.path)


def test_many_from_one_machine(standfast: Standfast, vault: Made) -> None:
    """The numbers of one signer are unique however many send."""
    race(vault, *[(standfast, [])] * 5)
    assert [1, 2, 3, 4, 5] == sorted(a["sequence"] for a in listed(standfast, vault))
    standfast("backup", "verify", vault.path)
