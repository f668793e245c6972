"""What verify remembers of each archive."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from standfast.backup.proven import DAMAGED, RESTORE, note_proven, read_proven
from standfast.backup.state import VaultState
from standfast.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from conftest import Made, Standfast


def proven(standfast: Standfast, vault: Made) -> Mapping[str, Mapping[str, int]]:
    path = standfast.folder / "state/standfast/vaults" / vault.id / "proven.json"
    return dict(json.loads(path.read_text())["archives"])


def send(standfast: Standfast, vault: Made, name: str) -> str:
    words = ("backup", "send", "--stdin", name, vault.path, "--json")
    archive: str = standfast(*words, stdin=name.encode() * 50_000).json()["archive"]
    return archive


def test_each_level_is_noted_with_its_time(standfast: Standfast, vault: Made) -> None:
    """A directory is read here, so the hashes count as fetched."""
    archive = send(standfast, vault, "one")
    before = int(time.time())
    standfast("backup", "verify", vault.path, "--level", "listing")
    standfast("backup", "verify", vault.path)
    deep = ("--level", "decrypt", "--identity", vault.key)
    standfast("backup", "verify", vault.path, *deep)

    found = proven(standfast, vault)

    assert {archive} == set(found)
    assert {"listing", "fetch", "decrypt"} == set(found[archive])
    assert all(before <= t <= time.time() for t in found[archive].values())


def test_damage_is_noted_until_it_is_mended(standfast: Standfast, vault: Made) -> None:
    """One altered archive is marked, the other proven; the mark goes with a proof."""
    good, bad = send(standfast, vault, "good"), send(standfast, vault, "bad")
    victim = vault.path / "archives" / bad / "00000000.zst.age"
    whole = victim.read_bytes()
    victim.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    standfast("backup", "verify", vault.path, ok=13)

    found = proven(standfast, vault)
    assert {"fetch"} == set(found[good])
    assert {"damaged"} == set(found[bad])

    # A look at the listing does not see altered bytes, and absolves nothing.
    standfast("backup", "verify", vault.path, "--level", "listing")
    assert {"damaged", "listing"} == set(proven(standfast, vault)[bad])

    victim.write_bytes(whole)
    standfast("backup", "verify", vault.path, bad)
    found = proven(standfast, vault)
    assert {"fetch", "listing"} == set(found[bad])
    assert good in found


def test_a_stranger_leaves_no_trace(standfast: Standfast, vault: Made) -> None:
    """A machine that does not know the vault verifies, and remembers nothing."""
    send(standfast, vault, "one")
    other = standfast.elsewhere()
    other("backup", "verify", vault.path, "--signer", vault.signer)

    assert not (standfast.folder / "state-elsewhere").exists()


def test_archives_that_are_gone_drop_out(tmp_path: Path) -> None:
    """The file does not grow for ever."""
    state = VaultState(tmp_path, "ab" * 16, SystemClock())
    note_proven(state, DAMAGED, ["a", "b"], 100.5)
    note_proven(state, RESTORE, ["b"], 200, present={"b", "c"})

    assert {"b": {"restore": 200}} == read_proven(state)
