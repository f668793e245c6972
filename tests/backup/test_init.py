"""Making a vault: whole, or not at all, and never over something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vaults import in_memory, make_owned, verified

from standfast.backup.model import SIGNATURE
from standfast.errors import AlreadyThereError, StoreError
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Made, Standfast

    from standfast.backup.stores import Buffer


class Dying(MemoryStore):
    """Takes so many objects and then no more."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def put(self, name: str, data: Buffer) -> None:
        if self.lives == 0:
            raise StoreError("the machine was reset", transient=False)
        self.lives -= 1
        super().put(name, data)


def test_a_new_vault_is_whole(tmp_path: Path) -> None:
    """A vault that was just made verifies, and its signature came last."""
    store = MemoryStore()
    make_owned(store, tmp_path)
    assert 0 == verified(store, tmp_path).status
    assert SIGNATURE == list(store.objects)[-1]


@pytest.mark.parametrize("lives", range(5))
def test_an_interrupted_init(tmp_path: Path, lives: int) -> None:
    """Cut off at any object, it can be made again at the same place."""
    store = Dying(lives)
    with pytest.raises(StoreError, match="reset"):
        make_owned(store, tmp_path)
    assert lives == len(store.objects)
    again = in_memory(store.objects)
    owned = make_owned(again, tmp_path)
    assert 0 == verified(again, tmp_path).status
    owned.send("x", b"data")
    assert b"data" == owned.restored("x")


@pytest.mark.parametrize("name", ["their file", "archives/x", SIGNATURE, ".hidden"])
def test_something_else_lies_there(tmp_path: Path, name: str) -> None:
    """A place where anything else lies is left as it is."""
    store = MemoryStore()
    store.create()
    store.objects[name] = b"theirs"
    with pytest.raises(AlreadyThereError):
        make_owned(store, tmp_path)
    assert {name: b"theirs"} == store.objects
    assert not (tmp_path / "vaults").exists()


def test_each_vault_has_keys_of_its_own(tmp_path: Path) -> None:
    """Two vaults share no id, no recipient and no signing key."""
    one, other = (make_owned(MemoryStore(str(n)), tmp_path) for n in range(2))
    assert one.vault().info.vault != other.vault().info.vault
    assert one.vault().info.recipient != other.vault().info.recipient
    assert one.signer() != other.signer()


def test_nothing_is_sent_into_an_unfinished_vault(
    standfast: Standfast, vault: Made
) -> None:
    """A vault whose root was never signed takes no archive."""
    (vault.path / "SHA256SUMS.minisig").unlink()
    words = ("backup", "send", "--stdin", "x", vault.path)
    refused = standfast(*words, stdin=b"data", ok=13)
    assert "never finished" in refused.err
    assert not (vault.path / "archives").exists()
