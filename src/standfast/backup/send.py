"""Sending: a producer's bytes become a committed archive, or nothing at all.

The order is the safety: segments, manifest, sums, all of them on stable storage,
and only then the signature. Before it is written, the producer must have ended
well, and a send stream must have passed every check of zfs.records.
"""

from __future__ import annotations

import hashlib
import os
import platform
import select
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from standfast import __version__
from standfast.backup.age import encrypt
from standfast.backup.audit import Journal, Sampler
from standfast.backup.browse.making import IndexMaker
from standfast.backup.model import (
    FORMAT,
    INDEX_OBJECT,
    LARGEST_DOCUMENT,
    MANIFEST_OBJECT,
    SIGNATURE,
    SUMS,
    Fingerprints,
    Manifest,
    Segment,
    Stream,
    Substream,
    archive_folder,
    encode,
    segment_name,
)
from standfast.backup.sealing import Past, Recipe, SealingLine
from standfast.backup.state import COMMITTED, RESERVED, SENDER, Sent
from standfast.backup.sums import NONE, Statement, format_sums, line_name, line_of_bytes
from standfast.backup.underway import Begun
from standfast.backup.vault import vault_recipient, with_own_key
from standfast.clock import utc_text
from standfast.errors import (
    CommandError,
    DamagedError,
    NotFoundError,
    StreamError,
)
from standfast.zfs.records import RECOGNISE_BYTES, StreamCheck, looks_like_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from standfast.backup.model import Index
    from standfast.backup.plan import SendPlan
    from standfast.backup.underway import Notes
    from standfast.backup.vault import Vault
    from standfast.clock import Clock
    from standfast.host.process import Process
    from standfast.zfs.records import Listener, StreamFacts


class Producer(Protocol):
    """Where the plaintext comes from."""

    def read(self, room: memoryview) -> int:
        """Fill (part of) ``room``; return how much, 0 at the end."""
        ...

    def stop(self) -> None:
        """Make ``read`` return 0 from now on, also one that waits; for any thread."""
        ...

    def finish(self) -> None:
        """Return if all that was to come has come.

        Raises:
            CommandError: the producer failed.
        """
        ...


class _Tap:
    """A descriptor that is read until its end, or until another thread says stop."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._stopped, self._stopper = os.pipe()

    def __del__(self) -> None:
        os.close(self._stopped)
        os.close(self._stopper)

    def read(self, room: memoryview) -> int:
        """Read what there is, waiting for it if need be."""
        ready, _, _ = select.select([self._fd, self._stopped], [], [])
        if self._stopped in ready:
            return 0
        return os.readv(self._fd, [room])

    def stop(self) -> None:
        """Make ``read`` return 0 from now on; see Producer."""
        os.write(self._stopper, b".")


class CommandProducer(_Tap):
    """The output of a program that we started, and its exit status."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.stdout_fd)
        self._process = process

    def finish(self) -> None:
        """Wait for the program.

        Raises:
            CommandError: it failed, with its own words.
        """
        result = self._process.finish()
        if result.code != 0:
            raise CommandError(result.complaint())


class InputProducer(_Tap):
    """A file descriptor, such as standard input; its end is all it can tell."""

    def finish(self) -> None:
        """Nothing can be asked of a descriptor."""


class Guard:
    """Checks a stream on its way through, if it is a send stream.

    Args:
        plan: what it must be a send stream of; None if it may be anything.
        listener: is told of a send stream's records.
    """

    def __init__(self, plan: SendPlan | None, listener: Listener | None = None) -> None:
        self._plan = plan
        self._guid = None if plan is None else plan.guid
        self._listener = listener
        self._head = b""
        self._check: StreamCheck | None = None
        self._opaque = False
        self.size = 0

    def see(self, data: memoryview) -> None:
        """Check the next bytes.

        Raises:
            StreamError: they cannot be part of what was promised.
        """
        self.size += len(data)
        if self._opaque:
            return
        if self._check is not None:
            self._check.feed(data)
            return
        self._head += bytes(data[: RECOGNISE_BYTES - len(self._head)])
        if len(self._head) < RECOGNISE_BYTES and self.size == len(self._head):
            return
        before = self.size - len(data)
        self._recognise()
        if self._check is not None:
            self._check.feed(self._head)
            self._check.feed(data[len(self._head) - before :])

    def finish(self) -> StreamFacts | None:
        """Return the stream's facts; None for other bytes.

        Raises:
            StreamError: the stream is not whole, or not the one that was asked for.
        """
        if self.size == 0:
            raise StreamError(
                "nothing came: the producer gave no byte",
                hint="an empty backup is most often a failed command",
            )
        if self._check is None and not self._opaque:
            self._recognise()
            if self._check is not None:
                self._check.feed(self._head)
        if self._check is None:
            return None
        facts = self._check.finish()
        if "RESUMING" in {name.upper() for name in facts.features}:
            raise StreamError("a resumed stream cannot be restored by itself")
        if self._guid is not None and facts.toguid != self._guid:
            raise StreamError(
                f"the stream is of guid {facts.toguid}, not {self._guid}",
                hint="was the snapshot replaced while it was sent?",
            )
        if self._plan is not None and self._guid is not None:
            check_chain(facts, self._plan)
        return facts

    def spans(self) -> list[tuple[int, int | None]]:
        """Return where each substream begins and ends, as far as it was seen."""
        return [] if self._check is None else self._check.spans()

    def _recognise(self) -> None:
        if looks_like_stream(self._head):
            self._check = StreamCheck(self._listener)
        elif self._guid is not None:
            raise StreamError("zfs send gave something that is no send stream")
        else:
            self._opaque = True


def check_chain(facts: StreamFacts, plan: SendPlan) -> None:
    """Refuse a stream that could not be received after what the vault has.

    Raises:
        StreamError: it is incremental from something else, or raw where what it
            follows is not.
    """
    if facts.fromguid != plan.base_guid and not plan.tree:
        raise StreamError(
            f"the stream is incremental from guid {facts.fromguid}, "
            f"not from {plan.base_guid}",
            hint="was a snapshot or bookmark replaced while it was sent?",
        )
    known = {0, plan.base_guid} | plan.bases
    for part in facts.streams:
        if part.fromguid not in known:
            raise StreamError(
                f"{part.toname} is incremental from guid {part.fromguid}, "
                "which the vault does not have",
                hint="a clone needs its origin in the same tree; without --tree it "
                "is sent whole",
            )
        known.add(part.toguid)
    if plan.base_guid and facts.raw != plan.raw:
        raise StreamError(
            "the stream is raw and what it would follow is not, or the reverse",
            hint="pass --full to begin a new chain",
        )


@dataclass(frozen=True)
class Sender:
    """What sending needs besides the vault and the plan."""

    clock: Clock
    host_name: str
    versions: dict[str, str]
    level: int
    progress: Callable[[int, int], None]
    index: bool = True
    tell: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Outcome:
    """A committed archive.

    Attributes:
        archive: its id.
        sequence: its number among this signer's.
        manifest: what was sealed.
        stored: bytes of its objects.
        sums: SHA-256 of its ``SHA256SUMS``.
        reused: bytes of objects that an interrupted send had stored before.
    """

    archive: str
    sequence: int
    manifest: Manifest
    stored: int
    sums: str = ""
    reused: int = 0


@dataclass
class Draft:
    """An archive that is not there yet.

    Attributes:
        archive: its id.
        key: its fingerprint key.
        begun: what later runs need to go on; None where they cannot.
        segments: what an interrupted send left of it that is proven good.
        changed: indexes of segments that the producer now gave otherwise.
    """

    archive: str
    key: bytes
    begun: Begun | None = None
    segments: Mapping[int, Segment] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)


def new_draft(vault: Vault, plan: SendPlan, level: int) -> Draft:
    """Return the draft of a new archive."""
    draft = Draft(os.urandom(16).hex(), os.urandom(32))
    if plan.guid is not None:
        draft.begun = begun_of(vault, plan, level)
    return draft


def begun_of(vault: Vault, plan: SendPlan, level: int) -> Begun:
    """Return what a replay must agree in, for a snapshot that is sent."""
    return Begun(
        name=plan.name,
        dataset=str(plan.dataset),
        guid=str(plan.guid),
        base_guid=str(plan.base_guid),
        flags=list(plan.flags),
        recipient=vault_recipient(vault).text,
        segment_size=vault.info.segment_size,
        level=level,
    )


def send_archive(
    vault: Vault,
    plan: SendPlan,
    producer: Producer,
    sender: Sender,
    draft: Draft | None = None,
) -> Outcome:
    """Make one archive and commit it.

    Args:
        vault: where to.
        plan: what.
        producer: its bytes.
        sender: how.
        draft: an interrupted archive to go on with, or a new one of known id.

    Raises:
        CommandError: the producer failed.
        StreamError: what it gave is no whole send stream.
        StoreError: the store failed for good.
        NotTrustedError: nothing is pinned for this vault here.
    """
    draft = draft or new_draft(vault, plan, sender.level)
    recipe = Recipe(
        recipient=vault_recipient(vault),
        segment_size=vault.info.segment_size,
        level=sender.level,
        fingerprint_key=draft.key,
    )
    maker = IndexMaker(recipe.recipient) if sender.index else None
    guard = Guard(plan, maker)
    folder = archive_folder(draft.archive)
    sampler = Sampler(draft.archive)
    with vault.state.sending(draft.archive) as notes:
        past = _past(draft, notes)
        line = SealingLine(
            vault.store, folder, recipe, sender.progress, past, sampler.see
        )
        segments = line.run(producer.read, guard.see, producer.stop)
        producer.finish()
        facts = guard.finish()
        _drop_surplus(vault, draft, len(segments))
        manifest = _manifest(
            vault, plan, sender, draft.archive, recipe, segments, facts
        )
        index = _put_index(vault, folder, facts, maker, sender)
        manifest = msgspec.structs.replace(manifest, index=index)
        outcome = _put_manifest(vault, plan, manifest, recipe, sender, sampler)
    return replace(outcome, reused=_reused(draft, segments))


def _past(draft: Draft, notes: Notes) -> Past | None:
    """Return what an interrupted send left; nothing where nothing can go on."""
    if draft.begun is None:
        return None
    if notes.is_new():
        notes.begin(draft.begun, draft.key)
    return Past(notes, draft.segments, draft.changed.append)


def _drop_surplus(vault: Vault, draft: Draft, count: int) -> None:
    """Remove what an interrupted send stored beyond the end of the stream."""
    folder = archive_folder(draft.archive)
    for number in draft.segments:
        if number >= count:
            vault.store.delete(f"{folder}/{segment_name(number)}")


def _reused(draft: Draft, segments: list[Segment]) -> int:
    same = (s for i, s in enumerate(segments) if draft.segments.get(i) == s)
    return sum(segment.object_size for segment in same)


def _put_index(
    vault: Vault,
    folder: str,
    facts: StreamFacts | None,
    maker: IndexMaker | None,
    sender: Sender,
) -> Index | None:
    """Store the index of a send stream; other bytes have none."""
    if facts is None or maker is None:
        return None
    made = maker.finish()
    if made is None:
        sender.tell(f"this archive gets no index: {maker.trouble}")
        return None
    vault.store.put(f"{folder}/{INDEX_OBJECT}", made.data)
    sender.progress(0, len(made.data))
    return made.index


def _put_manifest(
    vault: Vault,
    plan: SendPlan,
    manifest: Manifest,
    recipe: Recipe,
    sender: Sender,
    sampler: Sampler,
) -> Outcome:
    """Store the manifest, and commit; then keep what the host can be asked."""
    sealed = encrypt(encode(manifest), [recipe.recipient])
    sampler.see(MANIFEST_OBJECT, sealed)
    name = f"{archive_folder(manifest.archive)}/{MANIFEST_OBJECT}"
    vault.store.put(name, sealed)
    outcome = _commit(vault, plan, manifest, sealed, sender)
    Journal(vault.state).add(sampler.challenges())
    sender.progress(0, len(sealed))
    return outcome


def _commit(
    vault: Vault, plan: SendPlan, manifest: Manifest, sealed: bytes, sender: Sender
) -> Outcome:
    """Write the sums, make all of it stable, then sign: the commit point.

    The ledger knows the number before the signature is written and learns of the
    commit after; a crash between the two leaves "reserved", which claims nothing.
    """
    folder = archive_folder(manifest.archive)
    digests = {segment_name(i): s.sha256 for i, s in enumerate(manifest.segments)}
    digests[MANIFEST_OBJECT] = hashlib.sha256(sealed).hexdigest()
    stored = sum(s.object_size for s in manifest.segments) + len(sealed)
    if manifest.index is not None:
        digests[INDEX_OBJECT] = manifest.index.object_sha256
        stored += manifest.index.object_size
    sums = format_sums(digests)
    vault.store.put(f"{folder}/{SUMS}", sums)
    vault.store.make_stable(folder)
    _expect_base(vault, plan.base)
    vault = with_own_key(vault, SENDER)
    key = vault.state.make_signer_key()
    drafted = Statement(
        kind="archive",
        vault=vault.info.vault,
        archive=manifest.archive,
        objects=len(digests),
        size=stored,
        sequence=0,
        previous=NONE,
        time=int(sender.clock.now()),
        base=plan.base,
        line=_line(plan, key.seed, vault.info.vault),
    )
    statement = _reserve(vault, drafted, sums, plan, manifest)
    signature = key.sign(sums, statement.text()).encode()
    vault.store.put(f"{folder}/{SIGNATURE}", signature)
    vault.store.make_stable(folder)
    with vault.state.locked():
        vault.state.note(_step(COMMITTED, statement, sums, plan, manifest))
    digest = hashlib.sha256(sums).hexdigest()
    return Outcome(manifest.archive, statement.sequence, manifest, stored, digest)


def _expect_base(vault: Vault, base: str) -> None:
    """Refuse to commit an increment on what a prune has taken away meanwhile.

    A prune deletes the signature first. It keeps what is new, so this takes a base
    that was named by hand, or a send that lasted longer than its pruner's patience.

    Raises:
        DamagedError: the base is gone.
    """
    if base == NONE:
        return
    try:
        vault.store.get(f"{archive_folder(base)}/{SIGNATURE}", LARGEST_DOCUMENT)
    except NotFoundError:
        raise DamagedError(
            f"archive {base}, which this is an increment on, is gone",
            hint="was it pruned meanwhile? send again: it starts from what is there",
        ) from None


def _line(plan: SendPlan, seed: bytes, vault: str) -> str:
    if plan.dataset is None:
        return line_of_bytes(seed, vault, plan.name.partition("@")[0])
    return line_name(seed, vault, plan.dataset, tree=plan.tree)


def _reserve(
    vault: Vault, drafted: Statement, sums: bytes, plan: SendPlan, manifest: Manifest
) -> Statement:
    """Take the next number of this signer's sequence and return what to sign."""
    with vault.state.locked():
        ledger = vault.state.ledger()
        last = ledger.last_committed()
        statement = replace(
            drafted,
            sequence=ledger.last_sequence + 1,
            previous=last.sums if last is not None else NONE,
        )
        vault.state.note(_step(RESERVED, statement, sums, plan, manifest))
    return statement


def _step(
    state: str, statement: Statement, sums: bytes, plan: SendPlan, manifest: Manifest
) -> Sent:
    stream = manifest.stream if plan.guid is not None else None
    return Sent(
        archive=statement.archive,
        sequence=statement.sequence,
        state=state,
        sums=hashlib.sha256(sums).hexdigest(),
        name=manifest.name,
        time=statement.time,
        guid="" if stream is None else stream.guid,
        dataset="" if plan.dataset is None else str(plan.dataset),
        kind="" if stream is None else archive_kind(manifest, tree=plan.tree),
    )


def archive_kind(manifest: Manifest, *, tree: bool) -> str:
    """Return the letters of ``Sent.kind`` for an archive."""
    features = manifest.stream.features if manifest.stream else []
    letters = {"R": tree, "w": "RAW" in features, "L": "LARGE_BLOCKS" in features}
    return "".join(letter for letter, there in letters.items() if there)


def _manifest(
    vault: Vault,
    plan: SendPlan,
    sender: Sender,
    archive: str,
    recipe: Recipe,
    segments: list[Segment],
    facts: StreamFacts | None,
) -> Manifest:
    return Manifest(
        format=FORMAT,
        vault=vault.info.vault,
        archive=archive,
        name=plan.name,
        created=utc_text(sender.clock.now()),
        host=sender.host_name,
        command=list(plan.command),
        versions={
            "standfast": __version__,
            "python": platform.python_version(),
            **sender.versions,
        },
        size=sum(segment.size for segment in segments),
        segment_size=recipe.segment_size,
        level=recipe.level,
        stream=None if facts is None else stream_document(facts),
        fingerprints=Fingerprints(
            algorithm="aes-256-gmac", key=recipe.fingerprint_key.hex()
        ),
        segments=segments,
    )


def stream_document(facts: StreamFacts) -> Stream:
    """Return the manifest's form of a stream's facts."""
    return Stream(
        name=facts.toname,
        guid=str(facts.toguid),
        from_guid=str(facts.fromguid),
        compound=facts.compound,
        big_endian=facts.big_endian,
        features=list(facts.features),
        substreams=[
            Substream(
                name=part.toname,
                guid=str(part.toguid),
                from_guid=str(part.fromguid),
                kind=part.kind,
            )
            for part in facts.streams
        ],
    )
