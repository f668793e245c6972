"""The vault's end of an ssh connection, for senders that may add and nothing else.

``standfast backup serve`` runs as the forced command of a key. It gets what the
sender's ssh store asks of any machine, a script of sh, and runs none of it: the
script's first words say which verb it is, its arguments are read by the strict inverse
of our own quoting, and the verb is done here, within bounds:

- names are those of a vault's own objects, so that no path leads out of it;
- an archive belongs to the sender that began it, until its signature is written; then
  it belongs to nobody who comes this way;
- listings, hashes, sums, signatures and plain documents may be read; segments,
  manifests and the sealed identity only where that was granted.

What is refused is told to a log as well. Machines without standfast go on as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.folders import make_folders, sync_folder
from standfast.backup.model import (
    LARGEST_SUMS,
    SIGNATURE,
    archive_folder,
    is_part,
)
from standfast.backup.serving_names import (
    LARGEST_OBJECT,
    archive_in,
    is_known,
    is_open,
    is_removal,
    largest_of,
)
from standfast.backup.stores.directory import DirectoryStore
from standfast.backup.stores.ssh import (
    CUT,
    DONE,
    GONE,
    MARK,
    NOT_A_FILE,
    REFUSED,
    TAKEN,
)
from standfast.errors import (
    AlreadyThereError,
    NotFoundError,
    StoreError,
    TooLargeError,
    UsageError,
)
from standfast.host.ssh import READY, unquote
from standfast.pace import Unlimited
from standfast.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

_VERB = re.compile(r": standfast ([a-z_]{1,32}) ([0-9]{1,4}); ")
WIRE = 1
LARGEST_NAMES = 64 * MIB
_SENDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RefusedError(Exception):
    """Something that may not be done this way; its text says what."""


@dataclass(frozen=True)
class Asked:
    """What a sender asks for.

    Attributes:
        verb: as in the ssh store.
        words: its arguments, the vault's place first.
    """

    verb: str
    words: tuple[str, ...]


def parse_command(text: str) -> Asked:
    """Return what an ``SSH_ORIGINAL_COMMAND`` asks for. Pure.

    Raises:
        RefusedError: it is none of ours.
    """
    if not text:
        raise RefusedError("no shell is given here")
    try:
        words = unquote(text.removeprefix("exec "))
    except UsageError:
        words = []
    match = _VERB.match(words[2]) if len(words) > 2 else None  # noqa: PLR2004
    if match is None or words[:2] != ["/bin/sh", "-c"]:
        raise RefusedError(f"not a request of standfast: {text[:80]!r}")
    if int(match.group(2)) != WIRE:
        raise RefusedError(
            f"the sender speaks version {match.group(2)} of this, we speak {WIRE}"
        )
    return Asked(match.group(1), tuple(words[4:]))


@dataclass(frozen=True)
class Rules:
    """What one key may do.

    Attributes:
        folder: the only vault that it reaches.
        sender: whose key it is; archives belong to it until they are signed.
        allow_read: whether segments, manifests and the identity may be read.
        notes: a folder of this machine's, for which archive belongs to whom.
    """

    folder: Path
    sender: str
    allow_read: bool
    notes: Path

    def __post_init__(self) -> None:
        if not _SENDER.fullmatch(self.sender):
            raise UsageError(
                f"not a sender's name: {self.sender}",
                hint="letters, digits, dot, dash and underscore",
            )


class Serving:
    """One request, done or refused.

    Args:
        rules: what may be done.
        source: where the sender's bytes come from.
        sink: where the answer goes.
        tell: is told of every refusal, for a log.
    """

    def __init__(
        self,
        rules: Rules,
        source: BinaryIO,
        sink: BinaryIO,
        tell: Callable[[str], None],
    ) -> None:
        self._rules = rules
        self._source = source
        self._sink = sink
        self._tell = tell
        self._store = DirectoryStore(str(rules.folder), Unlimited())

    def answer(self, command: str) -> tuple[int, str]:
        """Do what a command asks; return the exit status and what to complain of."""
        try:
            asked = parse_command(command)
            done = self._do(asked)
        except RefusedError as error:
            self._tell(f"{self._rules.sender}: refused: {error}")
            return REFUSED, f"refused: {error}"
        except AlreadyThereError:
            return TAKEN, ""
        except (NotFoundError, TooLargeError):
            return NOT_A_FILE, ""
        except StoreError as error:
            return 1, error.message
        self._sink.flush()
        return done, ""

    def _do(self, asked: Asked) -> int:
        if asked.verb == "hold":
            return self._hold()
        verbs: dict[str, tuple[int, Callable[..., int]]] = {
            "create": (1, self._create),
            "put": (5, self._put),
            "replace": (5, self._replace),
            "get": (2, self._get),
            "get_range": (4, self._get_range),
            "get_small": (1, self._get_small),
            "entries": (1, self._entries),
            "digests": (1, self._digests),
            "digests_after": (1, self._digests_after),
            "make_stable": (2, self._make_stable),
            "delete": (2, self._delete),
            "delete_folder": (2, self._delete_folder),
        }
        count, work = verbs.get(asked.verb, (0, self._create))
        if len(asked.words) != count:
            raise RefusedError(f"not a request that we know: {asked.verb}")
        root, *words = asked.words
        # As the ssh session would take it: relative to the login's home.
        if os.path.realpath(root) != os.path.realpath(self._rules.folder):
            raise RefusedError(f"this key is for {self._rules.folder}, not for {root}")
        if asked.verb != "create" and not self._rules.folder.is_dir():
            return GONE
        return work(*words)

    def _hold(self) -> int:
        """Stay until the sender goes, as the connection's own session does."""
        self._sink.write(READY + b"\n")
        self._sink.flush()
        while self._source.read(65536):
            pass
        return 0

    def _create(self) -> int:
        self._store.create()
        return self._done()

    def _put(self, folder: str, last: str, size: str, part: str) -> int:
        name = f"{folder}/{last}" if folder else last
        limit = largest_of(name)
        if not is_part(part) or not size.isdigit() or int(size) > limit:
            raise RefusedError(f"{name} cannot be so large")
        self._may_add(name)
        data = self._source.read(int(size) + 1)
        if len(data) != int(size):
            return CUT
        self._store.put(name, data)
        return self._done()

    def _replace(self, folder: str, last: str, _size: str, _part: str) -> int:
        name = f"{folder}/{last}" if folder else last
        raise RefusedError(f"{name} may not be replaced by a sender")

    def _get(self, name: str) -> int:
        self._may_read(name)
        data = self._store.get(name, LARGEST_OBJECT)
        self._sink.write(MARK + data)
        return 0

    def _get_range(self, name: str, first: str, length: str) -> int:
        self._may_read(name)
        if not first.isdigit() or not length.isdigit() or not int(first):
            raise RefusedError("no such range")
        wanted = min(int(length), LARGEST_OBJECT)
        data = self._store.get_range(name, int(first) - 1, wanted)
        self._sink.write(MARK + data)
        return 0

    def _get_small(self) -> int:
        import tarfile  # noqa: PLC0415 - most requests do without

        names = [name for name in self._lines() if self._is_readable(name)]
        self._sink.write(MARK)
        with tarfile.open(
            fileobj=self._sink, mode="w|", format=tarfile.USTAR_FORMAT
        ) as tar:
            for name in names:
                with contextlib.suppress(NotFoundError, TooLargeError):
                    data = self._store.get(name, LARGEST_SUMS)
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return self._done()

    def _entries(self) -> int:
        """List as ``ls -lnd`` does, which is what the sender reads."""
        self._sink.write(MARK)
        letters = {"file": "-", "folder": "d"}
        for entry in self._store.entries():
            letter = letters.get(entry.kind, "?")
            line = f"{letter}rw------- 1 0 0 {entry.size} - - - ./{entry.name}\n"
            self._sink.write(line.encode(errors="surrogateescape"))
        return self._done()

    def _digests(self) -> int:
        names = [name for name in self._lines() if is_known(name)]
        names = [name for name in names if self._is_inside(name)]
        self._sink.write(MARK)
        for name, digest in self._store.digests(names):
            self._sink.write(f"{digest}  {name}\n".encode())
            self._sink.flush()
        return self._done()

    def _digests_after(self) -> int:
        pairs = [line.partition(" ")[::2] for line in self._lines()]
        asked = [
            (nonce, name)
            for nonce, name in pairs
            if nonce.isalnum() and is_known(name) and self._is_inside(name)
        ]
        self._sink.write(MARK)
        for name, digest in self._store.digests_after(asked):
            self._sink.write(f"{digest}  {name}\n".encode())
        return self._done()

    def _make_stable(self, folder: str) -> int:
        if folder and not archive_in(f"{folder}/x"):
            raise RefusedError(f"no folder of a vault: {folder}")
        self._must_be_inside(f"{folder}/x" if folder else "x")
        with contextlib.suppress(FileNotFoundError):
            self._store.make_stable(folder)
        return self._done()

    def _delete(self, name: str) -> int:
        """Remove an object of an archive that its own sender has not finished."""
        self._may_remove(name, archive_in(name))
        self._store.delete(name)
        return self._done()

    def _delete_folder(self, name: str) -> int:
        archive = archive_in(f"{name}/x")
        self._may_remove(name, archive)
        self._store.delete_folder(name)
        self._note(archive).unlink(missing_ok=True)
        return self._done()

    def _done(self) -> int:
        self._sink.write(DONE)
        return 0

    def _lines(self) -> list[str]:
        data = self._source.read(LARGEST_NAMES + 1)
        if len(data) > LARGEST_NAMES:
            raise RefusedError("so many names are no vault's")
        return data.decode(errors="replace").splitlines()

    def _may_add(self, name: str) -> None:
        """Return if this sender may give a name.

        Raises:
            RefusedError: it may not.
        """
        if not is_known(name) or is_removal(name):
            raise RefusedError(f"no name of a vault's object: {name}")
        self._must_be_inside(name)
        archive = archive_in(name)
        if not archive:
            if (self._rules.folder / SIGNATURE).exists():
                raise RefusedError(f"{name}: the vault itself is finished")
            return
        if self._is_signed(archive):
            raise RefusedError(f"{name}: that archive is signed")
        if not self._is_ours(archive, begin=True):
            raise RefusedError(f"{name}: that archive is another sender's")

    def _may_remove(self, name: str, archive: str) -> None:
        if not archive or not (is_known(name) or name == archive_folder(archive)):
            raise RefusedError(f"{name} may not be deleted by a sender")
        self._must_be_inside(name)
        if self._is_signed(archive):
            raise RefusedError(f"{name}: that archive is signed")
        if not self._is_ours(archive, begin=False):
            raise RefusedError(f"{name}: that archive is another sender's")

    def _may_read(self, name: str) -> None:
        if not is_known(name):
            raise RefusedError(f"no name of a vault's object: {name}")
        if not self._is_readable(name):
            raise RefusedError(f"{name} may not be read by a sender")

    def _is_readable(self, name: str) -> bool:
        if not is_known(name) or not self._is_inside(name):
            return False
        return is_open(name) or self._rules.allow_read

    def _is_inside(self, name: str) -> bool:
        """Return whether no link leads out of the vault on the way to a name."""
        place = self._rules.folder
        for part in name.split("/")[:-1]:
            place = place / part
            try:
                mode = place.lstat().st_mode
            except FileNotFoundError:
                return True
            except OSError:
                return False
            if not stat.S_ISDIR(mode):
                return False
        return True

    def _must_be_inside(self, name: str) -> None:
        if not self._is_inside(name):
            raise RefusedError(f"{name}: a link is in the way")

    def _is_signed(self, archive: str) -> bool:
        place = self._rules.folder / archive_folder(archive) / SIGNATURE
        return os.path.lexists(place)

    def _is_ours(self, archive: str, *, begin: bool) -> bool:
        """Return whether this sender began an archive, or may do so now."""
        note = self._note(archive)
        with contextlib.suppress(FileNotFoundError):
            return note.read_text() == self._rules.sender
        there = os.path.lexists(self._rules.folder / archive_folder(archive))
        if there or not begin:
            return False
        make_folders(note.parent)
        part = note.with_name(f".{os.urandom(8).hex()}")
        part.write_text(self._rules.sender)
        try:
            # Whole or not at all, and the first who comes is the one.
            os.link(part, note)
        except FileExistsError:
            return note.read_text() == self._rules.sender
        finally:
            part.unlink()
        sync_folder(note.parent)
        return True

    def _note(self, archive: str) -> Path:
        place = os.path.realpath(self._rules.folder)
        return self._rules.notes / hashlib.sha256(place.encode()).hexdigest() / archive
