"""What a kit remembers comes back from its page, and what a pruner sees has bounds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.kit import KitSigner, compare_kit, kit_lines, read_kit
from standfast.backup.memory import CLOCK_SLACK, Seen, observe
from standfast.backup.minisign import SecretKey
from standfast.backup.model import VaultInfo, decode, encode
from standfast.backup.proof import COMMITTED, Archive, Survey
from standfast.backup.recovery import kit_text
from standfast.backup.removals import Head
from standfast.backup.state import ROLES, Revoked, Root, Signer
from standfast.backup.sums import NONE, Statement
from standfast.errors import StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

VAULT = "ab" * 16
RECIPIENT = "age1" + "q" * 58
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
keys = st.binary(min_size=8, max_size=8).map(
    lambda seed: SecretKey(seed, seed * 4).public.text
)


@st.composite
def kit_signers(draw: st.DrawFn) -> KitSigner:
    number = draw(st.integers(0, 10**6))
    digest = draw(digests) if number else NONE
    role = draw(st.sampled_from(ROLES))
    key = draw(keys)
    if draw(st.booleans()):
        archives = draw(st.dictionaries(ids, digests, max_size=3))
        revoked = Revoked(after=number, digest=digest, archives=archives)
        signer = Signer(key=key, name="from the kit", role=role, revoked=revoked)
        return KitSigner(signer=signer, last=Head(0, NONE))
    signer = Signer(key=key, name="from the kit", role=role)
    return KitSigner(signer=signer, last=Head(number, digest))


roots = st.none() | st.builds(Root, number=st.integers(0, 10**6), sums=digests)


@given(st.lists(kit_signers(), max_size=4), roots)
def test_a_page_holds_what_it_remembers(
    signers: list[KitSigner], root: Root | None
) -> None:
    """Page and JSON give the same back, to the digit."""
    info = VaultInfo(format=1, vault=VAULT, recipient=RECIPIENT, segment_size=65536)
    lines = kit_lines(signers, root, "2026-01-01 00:00:00Z")
    page = kit_text(info, "/srv/vault", ["age1x"], [], lines)
    document = {"vault": VAULT, "recipient": RECIPIENT}
    document |= {"heads": msgspec.to_builtins(signers)}
    document |= {"root": msgspec.to_builtins(root)}
    for text in (page, json.dumps(document)):
        kit = read_kit(text, "test")
        assert (VAULT, RECIPIENT) == (kit.vault, kit.recipient)
        assert signers == kit.signers
        assert root == kit.root
    # Lines that an editor has given other ends are the same lines.
    assert signers == read_kit(page.replace("\n", "\r\n"), "test").signers


@given(st.text())
def test_what_is_no_kit_is_said_to_be_none(text: str) -> None:
    with pytest.raises(UsageError, match="not a recovery kit"):
        read_kit(text, "test")


@given(st.lists(kit_signers(), min_size=1, max_size=3))
def test_an_empty_vault_has_lost_all_that_a_kit_remembers(
    signers: list[KitSigner],
) -> None:
    """One finding for each key that had signed something; no key, no finding."""
    page = "\n".join(
        [f"Vault:      {VAULT}", f"Recipient:  {RECIPIENT}",
         *kit_lines(signers, None, "now")]
    )  # fmt: skip
    kit = read_kit(page, "test")
    remembered = [s for s in signers if s.last.number]
    assert len(remembered) == len(compare_kit(kit, Survey(), None))


# --- what a pruner sees ---------------------------------------------------------------


@st.composite
def looks(draw: st.DrawFn) -> list[tuple[int, list[Archive]]]:
    """Looks at a growing vault: when, and the archives that are there."""
    now = 1_700_000_000
    there: list[Archive] = []
    found = []
    for _ in range(draw(st.integers(1, 4))):
        now += draw(st.integers(0, 10**6))
        for _ in range(draw(st.integers(0, 3))):
            signed = draw(st.integers(0, 2 * 10**9))
            there.append(an_archive(len(there) + 1, draw(ids), signed))
        found.append((now, list(there)))
    return found


def an_archive(sequence: int, archive: str, time: int) -> Archive:
    statement = Statement(
        "archive", VAULT, archive, 1, 1, sequence, NONE, time, NONE, "cd" * 16
    )
    return Archive(archive, COMMITTED, statement, "RWkey", {}, f"{sequence:064}", {})


@given(found=looks(), vouch=st.booleans())
def test_a_time_lies_between_two_looks(
    *, found: Sequence[tuple[int, list[Archive]]], vouch: bool
) -> None:
    """Whatever was signed: after the look before, and not after this one."""
    seen = Seen()
    before: int | None = None
    for now, archives in found:
        fresh = {a.id for a in archives} - seen.archives.keys()
        old = dict(seen.archives)
        seen = observe(
            seen, Survey(archives=archives), {"RWkey": ""}, now, vouched=vouch
        )
        times = [seen.archives[a.id].time for a in archives if a.id in fresh]
        for time in times:
            if before is None and not vouch:
                assert time is None
            elif time is not None:
                assert before is None or min(before + 1, now) <= time
                assert time <= now
        if before is not None:
            known = [time for time in times if time is not None]
            assert known == sorted(known)
        # What was recorded once does not change.
        assert old.items() <= seen.archives.items() or vouch
        orders = [entry.order for entry in seen.archives.values()]
        assert len(orders) == len(set(orders))
        assert seen == decode(encode(seen), Seen, "test")
        before = now
    assert seen == observe(seen, Survey(), {"RWkey": ""}, found[-1][0] - CLOCK_SLACK)
    late = found[-1][0] - CLOCK_SLACK - 1
    with pytest.raises(StandfastError, match="clock is 301 s behind"):
        observe(seen, Survey(), {"RWkey": ""}, late)
