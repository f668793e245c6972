"""What is on the disk before the commit point, read from the system calls."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import Made, Standfast, incompressible, make_vault, need

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

CALLS = "openat,write,fsync,fdatasync,link,linkat,mkdir,mkdirat,rename,renameat2"


@dataclasses.dataclass(frozen=True)
class Call:
    """One system call: when it began and when it had ended, in lines of the log."""

    name: str
    text: str
    began: int
    ended: int

    @property
    def paths(self) -> list[str]:
        return re.findall(r'"([^"]*)"', self.text)

    @property
    def descriptor(self) -> str:
        """The path of the file that the first argument is open on."""
        match = re.match(r"\d+<([^>]*)>", self.text)
        return match.group(1) if match else ""


def calls_of(log: str) -> list[Call]:
    """Return the calls that succeeded, in the order of their ends."""
    calls: list[Call] = []
    open_calls: dict[str, tuple[str, str, int]] = {}
    for number, line in enumerate(log.splitlines()):
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        resumed = re.match(r"<\.\.\. (\w+) resumed>(.*)", rest)
        if resumed:
            name, text, began = open_calls.pop(thread)
            text += resumed.group(2)
        else:
            match = re.match(r"(\w+)\((.*)", rest)
            if match is None:
                continue
            name, text, began = match.group(1), match.group(2), number
            if text.endswith("<unfinished ...>"):
                text = text.removesuffix("<unfinished ...>")
                open_calls[thread] = (name, text, began)
                continue
        if "= -1 " not in text:
            calls.append(Call(name, text, began, number))
    return calls


def traced(standfast: Standfast, data: bytes, *words: object) -> list[Call]:
    need("strace")
    log = standfast.folder / "trace"
    strace = ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-e", f"trace={CALLS}"]
    done = subprocess.run(
        [*strace, "-o", str(log), *standfast.argv("backup", *words)],
        input=data,
        capture_output=True,
        env=standfast.env,
        cwd=standfast.folder,
        timeout=60,
        check=False,
    )
    if b"ptrace" in done.stderr.lower():
        pytest.skip(f"strace cannot trace here: {done.stderr.decode()}")
    assert 0 == done.returncode, done
    return calls_of(log.read_text())


def named(calls: list[Call]) -> dict[str, Call]:
    """Return path -> the call that gave a finished file its name."""
    giving = {"link", "linkat", "rename", "renameat", "renameat2"}
    return {call.paths[-1]: call for call in calls if call.name in giving}


def flushed(calls: list[Call], path: object) -> list[Call]:
    """Return every flush of a file or folder."""
    flushes = [c for c in calls if c.name in {"fsync", "fdatasync"}]
    return [call for call in flushes if call.descriptor == str(path)]


def between(flushes: list[Call], after: int, before: int) -> bool:
    return any(after < call.began and call.ended < before for call in flushes)


def assert_stable_first(calls: list[Call], folder: Path, signature: Call) -> None:
    """Everything in a folder was flushed, then the folder, then the name came."""
    files = {p: c for p, c in named(calls).items() if p.startswith(f"{folder}/")}
    files = {p: c for p, c in files.items() if "/" not in p[len(f"{folder}/") :]}
    for path, giving in files.items():
        (part,) = giving.paths[:1]
        written = [c for c in calls if c.name == "write" and c.descriptor == part]
        last = max(call.ended for call in written)
        assert between(flushed(calls, part), last, giving.began), path
    others = [c.ended for c in files.values() if c is not signature]
    flushes = flushed(calls, folder)
    assert between(flushes, max(others), signature.began)
    assert between(flushes, signature.ended, max(call.ended for call in calls) + 1)


def test_send_is_stable_before_its_signature(standfast: Standfast, vault: Made) -> None:
    """Objects, their folders and the ledger's promise last before the commit point.

    The mark by which a dead sender is known lasts before the first object.
    The archive's folder is flushed once more after the signature.
    """
    data = incompressible(300_000)
    calls = traced(standfast, data, "send", "--stdin", "x", vault.path)
    (folder,) = vault.archives()
    names = named(calls)
    # Five segments, the manifest, the sums and the signature.
    assert 8 == sum(path.startswith(f"{folder}/") for path in names)
    signature = names[f"{folder}/SHA256SUMS.minisig"]
    assert_stable_first(calls, folder, signature)
    made = {c.paths[0]: c.ended for c in calls if c.name in {"mkdir", "mkdirat"}}
    for path in (folder, folder.parent):
        upper = flushed(calls, path.parent)
        assert between(upper, made[str(path)], signature.began), path
    mark = standfast.folder / "state/standfast/vaults" / vault.id / "sending"
    assert between(flushed(calls, mark), 0, min(c.began for c in names.values()))
    state = next((standfast.folder / "state").rglob("ledger.jsonl"))
    (ledger, *_) = (c for c in calls if c.name == "openat" and str(state) in c.paths)
    assert between(flushed(calls, state), ledger.ended, signature.began)
    assert between(flushed(calls, state.parent), ledger.ended, signature.began)


def test_init_is_stable_before_its_signature(
    standfast: Standfast, tmp_path: Path
) -> None:
    """So do the vault's own files, and the folders that were made for it."""
    owner = make_vault(standfast, tmp_path / "other").recipient
    place = tmp_path / "new" / "deep" / "vault"
    calls = traced(standfast, b"", "init", place, "--recipient", owner)
    signature = named(calls)[f"{place}/SHA256SUMS.minisig"]
    assert_stable_first(calls, place, signature)
    made = {c.paths[0]: c.ended for c in calls if c.name in {"mkdir", "mkdirat"}}
    for path in (place, place.parent, place.parent.parent):
        upper = flushed(calls, path.parent)
        assert between(upper, made[str(path)], signature.began), path
    for name in ("record.json", "signer.key"):
        kept = next(p for p in named(calls) if p.endswith(f"/{name}"))
        folder = kept.rpartition("/")[0]
        assert between(
            flushed(calls, folder), named(calls)[kept].ended, signature.began
        )
