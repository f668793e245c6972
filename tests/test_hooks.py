"""Hooks: real commands, with a deadline that holds whatever they start."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from standfast.errors import CommandError, CommandNotFoundError
from standfast.host.hooks import run_hook

if TYPE_CHECKING:
    from pathlib import Path


def shell(line: str, timeout: float = 20, stdin: bytes = b"") -> str:
    environment = {"STANDFAST_JOB": "home"}
    argv = ["/bin/sh", "-c", line]
    done = run_hook(argv, environment=environment, timeout=timeout, stdin=stdin)
    return done.stderr


def test_it_sees_its_input_and_environment() -> None:
    assert "home: words" == shell('echo "$STANDFAST_JOB: $(cat)"', stdin=b"words")


def test_a_failure_comes_with_its_words() -> None:
    with pytest.raises(CommandError, match="ended with status 3: no such table"):
        shell("echo no such table >&2; exit 3")
    with pytest.raises(CommandNotFoundError, match="cannot run /nowhere/hook"):
        run_hook(["/nowhere/hook"], environment={}, timeout=1)


def test_the_deadline_ends_all_that_it_started(tmp_path: Path) -> None:
    """A child that ignores SIGTERM and keeps the output open delays nobody for long."""
    beat = tmp_path / "beat"
    line = f"(trap '' TERM; while :; do date +%N >> {beat}; sleep 0.05; done) & wait"
    start = time.monotonic()
    with pytest.raises(CommandError, match=r"took longer than 0\.5 s"):
        shell(line, timeout=0.5)

    assert time.monotonic() - start < 15
    last = beat.read_bytes()
    time.sleep(0.5)
    assert last == beat.read_bytes()


def test_what_stays_in_the_background_delays_nobody() -> None:
    start = time.monotonic()

    assert "ready" == shell("sleep 3 & echo ready")
    assert time.monotonic() - start < 2


def test_an_interrupt_ends_it_too(tmp_path: Path) -> None:
    """Ctrl-C goes to us alone, since the hook has a group of its own."""
    mark = tmp_path / "pid"

    def interrupt() -> None:
        while not (mark.exists() and mark.read_text().strip()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        shell(f"echo $$ > {mark}; exec sleep 60")
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.killpg(int(mark.read_text()), 0)
