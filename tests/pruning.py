"""Machines around one vault, with a clock that the test turns."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from vaults import SMALL, BytesProducer, nothing

from standfast.backup.init import Owner, Wanted, create_vault
from standfast.backup.plan import SendPlan
from standfast.backup.prune import Wish, carry_out, check_plan, look, remember
from standfast.backup.recipients import X25519Identity
from standfast.backup.retention import Policy
from standfast.backup.send import Sender, send_archive
from standfast.backup.signers import add_signer, predecessors
from standfast.backup.state import PRUNER, SENDER, Signer
from standfast.backup.sums import NONE
from standfast.backup.vault import Vault, know, open_vault, pin, with_own_key
from standfast.backup.verify import Level, Verifier, read_root, verify
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from conftest import Made, Standfast

    from standfast.backup.prune import Look
    from standfast.backup.removals import Removal
    from standfast.backup.stores import Store

DAY = 86_400
START = 1_767_225_600  # 2026-01-01 00:00:00Z
DAILY = Policy(daily=3, min_age=0)


def pruned_and_rewrapped(command: Standfast, vault: Made) -> None:
    """One machine does it all: what is removed is gone, what changes hands opens."""
    place = vault.address
    for name in ("one", "two"):
        command("backup", "send", "--stdin", name, place, stdin=b"data")
    command("backup", "prune", place, "--observe")
    listed = command("backup", "list", place, "--json").json()["archives"]
    ran = command("backup", "prune", place, "--drop", listed[0]["archive"], "--json")
    assert 1 == ran.json()["removal"]
    key = vault.key.with_name("new.key")
    words = ("-i", vault.key, "--new-identity", key, "--rotate")
    command("backup", "rewrap", place, *words)
    command("backup", "send", "--stdin", "three", place, stdin=b"data")
    ran = command("backup", "verify", place, "--level", "decrypt", "-i", key)
    assert "2 of 2 archives are whole" in ran.out
    ran = command("backup", "list", place, "-i", key, "--json")
    assert ["two", "three"] == [a["name"] for a in ran.json()["archives"]]
    command("backup", "list", place, "-i", vault.key, ok=12)


@dataclasses.dataclass
class TurnedClock:
    """Time as the test says."""

    seconds: float = START

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclasses.dataclass
class Farm:
    """A vault, and machines with a memory each.

    The machine ``web`` makes the vault; ``keeper`` prunes it.
    """

    folder: Path
    store: Store = dataclasses.field(default_factory=MemoryStore)
    clock: TurnedClock = dataclasses.field(default_factory=TurnedClock)
    owner: X25519Identity = dataclasses.field(default_factory=X25519Identity.generate)

    def __post_init__(self) -> None:
        owners = [Owner(self.owner.recipient, self.owner.recipient.text)]
        wanted = Wanted(owners, SMALL, "web")
        create_vault(self.store, wanted, self.folder / "web", self.clock)
        self.meet("keeper", PRUNER)

    def vault(self, machine: str = "web") -> Vault:
        return open_vault(self.store, self.folder / machine, self.clock)

    def key(self, machine: str, role: str = SENDER) -> str:
        return self.vault(machine).state.make_signer_key(role).public.text

    def meet(self, machine: str, role: str) -> str:
        """Let a machine in, and let all that are there know each other's keys."""
        vault = self.vault(machine)
        if vault.record is None:
            make = pin if role == SENDER else lambda v, r: know(v, r, [])
            vault = make(vault, vault.info.recipient)
        with_own_key(vault, role)
        key = self.key(machine, role)
        names = {path.name for path in self.folder.iterdir() if path.is_dir()}
        for other in names - {machine}:
            self.trust(other, key, role, machine)
            for signer in self.signers(other):
                if signer.name != "from elsewhere":
                    self.trust(machine, signer.key, signer.role, other)
        return key

    def signers(self, machine: str) -> list[Signer]:
        record = self.vault(machine).record
        assert record is not None
        return record.signers

    def trust(
        self, machine: str, key: str, role: str, name: str = "", replaces: str = ""
    ) -> None:
        vault = self.vault(machine)
        assert vault.record is not None
        if key in {s.key for s in vault.record.signers} and not replaces:
            return
        signer = Signer(key=key, name=name, role=role, replaces=replaces)
        vault.state.save_record(add_signer(vault.record, signer))

    def send(
        self,
        machine: str = "web",
        dataset: int | None = 1,
        base: str = NONE,
        name: str = "tank/home@s",
    ) -> str:
        """Send some bytes as if they were of a dataset; return the archive's id."""
        vault = self.vault(machine)
        plan = SendPlan(name, (), None, 0, "as told", dataset=dataset, base=base)
        sender = Sender(self.clock, machine, {}, 1, nothing, index=False)
        data = os.urandom(100)
        return send_archive(vault, plan, BytesProducer(data), sender).archive

    def days(self, count: int, machine: str = "web", dataset: int = 1) -> list[str]:
        """Send one a day, each seen by the pruner; the clock stays at the last."""
        sent = []
        for _ in range(count):
            self.clock.sleep(DAY)
            sent.append(self.send(machine, dataset))
            self.prune(None)
        return sent

    def wish(self, policy: Policy | None, **more: object) -> Wish:
        record = self.vault("keeper").record
        now = int(self.clock.now())
        wish = Wish(policy, now, predecessors(record))
        return dataclasses.replace(wish, **more)  # type: ignore[arg-type]

    def look(self, policy: Policy | None, **more: object) -> Look:
        vault = self.vault("keeper")
        return look(vault, vault.trust([]), self.wish(policy, **more))

    def prune(self, policy: Policy | None = DAILY, **more: object) -> Removal | None:
        """Do what the command does."""
        wish = self.wish(policy, **more)
        looked = self.look(policy, **more)
        vault = self.vault("keeper")
        remember(vault, looked)
        check_plan(looked.plan, wish.most)
        return carry_out(vault, looked, wish.now, nothing)

    def look_and_check(self) -> None:
        """Plan to drop the oldest, and check that one may."""
        policy = Policy(daily=1, min_age=0)
        looked = self.look(policy, drop=sorted(self.held())[:1])
        check_plan(looked.plan, None)

    def held(self) -> set[str]:
        """The archives of which anything lies there."""
        names = [entry.name.split("/") for entry in self.store.entries()]
        return {parts[1] for parts in names if parts[0] == "archives" and parts[1:]}

    def verdict(self, machine: str, level: Level = Level.HASH) -> tuple[int, str]:
        """What verify says on a machine: its status and findings."""
        vault = self.vault(machine)
        trust = vault.trust([])
        verifier = Verifier(level, self.store.digests, None, nothing)
        report = verify(vault, trust, [], verifier)
        _, trouble = read_root(vault, trust)
        texts = [f"{f.grade}: {f.object}: {f.text}" for f in report.all_findings()]
        texts += [f.text for f in trouble]
        return int(report.status()), "\n".join(texts)

    def save(self) -> dict[str, bytes]:
        """Copy of all that lies in the vault."""
        assert isinstance(self.store, MemoryStore)
        return dict(self.store.objects)

    def put_back(self, objects: Sequence[tuple[str, bytes]] | dict[str, bytes]) -> None:
        assert isinstance(self.store, MemoryStore)
        self.store.objects = dict(objects)

    def objects(self) -> dict[str, bytes]:
        assert isinstance(self.store, MemoryStore)
        return self.store.objects
