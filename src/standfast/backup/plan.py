"""What to do, decided from facts alone. Nothing here touches a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.model import Manifest, is_archive_id
from standfast.backup.sums import NONE
from standfast.errors import UsageError
from standfast.zfs.names import split_snapshot
from standfast.zfs.streams import send_argv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from standfast.backup.chain import ChainPlan, Request
    from standfast.backup.model import VaultInfo
    from standfast.backup.proof import Archive

SHORTEST_PREFIX = 4


@dataclass(frozen=True)
class SendPlan:
    """One archive to be made.

    Attributes:
        name: ``DATASET@SNAPSHOT``, or the name given for standard input.
        command: the producer's arguments; empty for standard input.
        guid: the snapshot that the stream must be of; None if any bytes will do.
        size: about how many bytes will come; 0 when unknown.
        why: one sentence for the log and ``--dry-run``.
        dataset: GUID of the dataset that is sent, or of the top of a tree; None for
            standard input.
        tree: the stream is of a dataset and all below it.
        base: the archive that this one is an increment on, or ``none``.
        base_guid: what the stream must be incremental from; 0 if it must be full.
        bases: for a tree, all GUIDs that parts of it may be incremental from.
        raw: the stream must be raw, or must not.
        flags: zfs send's, without what it starts from.
    """

    name: str
    command: tuple[str, ...]
    guid: int | None
    size: int
    why: str
    dataset: int | None = None
    tree: bool = False
    base: str = NONE
    base_guid: int = 0
    bases: frozenset[int] = frozenset()
    raw: bool = False
    flags: tuple[str, ...] = ()


def plan_send(chain: ChainPlan, request: Request, size: int) -> SendPlan:
    """Return the archive that a chain's next step makes.

    Args:
        chain: what was decided, with action SEND.
        request: what was asked for.
        size: about how many bytes will come.
    """
    return SendPlan(
        name=chain.target.name,
        command=tuple(send_words(chain, request)),
        guid=chain.target.guid,
        size=size,
        why=chain.why,
        dataset=chain.dataset.guid,
        tree=request.tree,
        base=NONE if chain.mark is None else chain.mark.archive,
        base_guid=0 if chain.base is None else chain.base.guid,
        bases=chain.bases,
        raw=chain.raw,
        flags=tuple(send_flags(chain, request)),
    )


def send_flags(chain: ChainPlan, request: Request) -> list[str]:
    """Return the flags of zfs send, but for where the stream starts."""
    flags = [*(["-R"] if request.tree else []), *request.flags]
    if chain.base is not None:
        between = request.between and not chain.base.is_bookmark
        flags.append("-I" if between else "-i")
    return flags


def send_words(chain: ChainPlan, request: Request) -> list[str]:
    """Return the command that sends a chain's next step."""
    base = [] if chain.base is None else [chain.base.name]
    return send_argv(chain.target.name, [*send_flags(chain, request), *base])


def plan_stdin(name: str) -> SendPlan:
    """Plan to keep what comes on standard input.

    Raises:
        UsageError: the name is empty or holds control characters.
    """
    if not name or not name.isprintable():
        raise UsageError(f"not a name for an archive: {name!r}")
    return SendPlan(name, (), None, 0, "standard input, up to its end")


def segment_count(size: int, info: VaultInfo) -> int:
    """Return how many segments ``size`` bytes make."""
    return -(-size // info.segment_size)


def choose_archive(
    wanted: str, archives: Sequence[Archive], manifests: Mapping[str, Manifest]
) -> Archive:
    """Return the archive that a person means.

    Args:
        wanted: an archive id, its beginning (4 digits or more), or a name; of
            several archives of one name, the one sent last.
        archives: the committed archives.
        manifests: by archive id, as far as they could be opened.

    Raises:
        UsageError: none fits, or several do.
    """
    if is_archive_id(wanted) or (
        len(wanted) >= SHORTEST_PREFIX and set(wanted) <= set("0123456789abcdef")
    ):
        fitting = [a for a in archives if a.id.startswith(wanted)]
        if len(fitting) > 1:
            raise UsageError(f"{len(fitting)} archives begin with {wanted}")
        if fitting:
            return fitting[0]
    named = [a for a in archives if a.id in manifests]
    named = [a for a in named if manifests[a.id].name == wanted]
    if not named:
        raise UsageError(
            f"the vault has no archive {wanted}",
            hint="`standfast backup list VAULT --identity FILE` shows what it has",
        )
    return max(named, key=_order)


def _order(archive: Archive) -> tuple[int, int]:
    assert archive.statement is not None
    return archive.statement.time, archive.statement.sequence


def check_target(target: str) -> str:
    """Return a dataset or snapshot name to receive into.

    Raises:
        UsageError: it is neither.
    """
    from standfast.zfs.names import check_dataset  # noqa: PLC0415 - one use

    if "@" in target:
        split_snapshot(target)
        return target
    return check_dataset(target)
