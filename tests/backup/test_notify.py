"""Who is told, of what; a real command and a real web server."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from conftest import free_port

from standfast.backup.config import NotifySection
from standfast.backup.notify import Message, deliver, event_of, is_wanted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "s3cr3t-path"
MESSAGE = Message("failure", "backup failed", "what\nfailed", {"event": "failure"})


class Hook(ThreadingHTTPServer):
    """Keeps what was posted; answers as told."""

    def __init__(self, status: int, delay: float) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.status = status
        self.delay = delay
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hook)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), body))
        time.sleep(self.server.delay)
        with contextlib.suppress(OSError):
            self.send_response(self.server.status)
            self.send_header("Location", self.server.url + "-elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def hook(status: int = 200, delay: float = 0) -> Iterator[Hook]:
    server = Hook(status, delay)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def private(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_a_webhook_gets_the_document_and_the_token(tmp_path: Path) -> None:
    with hook() as server:
        notify = NotifySection(
            webhook_file=private(tmp_path / "url", server.url + "\n"),
            token_file=private(tmp_path / "token", "tok\n"),
        )
        assert [] == deliver(MESSAGE, notify)

    ((path, headers, body),) = server.seen
    assert f"/{SECRET}" == path
    assert "Bearer tok" == headers["Authorization"]
    assert {"event": "failure"} == json.loads(body)


def test_a_webhook_may_want_text(tmp_path: Path) -> None:
    with hook() as server:
        url = private(tmp_path / "url", server.url)
        assert [] == deliver(MESSAGE, NotifySection(webhook_file=url, body="text"))

    assert b"what\nfailed" == server.seen[0][2]


@pytest.mark.parametrize("status", [302, 403, 500])
def test_a_refusal_is_told_without_the_address(tmp_path: Path, status: int) -> None:
    """No redirection is followed: the token is for the address that was given."""
    with hook(status) as server:
        url = private(tmp_path / "url", server.url)
        (trouble,) = deliver(MESSAGE, NotifySection(webhook_file=url))

    assert f"notify.webhook_file: the webhook answered {status}" == trouble
    assert 1 == len(server.seen)


def test_a_webhook_that_is_not_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/{SECRET}"
    notify = NotifySection(webhook_file=private(tmp_path / "url", url))
    (trouble,) = deliver(MESSAGE, notify)

    assert "connection refused" in trouble
    assert SECRET not in trouble


def test_a_webhook_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    with hook(delay=3) as server:
        url = private(tmp_path / "url", server.url)
        start = time.monotonic()
        notify = NotifySection(webhook_file=url, timeout="300ms")
        (trouble,) = deliver(MESSAGE, notify)
        assert time.monotonic() - start < 2

    assert "it took too long" in trouble


def test_the_file_must_be_private_and_hold_an_address(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(f"https://example.org/{SECRET}")
    path.chmod(0o644)
    (open_to_all,) = deliver(MESSAGE, NotifySection(webhook_file=str(path)))
    (no_url,) = deliver(
        MESSAGE, NotifySection(webhook_file=private(path, f"ftp://{SECRET}"))
    )
    (gone,) = deliver(MESSAGE, NotifySection(webhook_file=str(tmp_path / "gone")))

    assert "others can read" in open_to_all
    assert "no http:// or https:// address" in no_url
    assert "cannot read" in gone
    assert SECRET not in open_to_all + no_url


def test_a_command_gets_the_text(tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = f'echo "$STANDFAST_EVENT: $STANDFAST_SUBJECT" > {out}; cat >> {out}'
    notify = NotifySection(command=("/bin/sh", "-c", line))

    assert [] == deliver(MESSAGE, notify)
    assert "failure: backup failed\nwhat\nfailed\n" == out.read_text()


def test_one_that_fails_keeps_the_other_from_nothing(tmp_path: Path) -> None:
    with hook() as server:
        notify = NotifySection(
            command=("/bin/false",),
            webhook_file=private(tmp_path / "url", server.url),
        )
        (trouble,) = deliver(MESSAGE, notify)

    assert "notify.command: /bin/false ended with status 1" == trouble
    assert 1 == len(server.seen)


@pytest.mark.parametrize(
    ("failed", "before", "told"),
    [
        (True, False, "failure recovery always"),
        (True, True, "failure recovery always"),
        (False, True, "recovery always"),
        (False, False, "always"),
    ],
)
def test_who_is_told_of_what(*, failed: bool, before: bool, told: str) -> None:
    event = event_of(failed=failed, before=before)
    sections = {
        when: NotifySection(when=when, command=("x",))
        for when in ("failure", "recovery", "always")
    }
    assert told.split() == [w for w, s in sections.items() if is_wanted(event, s)]
    assert not is_wanted(event, NotifySection(when="always"))
