"""What this machine remembers survives crashes, crowds and damage, or says so."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import wait_until
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.folders import state_folder
from standfast.backup.state import (
    COMMITTED,
    LOCK_SECONDS,
    RESERVED,
    Record,
    Sent,
    Signer,
    VaultState,
    all_records,
    known_at,
)
from standfast.clock import SystemClock
from standfast.errors import DamagedError, LockedError, StandfastError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VAULT = "ab" * 16


def sent(number: int, state: str = COMMITTED) -> Sent:
    return Sent(f"{number:032x}", number, state, "0" * 64, f"name {number}", number)


@pytest.fixture
def memory(tmp_path: Path) -> VaultState:
    state = VaultState(tmp_path, VAULT, SystemClock())
    with state.locked():
        pass
    return state


def record(vault: str = VAULT, *addresses: str) -> Record:
    return Record(
        format=1,
        vault=vault,
        recipient="age1x",
        segment_size=65_536,
        owners=[],
        signers=[Signer(key="RW", name="here")],
        addresses=list(addresses),
    )


def test_a_ledger_reads_back(memory: VaultState) -> None:
    """The last step of each archive counts; numbers never go back."""
    assert 0 == memory.ledger().last_sequence
    assert memory.ledger().last_committed() is None
    memory.note(sent(1, RESERVED))
    memory.note(sent(1))
    memory.note(sent(2, RESERVED))
    ledger = memory.ledger()
    assert 2 == ledger.last_sequence
    assert sent(1) == ledger.last_committed()
    assert [sent(1), sent(2, RESERVED)] == list(ledger.sent.values())


@given(cut=st.integers(1, 150))
def test_a_cut_last_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A last line cut at any byte is as if never written, and then overwritten."""
    state = VaultState(tmp_path_factory.mktemp("cut"), VAULT, SystemClock())
    state.folder.mkdir(parents=True)
    state.note(sent(1))
    path = state.folder / "ledger.jsonl"
    whole = path.stat().st_size
    state.note(sent(2))
    length = path.stat().st_size - whole
    os.truncate(path, whole + length - min(cut, length))
    assert [sent(1)] == list(state.ledger().sent.values())
    state.note(sent(3))
    assert [sent(1), sent(3)] == list(state.ledger().sent.values())
    assert 2 == len(path.read_bytes().splitlines())


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"5", b"[]", b"{}", b"\xff\xff", b'{"archive": "x"}', b"\0" * 80],
)
def test_a_damaged_line(memory: VaultState, line: bytes) -> None:
    """Any other line that cannot be read is an error that names file and line."""
    memory.note(sent(1))
    path = memory.folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    memory.note(sent(2))
    with pytest.raises(DamagedError, match=r"ledger\.jsonl is damaged in line 2"):
        memory.ledger()


def note_many(base: Path, start: int, count: int) -> None:
    state = VaultState(base, VAULT, SystemClock())
    for number in range(start, start + count):
        with state.locked():
            last = state.ledger().last_sequence
            step = Sent(f"{number:032x}", last + 1, COMMITTED, "0" * 64, "x" * 99, 0)
            state.note(step)


def test_many_processes(tmp_path: Path) -> None:
    """Processes that note at once lose nothing and never share a number."""
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=note_many, args=(tmp_path, 1000 * worker, 15))
        for worker in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert 0 == worker.exitcode
    ledger = VaultState(tmp_path, VAULT, SystemClock()).ledger()
    numbers = sorted(one.sequence for one in ledger.sent.values())
    assert list(range(1, 46)) == numbers


HOLDER = """
import sys, time
from pathlib import Path
from standfast.backup.state import VaultState
from standfast.clock import SystemClock
state = VaultState(Path(sys.argv[1]), sys.argv[2], SystemClock())
with state.locked(), state.sending("cd" * 16):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(base: Path) -> subprocess.Popen[bytes]:
    """Another process that holds both locks."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(base), VAULT], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert b"held\n" == holder.stdout.readline()
    return holder


class FakeClock:
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_a_lock_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    """Ten seconds of waiting, and then an error that names the lock."""
    clock = FakeClock()
    state = VaultState(tmp_path, VAULT, clock)
    with hold(tmp_path) as holder:
        try:
            with pytest.raises(LockedError, match="lock") as caught, state.locked():
                pytest.fail("two held one lock")
            assert 11 == caught.value.status
            assert caught.value.hint
            assert LOCK_SECONDS <= clock.time <= LOCK_SECONDS + 1
        finally:
            holder.kill()


def test_locks_end_with_their_process(tmp_path: Path) -> None:
    """A holder that is killed with -9 leaves no lock, and a mark of the dead."""
    state = VaultState(tmp_path, VAULT, SystemClock())
    with hold(tmp_path) as holder:
        assert {"cd" * 16: True} == state.started()
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    wait_until(lambda: state.started() == {"cd" * 16: False}, "the lock to end", 5)
    with state.locked():
        pass
    state.forget_started("cd" * 16)
    assert {} == state.started()


def test_a_send_that_ends_well_leaves_no_mark(memory: VaultState) -> None:
    """While it runs the mark is alive; a failed one leaves its mark, dead."""
    with memory.sending("01" * 16):
        assert {"01" * 16: True} == memory.started()
    assert {} == memory.started()
    with pytest.raises(StandfastError), memory.sending("01" * 16):
        raise StandfastError("failed")
    assert {"01" * 16: False} == memory.started()


def test_the_signing_key_is_made_once(memory: VaultState) -> None:
    """Made when first asked for, the same ever after, for its owner alone."""
    assert memory.signer_key() is None
    key = memory.make_signer_key()
    assert key == memory.make_signer_key() == memory.signer_key()
    assert 0 == (memory.folder / "signer.key").stat().st_mode & 0o077


def test_records(tmp_path: Path) -> None:
    """A record is found by its vault, and by the last address it was seen at."""
    clock = SystemClock()
    assert [] == all_records(tmp_path, clock)
    first = record(VAULT, "/old", "/new")
    second = record("cd" * 16, "/old")
    for one in (first, second):
        VaultState(tmp_path, one.vault, clock).save_record(one)
    assert [first, second] == all_records(tmp_path, clock)
    assert first == known_at(tmp_path, "/new", clock)
    assert second == known_at(tmp_path, "/old", clock)
    assert known_at(tmp_path, "/other", clock) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"recipient": 5},
        {"signers": [{"key": "RW"}]},
        {"addresses": None},
    ],
)
def test_a_damaged_record(memory: VaultState, change: dict[str, object]) -> None:
    """A record of the wrong shape or format is refused, by its path."""
    memory.save_record(record())
    path = memory.folder / "record.json"
    document = json.loads(path.read_text()) | change
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedError, match=r"record\.json"):
        memory.record()


def test_a_record_may_know_more(memory: VaultState) -> None:
    """Keys of a later standfast are passed over."""
    memory.save_record(record())
    path = memory.folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    assert record() == memory.record()


def test_where_the_state_lies() -> None:
    """XDG_STATE_HOME counts if it is absolute, as its specification says."""
    assert "/x/standfast" == str(state_folder({"XDG_STATE_HOME": "/x"}))
    for value in ("", "relative"):
        found = state_folder({"XDG_STATE_HOME": value})
        assert str(found).endswith("/.local/state/standfast")


@pytest.mark.parametrize("name", ["record.json", "signer.key", "ledger.jsonl"])
def test_memory_that_cannot_be_read(memory: VaultState, name: str) -> None:
    """What is there but cannot be read is an error, never as if it were not."""
    (memory.folder / name).mkdir()
    readers: dict[str, Callable[[], object]] = {
        "record.json": memory.record,
        "signer.key": memory.signer_key,
        "ledger.jsonl": memory.ledger,
    }
    read = readers[name]
    with pytest.raises(StandfastError, match=f"cannot read .*{name}"):
        read()
