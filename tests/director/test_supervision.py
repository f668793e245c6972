"""What a supervisor and a log see of the daemon: sd_notify, journal, syslog."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

import pytest
from conftest import need, wait_until
from labs import built_lab

from standfast.cli.director_log import in_journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from standfast.director.lab.rig import Rig

pytestmark = pytest.mark.system

WATCHDOG = 0.4


@pytest.fixture(scope="module")
def built() -> Iterator[Rig]:
    with built_lab() as rig:
        rig.start_director("a", election="none")  # writes its configuration, too
        stop(rig)
        yield rig


@pytest.fixture
def rig(built: Rig) -> Iterator[Rig]:
    yield built
    if built.alive("a"):
        built.kill("a", signal.SIGCONT)
        stop(built)


def stop(rig: Rig) -> str:
    rig.kill("a", signal.SIGTERM)
    return rig.wait_end("a")


def start(rig: Rig, *flags: str, **environment: str) -> None:
    words = [f"{name}={value}" for name, value in environment.items()]
    argv = ["env", *words, sys.executable, "-m", "standfast", "director", "run"]
    config = str(rig.folder / "a.toml")
    rig.start("a", [*argv, "--config", config, *flags], space="a")


def started(rig: Rig) -> None:
    rig.wait(lambda: rig.role("a") == "master", "the daemon does not answer")
    rig.wait_up("a")


class Supervisor:
    """The far end of NOTIFY_SOCKET, as sd_notify(3) describes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hear(self, line: str, seconds: float = 10.0) -> list[str]:
        """Wait for a line that begins so; return all that came up to it."""
        heard: list[str] = []
        end = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            heard += self._socket.recv(4096).decode().splitlines()
            if any(text.startswith(line) for text in heard):
                return heard

    def count(self, line: str, seconds: float) -> int:
        """Count such lines for a while."""
        end, found = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                found += self._socket.recv(4096).decode().splitlines().count(line)
            except TimeoutError:
                break
        return found


def test_readiness_status_beat_and_farewell(rig: Rig, tmp_path: Path) -> None:
    with Supervisor(tmp_path / "notify") as supervisor:
        usec = str(int(WATCHDOG * 1e6))
        start(rig, NOTIFY_SOCKET=str(supervisor.path), WATCHDOG_USEC=usec)
        before = supervisor.hear("READY=1")
        assert any(text.startswith("STATUS=the configuration") for text in before)
        # Ready means that it answers and that the rules are there.
        assert "h1" in rig.states("a")
        assert "m_web_0" in rig.inside("a", "nft", "list", "ruleset")
        rig.wait_up("a")
        beats = supervisor.count("WATCHDOG=1", 2.0)
        assert 2.0 / WATCHDOG <= beats <= 2.0 / WATCHDOG * 2 + 2
        rig.ask("a", do="drain", backend="h3")
        assert "STATUS=h3 drains" in "\n".join(supervisor.hear("STATUS=h3 drains"))
        # A loop that hangs is silent, and systemd restarts it.
        rig.kill("a", signal.SIGSTOP)
        supervisor.count("WATCHDOG=1", 0.2)
        assert supervisor.count("WATCHDOG=1", 3 * WATCHDOG) == 0
        rig.kill("a", signal.SIGCONT)
        supervisor.hear("WATCHDOG=1")
        rig.ask("a", do="undrain", backend="h3")
        stop(rig)
        supervisor.hear("STOPPING=1")


def test_a_supervisor_that_has_gone_stops_nothing(rig: Rig, tmp_path: Path) -> None:
    start(rig, NOTIFY_SOCKET=str(tmp_path / "nobody"), WATCHDOG_USEC="100000")
    started(rig)
    time.sleep(0.3)
    assert rig.alive("a")


@pytest.fixture
def syslogd(tmp_path: Path) -> Iterator[tuple[Path, Path, int]]:
    """A real rsyslogd: its local socket, the file it writes, its UDP port."""
    need("rsyslogd")
    place, written = tmp_path / "log", tmp_path / "messages"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = tmp_path / "rsyslog.conf"
    config.write_text(
        f'global(workDirectory="{tmp_path}")\n'
        'module(load="imuxsock" SysSock.Use="off")\n'
        f'input(type="imuxsock" Socket="{place}")\n'
        'module(load="imudp")\n'
        f'input(type="imudp" address="127.0.0.1" port="{port}")\n'
        'template(name="t" type="string" '
        'string="%syslogfacility-text%.%syslogseverity-text% %programname% %msg%\\n")\n'
        f'*.* action(type="omfile" file="{written}" template="t")\n'
    )
    argv = ["rsyslogd", "-n", "-f", str(config), "-i", str(tmp_path / "pid")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(place.exists, "rsyslogd to listen")
            yield place, written, port
        finally:
            process.terminate()
            process.wait(timeout=20)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_decisions_reach_syslog(rig: Rig, syslogd: tuple[Path, Path, int]) -> None:
    place, written, _ = syslogd
    start(rig, "--syslog", str(place))
    started(rig)
    rig.kill("h2", signal.SIGSTOP)
    try:
        rig.wait_states("a", h2="down")
    finally:
        rig.kill("h2", signal.SIGCONT)
    wanted = re.compile(
        r"daemon\.info standfast-director.*h2 is down: .+; web is served"
    )
    wait_until(lambda: wanted.search(text_of(written)), "the decision in the log")
    assert "#000" not in text_of(written)
    assert stop(rig) == ""


def test_syslog_over_the_network(
    syslogd: tuple[Path, Path, int], tmp_path: Path
) -> None:
    """Told before the configuration is read, so that its faults are logged, too."""
    _, written, port = syslogd
    argv = [sys.executable, "-m", "standfast", "director", "run", "--config", "none"]
    words = ["--syslog", f"127.0.0.1:{port}"]
    subprocess.run([*argv, *words], check=False, capture_output=True, cwd=tmp_path)
    wait_until(lambda: "cannot read none" in text_of(written), "the fault in the log")
    assert "daemon.err standfast-director" in text_of(written)


@pytest.mark.parametrize("place", ["/nonexistent/log", "nosuchhost.invalid:514"])
def test_no_syslog_is_one_clear_line(place: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "standfast", "director", "run", "--config", "none"]
    ran = subprocess.run(
        [*argv, "--syslog", place], check=False, capture_output=True, cwd=tmp_path
    )
    assert 2 == ran.returncode
    assert ran.stderr.decode().startswith(f"standfast: error: no syslog at {place}")


def test_the_journal_is_known_by_its_own_stream(rig: Rig, tmp_path: Path) -> None:
    """JOURNAL_STREAM counts for the descriptor that it names, and no other."""
    with (tmp_path / "journal").open("wb") as stream, (tmp_path / "x").open("wb") as x:
        found = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert in_journal(named, stream.fileno())
        assert not in_journal(named, x.fileno())
        assert not in_journal({}, stream.fileno())
        argv = [
            "ip",
            "netns",
            "exec",
            rig.space("a"),
            sys.executable,
            "-m",
            "standfast",
        ]
        argv += ["director", "run", "--config", str(rig.folder / "a.toml")]
        with subprocess.Popen(argv, stderr=stream, env={**os.environ, **named}) as run:
            try:
                wait_until(lambda: "h1 is up" in text_of(tmp_path / "journal"), "h1")
            finally:
                run.terminate()
                run.wait(timeout=20)
    lines = text_of(tmp_path / "journal").splitlines()
    assert lines
    assert all(re.match(r"<[346]>\S", line) for line in lines), lines
