"""Runs the command, or a sender that kills itself, in forks of a warm interpreter.

A sweep needs hundreds of runs; forking saves each the start of an interpreter. One
JSON request a line on standard input, one JSON answer a line on standard output:
``{"argv": [...], "env": {...}, "stdin": FILE, "folder": FOLDER}`` runs a command line;
``{"doomed": "send" | "init" | "dataset", "vault": DIRECTORY, "at": N, "when":
"before" | "after", ...}`` runs the library with a store (and for a dataset a host)
that ends its process by SIGKILL at the N-th operation; ``{"doomed": "run", "words":
[...], ...}`` does so with a whole ``backup run``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from standfast.backup.chain import Request
from standfast.backup.dataset import open_source, properties_of, send_dataset
from standfast.backup.folders import state_folder
from standfast.backup.init import Owner, Wanted, create_vault
from standfast.backup.keyfiles import parse_identities, parse_recipient
from standfast.backup.model import SMALLEST_SEGMENT
from standfast.backup.plan import plan_stdin
from standfast.backup.prune import Wish, carry_out, look, remember
from standfast.backup.retention import Policy
from standfast.backup.rewrap import rewrap
from standfast.backup.send import InputProducer, Sender, send_archive
from standfast.backup.signers import predecessors
from standfast.backup.stores import Store, open_store
from standfast.backup.vault import open_vault
from standfast.cli import (
    backup_init,
    backup_legacy,
    backup_marks,
    backup_read,
    backup_restore,
    backup_run,
    backup_send,
    build_parser,
    main,
)
from standfast.cli.session import Session
from standfast.clock import SystemClock
from standfast.host.local import LocalHost
from standfast.pace import Unlimited
from standfast.zfs import fletcher
from standfast.zfs.listing import list_tree

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from standfast.host import Host
    from standfast.pace import Pace

WARM = (
    backup_init,
    backup_legacy,
    backup_marks,
    backup_read,
    backup_restore,
    backup_send,
    fletcher,
)
VERBS = {
    "create",
    "put",
    "get",
    "get_small",
    "entries",
    "digests",
    "make_stable",
    "delete",
    "delete_folder",
    "replace",
}


class Doom:
    """Ends this process by SIGKILL around the N-th of all operations."""

    def __init__(self, at: int, when: str) -> None:
        self._at = at
        self._when = when
        self._count = 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the operation, which dies when its time has come."""

        def operation(*words: Any, **keywords: Any) -> Any:
            self._count += 1
            dies = self._count == self._at
            if dies and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*words, **keywords)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return operation


class Doomed:
    """Passes everything on to a store or host, and counts what it is asked to do."""

    def __init__(self, inner: object, doom: Doom, verbs: set[str]) -> None:
        self._inner = inner
        self._doom = doom
        self._verbs = verbs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._doom.around(found) if name in self._verbs else found


class DoomedSession(Session):
    """The session of a command whose stores and programs count."""

    def __init__(self, arguments: argparse.Namespace, doom: Doom) -> None:
        super().__init__(arguments)
        self._doom = doom
        self.host = cast("LocalHost", Doomed(self.host, doom, {"run", "spawn"}))

    def store_at(self, address: str, pace: Pace, patience: float) -> Store:
        store = super().store_at(address, pace, patience)
        return cast("Store", Doomed(store, self._doom, VERBS))


def doomed_run(words: list[str], doom: Doom) -> int:
    arguments = build_parser(words).parse_args(words)
    return backup_run.run(DoomedSession(arguments, doom))


def doomed(request: dict[str, Any]) -> int:
    if request["doomed"] == "run":
        return doomed_run(request["words"], Doom(request["at"], request["when"]))
    inner = open_store(request["vault"], Unlimited())
    doom = Doom(request["at"], request["when"])
    store = cast("Store", Doomed(inner, doom, VERBS))
    base = state_folder(os.environ)
    clock = SystemClock()
    if request["doomed"] == "init":
        owner = Owner(parse_recipient(request["recipient"]), request["recipient"])
        create_vault(store, Wanted([owner], SMALLEST_SEGMENT, "host"), base, clock)
        return 0
    rewraps = request["doomed"] == "rewrap"
    vault = open_vault(store, base, clock, opened=rewraps)
    if rewraps:
        keys = parse_identities(Path(request["key"]).read_bytes(), "key", None)
        owner = Owner(parse_recipient(request["recipient"]), request["recipient"])
        rewrap(vault, keys, [owner], clock, rotate=request["rotate"])
        return 0
    if request["doomed"] == "prune":
        policy = Policy(daily=1, min_age=0)
        now = int(clock.now())
        wish = Wish(policy, now, predecessors(vault.record), drop=request["drop"])
        looked = look(vault, vault.trust([]), wish)
        remember(vault, looked)
        carry_out(vault, looked, now, lambda _plain, _stored: None)
        return 0
    sender = Sender(clock, "host", {}, 3, lambda _plain, _stored: None)
    if request["doomed"] == "dataset":
        host = cast("Host", Doomed(LocalHost(), doom, {"run", "spawn"}))
        name = request["dataset"]
        listing = list_tree(host, [name], properties_of(vault), deep=False)
        source = open_source(host, vault, listing, vault.trust([]), lambda _: None)
        send_dataset(source, Request(name), sender)
        return 0
    send_archive(vault, plan_stdin("swept"), InputProducer(0), sender)
    return 0


def child(request: dict[str, Any], files: list[int]) -> None:
    """Be the process of one run; never returns."""
    status = 70
    try:
        source = os.open(request.get("stdin") or os.devnull, os.O_RDONLY)
        for fd, place in zip((source, *files), (0, 1, 2), strict=True):
            os.dup2(fd, place)
        os.environ.clear()
        os.environ.update(request["env"])
        os.umask(0o077)
        os.chdir(request.get("folder", "."))
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        status = main(request["argv"]) if "argv" in request else doomed(request)
    except BaseException:  # noqa: BLE001 - a fork must never return
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                child(request, [out.fileno(), err.fileno()])
            _, status = os.waitpid(pid, 0)
            answer = {
                "code": os.waitstatus_to_exitcode(status),
                "out": os.pread(out.fileno(), 1 << 24, 0).decode(),
                "err": os.pread(err.fileno(), 1 << 24, 0).decode(),
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
