"""Pruning a vault: signed, remembered, safe from crashes, hosts and thieves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning import DAILY, DAY, START, Farm
from vaults import BytesProducer, nothing

from standfast.backup.clean import clean, plan_clean
from standfast.backup.memory import read_seen
from standfast.backup.minisign import Signature
from standfast.backup.plan import SendPlan
from standfast.backup.proof import COMMITTED, GONE
from standfast.backup.removals import Removal, Removed, seal_removal
from standfast.backup.retention import Policy
from standfast.backup.send import Sender, send_archive
from standfast.backup.state import SENDER
from standfast.backup.sums import NONE, parse_statement
from standfast.backup.vault import pin
from standfast.errors import DamagedError, StandfastError, StoreError, UsageError
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    farm = Farm(tmp_path)
    farm.prune(None)
    return farm


def test_a_policy_is_carried_out_and_stated(farm: Farm) -> None:
    """What goes is named by a signed removal, and everybody agrees that it is right."""
    sent = farm.days(6)
    removal = farm.prune()
    assert removal is not None
    assert set(sent[:3]) == {gone.archive for gone in removal.removed}
    assert set(sent[3:]) == farm.held()
    assert (1, NONE) == (removal.number, removal.previous)
    assert (0, "") == farm.verdict("web")
    assert (0, "") == farm.verdict("keeper")
    farm.days(1)
    second = farm.prune()
    assert second is not None
    assert (2, sent[3]) == (second.number, second.removed[0].archive)
    assert (0, "") == farm.verdict("web")
    assert farm.prune() is None


def test_the_sender_still_misses_what_nobody_stated(farm: Farm) -> None:
    """A removal excuses the archives that it names and no others."""
    sent = farm.days(5)
    farm.prune()
    farm.store.delete_folder(f"archives/{sent[-1]}")
    for machine in ("web", "keeper"):
        status, text = farm.verdict(machine)
        assert 13 == status
        assert f"archives/{sent[-1]}: missing: the whole archive" in text
        assert sent[0] not in text


def test_removals_by_a_pruner_that_is_not_known(farm: Farm) -> None:
    """A reader that was not told of the pruner calls it distrust, and says why."""
    farm.days(5)
    farm.prune()
    vault = farm.vault("web")
    assert vault.record is not None
    senders = [s for s in vault.record.signers if s.role == SENDER]
    vault.state.save_record(msgspec.structs.replace(vault.record, signers=senders))
    status, text = farm.verdict("web")
    assert 14 == status
    assert "a removal signed by" in text
    assert "missing: the whole archive" in text


def test_a_senders_key_states_no_removal(farm: Farm) -> None:
    """The thief of a sender cannot excuse what he has a host delete."""
    sent = farm.days(3)
    vault = farm.vault("web")
    key = vault.state.make_signer_key()
    known = vault.state.ledger().sent[sent[0]]
    gone = Removed(
        archive=sent[0], sums=known.sums, signer=key.public.text, sequence=1, why="-"
    )
    removal = Removal(
        format=1, vault=vault.info.vault, number=1, previous=NONE, time=START,
        removed=[gone],
    )  # fmt: skip
    document, signature = seal_removal(removal, key)
    folder = f"removals/{key.public.key_id}-00000001"
    farm.store.put(f"{folder}/removal.json", document)
    farm.store.put(f"{folder}/removal.json.minisig", signature)
    farm.store.delete_folder(f"archives/{sent[0]}")
    for machine in ("web", "keeper"):
        status, text = farm.verdict(machine)
        assert 14 == status
        assert "a removal by a sender's key, which may not remove anything" in text
        assert f"archives/{sent[0]}: missing" in text
    with pytest.raises(DamagedError, match="lost something"):
        farm.prune(Policy(daily=1, min_age=0))


def test_no_ancestor_goes(farm: Farm) -> None:
    """z3#25: a rule that looks at single archives leaves chains without a head."""
    farm.clock.sleep(DAY)
    chain = [farm.send()]
    farm.prune(None)
    for _ in range(6):
        farm.clock.sleep(DAY)
        chain.append(farm.send(base=chain[-1]))
        farm.prune(None)
    assert farm.prune() is None
    farm.clock.sleep(DAY)
    full = farm.send()
    farm.prune(None)
    assert farm.prune(Policy(daily=2, min_age=0)) is None
    farm.clock.sleep(DAY)
    newer = farm.send(base=full)
    farm.prune(None)
    removal = farm.prune(Policy(daily=2, min_age=0))
    assert removal is not None
    assert chain[::-1] == [gone.archive for gone in removal.removed]
    assert {full, newer} == farm.held()
    assert (0, "") == farm.verdict("web")


class Meanwhile(BytesProducer):
    """Does something else while it is read."""

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__(b"data")
        self._what = what

    def read(self, room: memoryview) -> int:
        self._what()
        return super().read(room)


def test_a_base_that_is_pruned_while_it_is_sent_on(farm: Farm) -> None:
    """sanoid#376: the increment is not committed; the next send finds another base."""
    base = farm.days(1)[0]
    farm.days(1)
    vault = farm.vault("web")
    plan = SendPlan("tank/x@s", (), None, 0, "-", dataset=1, base=base)
    sender = Sender(farm.clock, "web", {}, 1, nothing, index=False)
    producer = Meanwhile(lambda: farm.prune(Policy(daily=1, min_age=0)))
    with pytest.raises(DamagedError, match="which this is an increment on, is gone"):
        send_archive(vault, plan, producer, sender)
    status, text = farm.verdict("web")
    assert 0 == status, text
    assert "cannot be restored" not in text


def test_a_vault_that_was_there_before(tmp_path: Path) -> None:
    """Nothing that was there at the first look goes, until the owner vouches once."""
    farm = Farm(tmp_path)
    sent = []
    for _ in range(8):
        farm.clock.sleep(DAY)
        sent.append(farm.send())
    farm.clock.sleep(30 * DAY)
    assert farm.prune() is None
    farm.clock.sleep(30 * DAY)
    assert farm.prune() is None
    removal = farm.prune(vouched=True)
    assert removal is not None
    assert set(sent[5:]) == farm.held()
    assert (0, "") == farm.verdict("web")


def test_a_signer_that_comes_later_is_dated_from_then(farm: Farm) -> None:
    """What a sender had stored before its key counted has no time either."""
    farm.days(2)
    db = farm.folder / "db"
    db.mkdir()
    vault = farm.vault("db")
    pin(vault, vault.info.recipient)
    early = farm.send("db", 7)
    farm.clock.sleep(DAY)
    farm.prune(None)
    farm.trust("keeper", farm.key("db"), SENDER, "db")
    farm.prune(None)
    farm.clock.sleep(9 * DAY)
    late = farm.send("db", 7)
    farm.prune(None)
    seen = read_seen(farm.vault("keeper").state).archives
    assert seen[early].time is None
    assert int(farm.clock.now()) == seen[late].time


def test_signed_times_count_between_two_looks_only(farm: Farm) -> None:
    """A pruner that looks once a week knows the days, but not beyond its looks."""
    honest = []
    for _ in range(7):
        farm.clock.sleep(DAY)
        honest.append(farm.send())
    since = int(farm.clock.now()) - 7 * DAY
    farm.prune(None)
    seen = read_seen(farm.vault("keeper").state).archives
    assert [since + DAY * (i + 1) for i in range(7)] == [seen[a].time for a in honest]
    back, ahead = (forged(farm, time) for time in (5, START * 2))
    farm.clock.sleep(DAY)
    farm.prune(None)
    seen = read_seen(farm.vault("keeper").state).archives
    assert since + 7 * DAY + 1 == seen[back].time
    assert int(farm.clock.now()) == seen[ahead].time


def forged(
    farm: Farm,
    time: int,
    base: str = NONE,
    machine: str = "web",
    dataset: int | None = 1,
    keep_line: str = "",
) -> str:
    """What a thief of the sending machine can do: sign anything with its key."""
    vault = farm.vault(machine)
    plan = SendPlan("tank/fake@s", (), None, 0, "-", dataset=dataset, base=base)
    clock = dataclasses.replace(farm.clock, seconds=time)
    sender = Sender(clock, machine, {}, 1, nothing, index=False)
    made = send_archive(vault, plan, BytesProducer(b"fake"), sender).archive
    if keep_line:
        resign(farm, made, machine, keep_line)
    return made


def resign(farm: Farm, archive: str, machine: str, line: str) -> None:
    """Let an archive of a thief state another line."""
    name = f"archives/{archive}/SHA256SUMS"
    objects = farm.objects()
    key = farm.vault(machine).state.make_signer_key()
    comment = Signature.parse(objects[f"{name}.minisig"]).trusted_comment
    statement = dataclasses.replace(parse_statement(comment, "test"), line=line)
    objects[f"{name}.minisig"] = key.sign(objects[name], statement.text()).encode()


def line_of(farm: Farm, archive: str) -> str:
    signature = farm.objects()[f"archives/{archive}/SHA256SUMS.minisig"]
    comment = Signature.parse(signature).trusted_comment
    return parse_statement(comment, "test").line


FIRST = Policy(last=5, daily=7, weekly=5, monthly=6, yearly=2)


def test_restic_22057(farm: Farm) -> None:
    """A thief of a sender floods, back-dates and future-dates; nothing good is lost.

    restic/restic#22057: with the client's times, fake snapshots that look older or
    newer than the good ones make the next ``forget`` remove those.
    """
    good = farm.days(20)
    before = farm.look(FIRST).plan
    kept = {a for a, d in before.decisions.items() if d.keep}
    assert kept < set(good)
    farm.prune(FIRST)
    now = int(farm.clock.now())
    others = farm.meet("db", SENDER)
    assert others
    for number in range(15):
        for time in (0, now - number * DAY, now + number * DAY, 2**40):
            forged(farm, time)
            forged(farm, time, base=good[-1])
            forged(farm, time, machine="db", keep_line=line_of(farm, good[-1]))
    assert 180 < len(farm.held())
    for hours in range(3):
        farm.clock.seconds = now + 3600 * hours
        farm.prune(FIRST)
        assert kept <= farm.held()
    # The next days the thief goes on; what a rule of N days kept, it keeps that long.
    for day in range(1, 4):
        farm.clock.seconds = now + day * DAY
        for time in (0, now, 2**40):
            forged(farm, time)
        farm.prune(FIRST, most="100%")
        safe = [a for n, a in enumerate(good[::-1]) if n + day + 1 < FIRST.daily]
        assert set(safe) <= farm.held()
    assert 0 == farm.verdict("keeper")[0]


def test_a_thief_joins_no_lines(farm: Farm) -> None:
    """Increments of one dataset on archives of another make them no single line."""
    a, b = [], []
    for _ in range(4):
        farm.clock.sleep(DAY)
        a.append(farm.send(dataset=1))
        b.append(farm.send(dataset=2))
        farm.prune(None)
    forged(farm, 0, base=a[0], dataset=2)
    forged(farm, 0, base=b[0], dataset=1)
    farm.clock.sleep(60)
    farm.prune(DAILY)
    assert {*a[1:], *b[1:]} <= farm.held()


def test_a_sender_that_was_set_up_anew(farm: Farm) -> None:
    """Its datasets go on in their lines if the owner says so, and only then."""
    old = farm.days(3)
    fresh = farm.meet("web2", SENDER)
    farm.trust("keeper", fresh, SENDER, "web2", replaces=farm.key("web"))
    first = farm.send("web2", 1, base=old[-1])
    farm.clock.sleep(DAY)
    farm.prune(None)
    second = farm.send("web2", 1)
    stranger = farm.meet("db", SENDER)
    assert stranger
    farm.prune(None)
    other = farm.send("db", 1, base=old[-1])
    farm.clock.sleep(DAY)
    farm.prune(None)
    seen = read_seen(farm.vault("keeper").state).archives
    assert seen[old[0]].line == seen[first].line == seen[second].line
    assert seen[other].line != seen[old[0]].line


def test_a_flood_is_stopped_by_the_cap(farm: Farm) -> None:
    """A run that would remove more than half of a large vault removes nothing."""
    sent = farm.days(60)
    with pytest.raises(StandfastError, match="57 of 60 archives would go") as caught:
        farm.prune()
    assert "--max-remove" in caught.value.hint
    assert set(sent) == farm.held()
    with pytest.raises(StandfastError, match="one run may remove 56"):
        farm.prune(most="56")
    with pytest.raises(UsageError, match="not a number of archives: many"):
        farm.prune(most="many")
    assert farm.prune(most="95%") is not None
    assert set(sent[57:]) == farm.held()


def test_the_clock_may_not_go_back(farm: Farm) -> None:
    farm.days(2)
    farm.clock.seconds -= 60
    farm.prune()
    farm.clock.seconds -= 600
    with pytest.raises(StandfastError, match="clock is 660 s behind"):
        farm.prune()


# --- what the host does ------------------------------------------------------------


def test_a_removed_archive_that_is_put_back(farm: Farm) -> None:
    """It counts no more, for nobody, and goes at the next prune or clean."""
    sent = farm.days(5)
    before = farm.save()
    farm.prune()
    after = farm.save()
    farm.put_back(before | after)
    assert set(sent) == farm.held()
    survey, _ = farm.vault("web").survey(farm.vault("web").trust([]))
    standing = {a.id: a.standing for a in survey.archives}
    assert [GONE] * 2 == [standing[a] for a in sent[:2]]
    status, text = farm.verdict("web")
    assert 0 == status
    assert "left over: a removal names this archive" in text
    steps = plan_clean(survey, {}, [])
    assert {f"archives/{a}" for a in sent[:2]} == {s.object for s in steps}
    clean(farm.vault("web"), steps)
    assert set(sent[2:]) == farm.held()
    farm.put_back(before | after)
    assert farm.prune() is None
    assert set(sent[2:]) == farm.held()


@pytest.mark.parametrize("machine", ["web", "keeper"])
def test_an_older_copy_of_the_vault(farm: Farm, machine: str) -> None:
    """Sender and pruner both miss what came since."""
    farm.days(3)
    older = farm.save()
    sent = farm.days(3)
    farm.prune()
    farm.put_back(older)
    status, text = farm.verdict(machine)
    assert 13 == status
    assert f"archives/{sent[-1]}: missing: the whole archive" in text
    with pytest.raises(DamagedError):
        farm.prune(Policy(daily=1, min_age=0))
    assert set(farm.held()) == {n.split("/")[1] for n in older if "archives/" in n}


def test_a_hidden_removal(farm: Farm) -> None:
    """With its archives put back, only those who have seen it can tell."""
    farm.days(4)
    first = farm.save()
    farm.prune()
    farm.put_back(first)
    status, text = farm.verdict("keeper")
    assert 13 == status
    assert "removals: missing: removal number 1 was seen from here" in text
    with pytest.raises(DamagedError, match="lost something"):
        farm.prune(Policy(daily=1, min_age=0))


def test_a_removal_in_the_middle_is_hidden(farm: Farm) -> None:
    """The next one names it."""
    farm.days(4)
    farm.prune()
    farm.days(1)
    farm.prune()
    objects = farm.objects()
    for name in [n for n in objects if "-00000001/" in n]:
        del objects[name]
    status, text = farm.verdict("web")
    assert 13 == status
    assert "what its pruner stated before it is missing" in text


def test_every_byte_of_a_removal_is_signed(farm: Farm) -> None:
    """Flipped, cut, renamed or swapped, it is found by who trusts the pruner."""
    farm.days(4)
    farm.prune()
    farm.days(1)
    farm.prune()
    good = farm.save()
    names = [n for n in good if n.startswith("removals/")]
    assert 4 == len(names)
    broken = []
    for name in names:
        data = good[name]
        broken += [
            {name: data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]}
            for i in range(0, len(data), 7)
        ]
        broken += [{name: data[:-1]}, {name: b""}, {name: data + b" "}]
    one, two = (sorted(n for n in names if f"-0000000{i}/" in n) for i in (1, 2))
    broken.append({a: good[b] for a, b in zip((*one, *two), (*two, *one), strict=True)})
    renamed = {n.replace("-00000002/", "-00000007/"): good[n] for n in two}
    for change in broken:
        farm.put_back(good | change)
        assert farm.verdict("web")[0] in {13, 14}, change
    farm.put_back({n: d for n, d in good.items() if n not in two} | renamed)
    assert 13 == farm.verdict("web")[0]


def test_an_archive_that_is_signed_anew(farm: Farm) -> None:
    """A thief with the key and the host cannot change what a seen archive states."""
    sent = farm.days(2)
    resign(farm, sent[0], "web", "ab" * 16)
    assert 0 == farm.verdict("keeper")[0]
    seen = read_seen(farm.vault("keeper").state).archives
    farm.prune(None)
    again = read_seen(farm.vault("keeper").state).archives
    assert seen[sent[0]].line == again[sent[0]].line


# --- by name ----------------------------------------------------------------------


def test_drop_what_is_lost(farm: Farm) -> None:
    """A loss is acknowledged once, by a removal; then everybody is at peace with it."""
    sent = farm.days(3)
    farm.store.delete_folder(f"archives/{sent[1]}")
    assert 13 == farm.verdict("web")[0]
    removal = farm.prune(None, drop=[sent[1][:8]])
    assert removal is not None
    assert [sent[1]] == [gone.archive for gone in removal.removed]
    assert (0, "") == farm.verdict("web")
    assert (0, "") == farm.verdict("keeper")


def test_drop_what_is_damaged(farm: Farm) -> None:
    """Sums that were altered: what was sent and what lies there are both named."""
    sent = farm.days(3)
    objects = farm.objects()
    objects[f"archives/{sent[1]}/SHA256SUMS"] += b"\n"
    assert 13 == farm.verdict("web")[0]
    farm.prune(None, drop=[sent[1]])
    assert {sent[0], sent[2]} == farm.held()
    assert (0, "") == farm.verdict("web")


def test_drop_needs_a_good_name(farm: Farm) -> None:
    farm.clock.sleep(DAY)
    full = farm.send()
    increment = farm.send(base=full)
    farm.prune(None)
    with pytest.raises(UsageError, match="no archives begin with 'xyz'"):
        farm.prune(None, drop=["xyz"])
    with pytest.raises(UsageError, match="1 increments that stay need") as caught:
        farm.prune(None, drop=[full])
    assert increment in caught.value.message
    removal = farm.prune(None, drop=[full, increment])
    assert removal is not None
    assert [increment, full] == [gone.archive for gone in removal.removed]


# --- crashes ----------------------------------------------------------------------


class Crash(BaseException):
    """The machine is gone."""


class CrashingStore(MemoryStore):
    """Fails at its n-th change, before or after it is done."""

    left = -1
    when = "before"

    def _step(self) -> bool:
        self.left -= 1
        if self.left == 0 and self.when == "before":
            raise Crash
        return self.left == 0

    def put(self, name: str, data: object) -> None:
        dies = self._step()
        super().put(name, data)  # type: ignore[arg-type]
        if dies:
            raise Crash

    def delete(self, name: str) -> None:
        dies = self._step()
        super().delete(name)
        if dies:
            raise Crash

    def delete_folder(self, name: str) -> None:
        """Object by object, as the far end does it."""
        for inside in sorted(n for n in self.objects if n.startswith(f"{name}/")):
            dies = self._step()
            del self.objects[inside]
            if dies:
                raise Crash

    def make_stable(self, folder: str) -> None:
        dies = self._step()
        super().make_stable(folder)
        if dies:
            raise Crash


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step(tmp_path: Path, when: str) -> None:
    """At every step all verify the vault, and the next prune finishes it."""
    crashes = 0
    for at in range(1, 40):
        store = CrashingStore()
        store.when = when
        farm = Farm(tmp_path / f"{at}", store)
        farm.prune(None)
        sent = farm.days(5)
        store.left = at
        try:
            farm.prune()
        except Crash:
            crashes += 1
        else:
            break
        store.left = -1
        for machine in ("web", "keeper"):
            status, text = farm.verdict(machine)
            assert 0 == status, (at, text)
        # A reader that knows only the sender never takes what is half gone for whole.
        assert set(sent[2:]) <= farm.held()
        farm.prune()
        assert set(sent[2:]) == farm.held(), at
        assert (0, "") == farm.verdict("web"), at
        assert (0, "") == farm.verdict("keeper"), at
        assert farm.prune() is None
    # Document, flush, signature, flush; per archive its signature and three objects.
    assert 10 <= crashes < 39


def test_a_store_that_fails_is_no_loss(farm: Farm) -> None:
    """A full disk, a dropped connection: the archives stay, or are stated as gone."""
    sent = farm.days(5)

    class Full(MemoryStore):
        def put(self, name: str, data: object) -> None:
            del data
            raise StoreError(f"{name}: no space left on device", transient=False)

    full = Full()
    full.create()
    full.objects = farm.objects()
    farm.store = full
    with pytest.raises(StoreError, match="no space"):
        farm.prune()
    assert set(sent) == farm.held()
    assert 0 == farm.verdict("web")[0]


# --- a law over whole lives -----------------------------------------------------------


@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from(["send", "increment", "prune", "day", "hour", "forge", "hide"]),
        min_size=5,
        max_size=25,
    )
)
def test_whatever_happens_the_vault_is_whole(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Sends, forgeries and prunes in any order: all verify, chains have their bases."""
    farm = Farm(tmp_path_factory.mktemp("life"))
    farm.prune(None)
    last = NONE
    for step in steps:
        if step in {"send", "increment"}:
            last = farm.send(base=last if step == "increment" else NONE)
        elif step == "prune":
            farm.prune()
        elif step == "forge":
            forged(farm, 0, base=last)
        elif step == "hide":
            # A host that shows less for a while makes nothing go.
            objects = farm.save()
            shown = {n: d for n, d in objects.items() if last not in n}
            if last != NONE and len(shown) < len(objects):
                farm.put_back(shown)
                farm.look(DAILY)
                farm.put_back(objects)
        else:
            farm.clock.sleep(DAY if step == "day" else 3600)
    farm.prune()
    status, text = farm.verdict("web")
    assert (0, "") == (status, text)
    survey, _ = farm.vault("web").survey(farm.vault("web").trust([]))
    whole = {a.id for a in survey.archives if a.standing == COMMITTED}
    assert whole == farm.held()
    for archive in survey.archives:
        assert archive.statement is not None
        assert archive.statement.base in {NONE, *whole}
