"""One dataset into one vault: plan by GUID, mark, send, promote.

Each step may be the last one before the machine dies:

1. The marks of dead sends are taken away, except of those to be gone on with.
2. A tentative mark keeps the target (bookmark, or hold).
3. The archive is sent and committed. Until now nothing counts.
4. The property names the archive: the mark counts. A death between 3 and 4 is made
   good by the ledger, which knew the archive before it was committed.
5. Marks that were outgrown are taken away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from standfast.backup.chain import (
    SEND,
    ChainPlan,
    Mark,
    Request,
    plan_chain,
    whole_chains,
)
from standfast.backup.marks import (
    Memory,
    Site,
    holders,
    parse_memory,
    plan_tidy,
    promote,
    property_name,
    protect,
    remembered,
    tidy,
)
from standfast.backup.minisign import PublicKey
from standfast.backup.plan import SendPlan, plan_send, send_words
from standfast.backup.resume import choose_draft
from standfast.backup.send import (
    CommandProducer,
    Draft,
    Outcome,
    archive_kind,
    send_archive,
)
from standfast.errors import CommandError
from standfast.zfs.streams import estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from standfast.backup.proof import Trust
    from standfast.backup.send import Sender
    from standfast.backup.state import Ledger
    from standfast.backup.vault import Vault
    from standfast.host import Host
    from standfast.zfs.listing import Dataset, Listing


@dataclass(frozen=True)
class Source:
    """Datasets, and what is known of them in one vault.

    Attributes:
        host: the machine with the pool.
        vault: the vault.
        listing: all datasets in question, read with ``properties_of(vault)``.
        ledger: what this machine sent.
        held: archive id -> SHA-256 of its sums, for whole chains that the vault was
            proven to have.
        note: told what a person should know and what hinders nothing.
    """

    host: Host
    vault: Vault
    listing: Listing
    ledger: Ledger
    held: Mapping[str, str]
    note: Callable[[str], None]


def properties_of(vault: Vault) -> list[str]:
    """Return the user properties that ``list_tree`` must read for a vault."""
    return [property_name(vault.info.vault, tree=tree) for tree in (False, True)]


def open_source(
    host: Host,
    vault: Vault,
    listing: Listing,
    trust: Trust,
    note: Callable[[str], None],
) -> Source:
    """Return what planning needs; the vault is surveyed once, if it can matter.

    Besides the pinned keys those count that the pool itself remembers: a sender
    that was set up anew has a new key, and its old archives are still there.
    """
    ledger = vault.state.ledger()
    sent_here = any(sent.guid for sent in ledger.sent.values())
    memories = [
        remembered(dataset, vault.info.vault, ledger, tree=tree)
        for dataset in listing.datasets.values()
        for tree in (False, True)
    ]
    held: dict[str, str] = {}
    if sent_here or any(memory.marks for memory in memories):
        signers = {PublicKey.parse(s) for memory in memories for s in memory.signers}
        wider = replace(trust, keys=trust.keys | signers)
        survey, _ = vault.survey(wider)
        held = whole_chains(survey.archives)
        ledger = vault.state.ledger()
    return Source(host, vault, listing, ledger, held, note)


def plan_dataset(source: Source, request: Request) -> ChainPlan:
    """Decide what to send of one dataset; nothing is changed.

    Raises:
        UsageError: what is wanted cannot be sent, or cannot follow what was.
        CommandError: zfs cannot list its holds (asked for trees only).
    """
    dataset = source.listing.dataset(request.dataset)
    memory = _memory(source, dataset, request)
    unfinished = {
        int(one.begun.guid)
        for one in source.vault.state.resumable()
        if one.begun.dataset == str(dataset.guid)
        and ("-R" in one.begun.flags) == request.tree
        and not one.alive
    }
    request = replace(request, finish=frozenset(unfinished))
    kept = None
    if request.tree and memory.marks:
        site = _site(source, request)
        points = [
            point
            for each in source.listing.below(request.dataset)
            for point in each.snapshots
            if point.holds
        ]
        kept = frozenset(p.guid for p in holders(source.host, points, site.tag))
    return plan_chain(source.listing, memory.marks, source.held, request, kept)


def size_of(source: Source, chain: ChainPlan, request: Request) -> int:
    """Return about how many bytes a plan's stream will have; 0 if zfs cannot say.

    Old systems cannot; a full stream is a little more than what it refers to.
    """
    words = send_words(chain, request)[2:]
    full = chain.base is None and not request.tree
    return estimate(source.host, words, chain.target.referenced if full else 0)


@dataclass(frozen=True)
class Sending:
    """One archive about to be made.

    Attributes:
        plan: what.
        draft: as what; it may hold segments of an interrupted send.
    """

    plan: SendPlan
    draft: Draft


def begin(
    source: Source, chain: ChainPlan, request: Request, sender: Sender
) -> Sending:
    """Tidy, choose between a new archive and an interrupted one, and mark.

    Raises:
        StoreError: the store cannot be asked about what was interrupted.
    """
    plan = plan_send(chain, request, size_of(source, chain, request))
    draft = choose_draft(source.vault, plan, sender.level, source.note)
    site = _site(source, request)
    try:
        _tidy(source, site, request)
        protect(site, chain.target, draft.archive)
    except CommandError as error:
        source.note(f"{chain.target.name} could not be marked: {error.message}")
    return Sending(plan, draft)


def send(
    source: Source, chain: ChainPlan, request: Request, sending: Sending, sender: Sender
) -> Outcome:
    """Send what was begun, and make its mark count.

    Raises:
        CommandError: zfs send failed.
        StreamError: what it gave is no whole stream of what was planned.
        StoreError: the store failed for good.
    """
    vault = source.vault
    producer = CommandProducer(source.host.spawn(sending.plan.command))
    outcome = send_archive(vault, sending.plan, producer, sender, sending.draft)
    _promote(source, chain, request, outcome)
    return outcome


def settle(source: Source, chain: ChainPlan, request: Request) -> None:
    """Where there is nothing to send, make up for a death just after a commit.

    The pool does not name the archive then, or more is held than is needed; in all
    other cases no command is run.
    """
    name = property_name(source.vault.info.vault, tree=request.tree)
    known = parse_memory(chain.dataset.properties.get(name, ""))
    holding = request.tree or not source.listing.bookmarks
    spare = [p for p in chain.dataset.snapshots if p.holds and p != chain.target]
    if chain.mark is None or (chain.mark in known.marks and not (holding and spare)):
        return
    memory = _memory(source, chain.dataset, request)
    key = source.vault.state.signer_key()
    if key is not None:
        memory = memory.plus(chain.mark, key.public.text)
    _make_count(source, chain, request, memory)


def send_dataset(
    source: Source, request: Request, sender: Sender
) -> tuple[ChainPlan, Outcome | None]:
    """Plan and send one archive of a dataset.

    Returns:
        The plan, and the archive unless there was nothing to send. With
        ``plan.more`` another one is to follow: list, open and send again.
    """
    chain = plan_dataset(source, request)
    if chain.action != SEND:
        settle(source, chain, request)
        return chain, None
    sending = begin(source, chain, request, sender)
    return chain, send(source, chain, request, sending, sender)


def _memory(source: Source, dataset: Dataset, request: Request) -> Memory:
    vault = source.vault.info.vault
    return remembered(dataset, vault, source.ledger, tree=request.tree)


def _site(source: Source, request: Request) -> Site:
    return Site(
        host=source.host,
        vault=source.vault.info.vault,
        tree=request.tree,
        bookmarks=source.listing.bookmarks,
    )


def _tidy(source: Source, site: Site, request: Request) -> None:
    top = source.listing.dataset(request.dataset)
    _tidy_to(source, site, request, _memory(source, top, request))


def _tidy_to(source: Source, site: Site, request: Request, memory: Memory) -> None:
    """Take away marks that a memory does not need, and that no send needs."""
    top = source.listing.dataset(request.dataset)
    datasets = source.listing.below(top.name) if request.tree else [top]
    state = source.vault.state
    going = state.resumable()
    busy = {a for a, lives in state.started().items() if lives}
    busy |= {one.archive for one in going}
    guids = frozenset(int(o.begun.guid) for o in going)
    tidy(site, plan_tidy(site, datasets, memory, busy, guids))


def _promote(
    source: Source, chain: ChainPlan, request: Request, outcome: Outcome
) -> None:
    """Make the new mark count, and drop what it makes superfluous.

    What counts is what the stream said of itself, not what was planned.
    """
    stream = outcome.manifest.stream
    key = source.vault.state.signer_key()
    assert stream is not None
    assert key is not None
    kind = archive_kind(outcome.manifest, tree=request.tree)
    mark = Mark(
        guid=int(stream.guid),
        archive=outcome.archive,
        sums=outcome.sums,
        raw="w" in kind,
        large="L" in kind,
    )
    memory = _memory(source, chain.dataset, request).plus(mark, key.public.text)
    _forget_older(source, chain, request)
    _make_count(source, chain, request, memory)


def _make_count(
    source: Source, chain: ChainPlan, request: Request, memory: Memory
) -> None:
    site = _site(source, request)
    try:
        promote(site, chain.dataset, memory)
        _tidy_to(source, site, request, memory)
    except CommandError as error:
        source.note(f"{chain.dataset.name} could not be marked: {error.message}")


def _forget_older(source: Source, chain: ChainPlan, request: Request) -> None:
    """Let nothing go on with interrupted sends of snapshots before this one."""
    older = {
        str(point.guid)
        for point in chain.dataset.points
        if point.createtxg <= chain.target.createtxg
    }
    for one in source.vault.state.resumable():
        same = one.begun.dataset == str(chain.dataset.guid)
        tree = "-R" in one.begun.flags
        if same and tree == request.tree and one.begun.guid in older and not one.alive:
            source.vault.state.give_up(one.archive)
