"""The status page as a person sees it, in a real browser; and its metrics."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from browser import Browser, chromium, shown_after
from labs import lab_of_two
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.director.lab.rig import Rig

pytestmark = pytest.mark.system

PORT = 9180
WITHIN = 1.0


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with lab_of_two("chromium", "curl", more=STATUS) as rig:
        yield rig


STATUS = f'[status]\nlisten = "127.0.0.1:{PORT}"\n'


@pytest.fixture
def page(rig: Rig) -> Iterator[Browser]:
    """The page of director b, the one that survives."""
    with chromium(["ip", "netns", "exec", rig.space("b")]) as browser:
        browser.open(f"http://127.0.0.1:{PORT}/")
        browser.wait("document.querySelectorAll('#backends tr').length == 3")
        yield browser


def state(name: str, word: str) -> str:
    return (
        f"document.querySelector('[data-backend={name}]')"
        f"?.children[2].textContent == '{word}'"
    )


def fetch(rig: Rig, path: str, *flags: str) -> str:
    return rig.inside("b", "curl", "-s", *flags, f"http://127.0.0.1:{PORT}{path}")


def command(rig: Rig, director: str, *words: str) -> None:
    argv = [sys.executable, "-m", "standfast", "director", *words]
    socket = str(rig.folder / f"{director}.ctl")
    subprocess.run([*argv, "--socket", socket], check=True, capture_output=True)


def test_a_drain_shows_within_a_second(rig: Rig, page: Browser) -> None:
    assert page.evaluate(state("h3", "up"))
    seconds = shown_after(
        lambda: rig.ask("b", do="drain", backend="h3"), page, state("h3", "draining")
    )
    assert seconds < WITHIN
    assert page.evaluate("[...document.querySelectorAll('#log li')]"
                         ".some(l => l.textContent.includes('h3'))")  # fmt: skip
    seconds = shown_after(
        lambda: rig.ask("b", do="undrain", backend="h3"), page, state("h3", "up")
    )
    assert seconds < WITHIN


def test_a_dead_node_shows_within_a_second(rig: Rig, page: Browser) -> None:
    def stop() -> None:
        rig.kill("h2", signal.SIGSTOP)

    try:
        # Its two failed probes (0.2 s and their deadlines) are part of the second.
        assert shown_after(stop, page, state("h2", "down")) < WITHIN
    finally:
        rig.kill("h2", signal.SIGCONT)
    page.wait(state("h2", "up"))


def test_nothing_of_the_page_is_taken_as_markup(rig: Rig, page: Browser) -> None:
    """Names and words come from outside; they are shown as they are."""
    assert "textContent" in fetch(rig, "/")
    assert "innerHTML" not in fetch(rig, "/")
    assert page.evaluate("document.scripts.length") == 1


def test_metrics_are_what_the_status_says(rig: Rig) -> None:
    rig.ask("b", do="drain", backend="h1")
    try:
        families = {
            family.name: family
            for family in text_string_to_metric_families(fetch(rig, "/metrics"))
        }
    finally:
        rig.ask("b", do="undrain", backend="h1")
    states = {
        (s.labels["backend"], s.labels["state"])
        for s in families["standfast_director_backend_state"].samples
        if s.value == 1
    }
    assert {("h1", "draining"), ("h2", "up"), ("h3", "up")} == states
    slots = families["standfast_director_slots"].samples
    shares = {
        s.labels["backend"]: s.value for s in slots if s.labels["service"] == "web"
    }
    assert shares.keys() == {"h2", "h3"}
    assert abs(shares["h2"] / shares["h3"] - 1) < 0.1
    assert families["standfast_director_probes"].samples[0].value > 10
    assert families["standfast_director_master"].samples[0].value == 0


def test_nothing_can_be_changed_from_the_page(rig: Rig) -> None:
    code = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert "405" == fetch(rig, "/", "-X", "POST", *code)
    assert "404" == fetch(rig, "/../etc/passwd", "--path-as-is", *code)
    assert "nosniff" in fetch(rig, "/status.json", "-i")


def test_slow_and_rude_visitors_do_not_hold_the_daemon_up(rig: Rig) -> None:
    """A hundred that open and say nothing, and one with an endless head."""
    script = (
        "import socket,time\n"
        "held=[socket.create_connection(('127.0.0.1',9180)) for _ in range(100)]\n"
        "rude=socket.create_connection(('127.0.0.1',9180))\n"
        "try:\n"
        "    for _ in range(64): rude.sendall(b'A'*65536)\n"
        "except OSError: pass\n"
        "time.sleep(3)\n"
    )
    space = ["ip", "netns", "exec", rig.space("b")]
    with subprocess.Popen([*space, sys.executable, "-c", script]) as visitors:
        time.sleep(1)
        start = time.monotonic()
        assert '"name": "b"' in fetch(rig, "/status.json")
        assert "b" == rig.ask("b", do="status", backends=[])["name"]
        assert time.monotonic() - start < 1
        visitors.wait(timeout=20)


def test_a_failover_shows_within_a_second(rig: Rig, page: Browser) -> None:
    """Last: it costs director a."""
    assert page.evaluate("document.getElementById('role').textContent") == "backup"
    shown = "document.getElementById('role').textContent == 'master'"
    assert shown_after(lambda: rig.power_off("a"), page, shown) < WITHIN
    picture = rig.folder / "page.png"
    page.picture(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
