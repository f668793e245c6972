"""``SHA256SUMS`` files and the statement that is signed with them.

The file is what ``sha256sum -c`` reads: 64 hex digits, two spaces, a name, a line
feed. The statement is the trusted comment of the minisign signature over the file:
``standfast KIND`` and then ``key=value`` words, so that ids, counts and the place
in the signer's sequence are signed as well.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from standfast.backup.model import FORMAT, is_archive_id
from standfast.errors import DamagedError

# Names that we write: no folder, no white space, no leading dot or dash.
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._-]*)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINE_NAME = re.compile(r"[0-9a-f]{32}")
NONE = "none"


def format_sums(digests: dict[str, str]) -> bytes:
    """Return the file for name -> SHA-256 in hex, sorted by name."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def parse_sums(data: bytes, source: str) -> dict[str, str]:
    """Return name -> SHA-256 in hex.

    Raises:
        DamagedError: a line is not ours, or a name stands twice.
    """
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise DamagedError(f"{source} is not a list of sums") from None
    if lines.pop() != "":
        raise DamagedError(f"{source} is cut in its last line")
    digests: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match.group(2) in digests:
            raise DamagedError(f"{source} is not a list of sums: line {number}")
        digests[match.group(2)] = match.group(1)
    return digests


@dataclass(frozen=True)
class Statement:
    """What a signer states of a set of objects.

    Attributes:
        kind: ``vault`` for the root's own objects, ``archive`` for a backup.
        vault: the vault's id.
        archive: the archive's id; empty for the root.
        objects: how many objects ``SHA256SUMS`` lists.
        size: their bytes in all.
        sequence: 1, 2, 3... over one signer's archives in one vault; 0 for the root.
        previous: SHA-256 of the ``SHA256SUMS`` of the same signer's archive before
            this one, or ``none``.
        time: the signer's clock, Unix seconds.
        base: the archive in this vault that this one is an increment on, or
            ``none``; empty where nothing is said, as in older archives.
        line: what the archive is one of, see ``line_name``, or ``none``; empty
            where nothing is said. Both are said or neither.
    """

    kind: str
    vault: str
    archive: str
    objects: int
    size: int
    sequence: int
    previous: str
    time: int
    base: str = ""
    line: str = ""

    def text(self) -> str:
        """Return the one-line form that is signed."""
        archive = f" archive={self.archive}" if self.archive else ""
        chain = f" base={self.base} line={self.line}" if self.base else ""
        return (
            f"standfast {self.kind} format={FORMAT} vault={self.vault}{archive}"
            f" objects={self.objects} bytes={self.size} sequence={self.sequence}"
            f" previous={self.previous}{chain} time={self.time}"
        )


def line_name(seed: bytes, vault: str, guid: int, *, tree: bool) -> str:
    """Return what names "the same dataset, by the same signer" in a vault.

    Whoever deletes old archives by a policy has no key and must still know which
    of them belong together. This says so, and no more: 32 hex digits, the first
    half of HMAC-SHA256 (RFC 2104) under a key made of the signer's secret.

    Args:
        seed: the secret of the signing key.
        vault: the vault's id.
        guid: of the dataset, or of the top of a tree of them.
        tree: the archives are of that whole tree.
    """
    return _line_of(seed, f"{vault} {'tree' if tree else 'single'} {guid}")


def line_of_bytes(seed: bytes, vault: str, name: str) -> str:
    """Return the same for bytes that are no send stream, by their name.

    Args:
        seed: the secret of the signing key.
        vault: the vault's id.
        name: what they are called each time they are sent.
    """
    return _line_of(seed, f"{vault} bytes {name}")


def _line_of(seed: bytes, text: str) -> str:
    key = hmac.digest(seed, b"standfast line", hashlib.sha256)
    return hmac.digest(key, text.encode(), hashlib.sha256)[:16].hex()


def parse_statement(text: str, source: str) -> Statement:
    """Return the statement in a trusted comment.

    Raises:
        DamagedError: it is not one of ours.
    """
    words = text.split(" ")
    values = dict(word.partition("=")[::2] for word in words[2:])
    try:
        statement = Statement(
            kind=words[1],
            vault=values["vault"],
            archive=values.get("archive", ""),
            objects=int(values["objects"]),
            size=int(values["bytes"]),
            sequence=int(values["sequence"]),
            previous=values["previous"],
            time=int(values["time"]),
            base=values.get("base", ""),
            line=values.get("line", ""),
        )
    except (KeyError, ValueError, IndexError):
        raise DamagedError(f"{source} states nothing that we know") from None
    good = (
        statement.text() == text
        and statement.kind in {"vault", "archive"}
        and is_archive_id(statement.vault)
        and (statement.kind == "vault" or is_archive_id(statement.archive))
        and (statement.previous == NONE or _DIGEST.fullmatch(statement.previous))
        and _is_chain(statement)
    )
    if not good:
        raise DamagedError(f"{source} states nothing that we know")
    return statement


def _is_chain(statement: Statement) -> bool:
    """Return whether base and line are what an archive may state, or nothing."""
    if not statement.base and not statement.line:
        return True
    return (
        statement.kind == "archive"
        and (statement.base == NONE or is_archive_id(statement.base))
        and (statement.line == NONE or bool(_LINE_NAME.fullmatch(statement.line)))
    )
