"""Probes against real servers, on loopback."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from conftest import need

from standfast.director.config import parse_config
from standfast.director.health import Outcome, Verdict
from standfast.director.probes import ask, open_probe
from standfast.director.probes.haproxy import judge_words
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """
[service.web]
virtual = ["192.0.2.1:80"]
[backend.h1]
address = "127.0.0.1"
[probe.p]
interval = "200ms"
"""
HAPROXY = """
global
  stats socket {folder}/s level admin
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 1s
frontend f
  bind 127.0.0.1:{port}
  stats enable
  stats uri /stats
  acl stats path_beg /stats
  http-request return content-type text/plain string hello unless stats
backend one
  server s 127.0.0.1:1
backend two
  server s 127.0.0.1:1
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def probe(port: int, settings: str) -> Outcome:
    config = parse_config(f"{CONFIG}port = {port}\n{settings}")
    host = LocalHost()
    try:
        return asyncio.run(ask(open_probe(config, "h1", host), 0.5))
    finally:
        host.close()


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    need("haproxy")
    folder = tmp_path_factory.mktemp("haproxy")
    port = free_port()
    (folder / "cfg").write_text(HAPROXY.format(folder=folder, port=port))
    command = ["haproxy", "-db", "-f", str(folder / "cfg")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if (folder / "s").exists():
            break
        time.sleep(0.05)
    try:
        yield port, folder / "s"
    finally:
        process.kill()
        process.wait()


def runtime(path: Path, command: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(command.encode() + b"\n")
        sock.recv(4096)


def test_tcp_and_its_refusal(haproxy: tuple[int, Path]) -> None:
    assert probe(haproxy[0], 'type = "tcp"').verdict is Verdict.PASS
    refused = probe(free_port(), 'type = "tcp"')
    assert Outcome(Verdict.FAIL, "connection refused") == refused


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ('type = "http"', Verdict.PASS),
        ('type = "http"\nbody = "hello"', Verdict.PASS),
        ('type = "http"\nbody = "goodbye"', Verdict.FAIL),
        ('type = "http"\nstatus = [204]', Verdict.FAIL),
        ('type = "https"', Verdict.FAIL),
        ('type = "agent"', Verdict.FAIL),
    ],
)
def test_http(haproxy: tuple[int, Path], settings: str, verdict: Verdict) -> None:
    assert verdict is probe(haproxy[0], settings).verdict


def test_haproxy_without_backends_is_down(haproxy: tuple[int, Path]) -> None:
    """By the socket and by the page; a named row counts alone."""
    port, path = haproxy
    ways = [f'type = "haproxy"\nsocket = "{path}"',
            'type = "haproxy"\npath = "/stats;csv"']  # fmt: skip
    for way in ways:
        assert probe(port, way).verdict is Verdict.PASS
        runtime(path, "set server one/s state maint")
        assert probe(port, way).verdict is Verdict.PASS
        named = probe(port, f'{way}\nrows = ["one"]')
        assert Outcome(Verdict.FAIL, "its backend one is down") == named
        runtime(path, "set server two/s state maint")
        assert Outcome(Verdict.FAIL, "all its backends are down") == probe(port, way)
        runtime(path, "set server one/s state ready;set server two/s state ready")


def test_silence_ends_at_the_deadline() -> None:
    """A listener that never answers: its kernel takes the connection."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        start = time.monotonic()
        silent = probe(sock.getsockname()[1], 'type = "http"')
    assert Outcome(Verdict.FAIL, "no answer within 500 ms") == silent
    assert time.monotonic() - start < 1.5


def test_commands() -> None:
    def run(code: str) -> Verdict:
        words = f'["{sys.executable}", "-c", "{code}"]'
        return probe(80, f'type = "command"\ncommand = {words}').verdict

    assert run("import sys; sys.exit(0)") is Verdict.PASS
    assert run("import sys; sys.exit('{address}' == '127.0.0.1')") is Verdict.FAIL
    missing = probe(80, 'type = "command"\ncommand = ["/none/such"]')
    assert missing.verdict is Verdict.UNKNOWN


def test_our_own_want_of_descriptors_is_unknown() -> None:
    """EMFILE says nothing of the backend."""
    code = (
        "import asyncio, resource, os\n"
        "from standfast.director.probes import ask\n"
        "from standfast.director.probes.tcp import TcpProbe\n"
        "async def main():\n"
        "    held = [os.open('/dev/null', 0) for _ in range(20)]\n"
        "    top = max(held) + 1\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (top, top))\n"
        "    print((await ask(TcpProbe(('127.0.0.1', 9), 0), 1)).verdict.value)\n"
        "asyncio.run(main())\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "unknown\n"


@pytest.mark.parametrize(
    ("line", "verdict", "share", "drain"),
    [
        ("up\n", Verdict.PASS, 100, False),
        ("ready 50%\n", Verdict.PASS, 50, False),
        ("drain\n", Verdict.PASS, 100, True),
        ("maint # at night\n", Verdict.PASS, 100, True),
        ("75% maxconn:30\n", Verdict.PASS, 75, False),
        ("down\n", Verdict.FAIL, 100, False),
        ("fail # disk\n", Verdict.FAIL, 100, False),
        ("\n", Verdict.FAIL, 100, False),
        ("HTTP/1.1 400\n", Verdict.FAIL, 100, False),
    ],
)
def test_agent_words(line: str, verdict: Verdict, share: int, *, drain: bool) -> None:
    found = judge_words(line)
    assert (verdict, share, drain) == (found.verdict, found.share, found.drain)
