"""The commands that make and take send streams, and what they say beforehand.

``zfs send -nvP`` prints a size on OpenZFS (``size<TAB>bytes``); zfs-fuse and other
old systems know no ``-n``, there the snapshot's ``referenced`` stands in, which a
full stream exceeds by its record headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import CommandError, UsageError
from standfast.zfs.names import split_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host import Host

# Flags of zfs send that take the output away from us, or ask for increments,
# which need a base that the vault holds.
_REFUSED = {
    "-n": "it sends nothing; use --dry-run",
    "-P": "it mixes text into the stream on some systems",
    "-v": "it mixes text into the stream on some systems",
    "-V": "it changes the process title only",
    "-i": "increments are chosen by what the vault has; use --from",
    "-I": "increments are chosen by what the vault has; use --all-between",
    "-t": "a resumed stream cannot be restored by itself",
    "-S": "a partial stream is never complete",
    "--saved": "a partial stream is never complete",
    "--dryrun": "it sends nothing; use --dry-run",
    "--resume": "a resumed stream cannot be restored by itself",
}


@dataclass(frozen=True)
class SnapshotFacts:
    """What the system says of a snapshot.

    Attributes:
        name: ``DATASET@SNAPSHOT``.
        guid: its 64-bit id.
        referenced: bytes that it refers to, on the pool.
    """

    name: str
    guid: int
    referenced: int


def snapshot_facts(host: Host, name: str) -> SnapshotFacts:
    """Return a snapshot's facts.

    Raises:
        UsageError: there is no such snapshot.
        CommandError: zfs cannot be asked.
    """
    split_snapshot(name)
    argv = ["zfs", "get", "-Hp", "-o", "property,value", "type,guid,referenced", name]
    result = host.run(argv, ok=(0, 1))
    if result.code != 0:
        if "does not exist" in result.stderr:
            raise UsageError(
                f"there is no snapshot {name}",
                hint="`zfs list -t snapshot` lists them",
            )
        raise CommandError(result.complaint())
    lines = result.stdout.decode().splitlines()
    values = dict(line.split("\t", 1) for line in lines if "\t" in line)
    try:
        return SnapshotFacts(name, int(values["guid"]), int(values["referenced"]))
    except (KeyError, ValueError):
        raise CommandError(f"zfs get said nothing useful of {name}") from None


def guid_of(host: Host, name: str) -> int:
    """Return a snapshot's guid; see ``snapshot_facts``."""
    return snapshot_facts(host, name).guid


def exists(host: Host, dataset: str) -> bool:
    """Return whether a dataset exists.

    Raises:
        CommandError: zfs cannot be asked.
    """
    argv = ["zfs", "get", "-Hp", "-o", "value", "type", dataset]
    result = host.run(argv, ok=(0, 1))
    if result.code == 0:
        return True
    if "does not exist" in result.stderr:
        return False
    raise CommandError(result.complaint())


def send_argv(snapshot: str, flags: Sequence[str]) -> list[str]:
    """Return the command that sends one whole snapshot."""
    return ["zfs", "send", *flags, snapshot]


def check_flags(flags: Sequence[str]) -> None:
    """Refuse flags of zfs send that would not give one whole stream.

    Raises:
        UsageError: such a flag is there.
    """
    for flag in flags:
        letters = [f"-{c}" for c in flag[1:]] if flag[1:2] != "-" else [flag]
        if not flag.startswith("-") or flag == "-":
            raise UsageError(f"not a flag of zfs send: {flag}")
        for letter in letters:
            if letter in _REFUSED:
                raise UsageError(f"zfs send {letter}: {_REFUSED[letter]}")


def estimate(host: Host, words: Sequence[str], otherwise: int) -> int:
    """Return about how many bytes ``zfs send`` will give.

    Args:
        host: where the pool is.
        words: what follows ``zfs send``.
        otherwise: what to say where zfs does not tell.
    """
    # Without -v, FreeBSD 11.3 and 12 leave the size out.
    argv = ["zfs", "send", "-n", "-v", "-P", *words]
    try:
        result = host.run(argv, ok=(0, 1, 2), timeout=60)
    except CommandError:
        return otherwise
    # OpenZFS prints on standard output, older releases on standard error.
    for line in (result.stdout.decode(errors="replace") + result.stderr).splitlines():
        word, _, number = line.partition("\t")
        if result.code == 0 and word == "size" and number.strip().isdigit():
            return int(number)
    return otherwise


def receive_argv(target: str, flags: Sequence[str]) -> list[str]:
    """Return the command that takes a stream."""
    return ["zfs", "receive", *flags, target]


def version(host: Host) -> str:
    """Return the first line of ``zfs version``, or empty where there is no such."""
    try:
        result = host.run(["zfs", "version"], ok=range(256), timeout=20)
    except CommandError:
        return ""
    first = result.stdout.decode(errors="replace").partition("\n")[0].strip()
    return first if result.code == 0 else ""


def resume_token(host: Host, dataset: str) -> str:
    """Return the token of a receive that was cut; empty if there is none.

    Systems without ``zfs receive -s`` have none, and no such property.
    """
    argv = ["zfs", "get", "-Hp", "-o", "value", "receive_resume_token", dataset]
    result = host.run(argv, ok=range(256))
    value = result.stdout.decode(errors="replace").strip()
    return value if result.code == 0 and value != "-" else ""


def give_up_partial(host: Host, dataset: str) -> None:
    """Discard what a cut ``zfs receive -s`` has kept.

    Raises:
        CommandError: zfs refuses.
    """
    host.run(["zfs", "receive", "-A", dataset])
