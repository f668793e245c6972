"""Telling people how a run ended: a command, a webhook.

The URL and the token are read from files that only their owner may read, and appear
in no message: of a webhook that failed the reason is told, and no more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from standfast.backup.secret_files import read_first_line
from standfast.errors import StandfastError, UsageError
from standfast.host.hooks import run_hook
from standfast.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.backup.config import NotifySection

FAILURE = "failure"
RECOVERY = "recovery"
SUCCESS = "success"
LARGEST_ANSWER = 64 * 1024


@dataclass(frozen=True)
class Message:
    """What is told.

    Attributes:
        event: FAILURE, RECOVERY or SUCCESS.
        subject: one line.
        text: the whole, for a person.
        document: the same for a program.
    """

    event: str
    subject: str
    text: str
    document: Mapping[str, Any]


def event_of(*, failed: bool, before: bool) -> str:
    """Return what a run means to those who wait for news.

    Args:
        failed: whether it failed, in whole or in part.
        before: whether the run before it had.
    """
    if failed:
        return FAILURE
    return RECOVERY if before else SUCCESS


def is_wanted(event: str, notify: NotifySection) -> bool:
    """Return whether somebody asked to be told of an event."""
    if not notify.command and not notify.webhook_file:
        return False
    events = {
        "failure": {FAILURE},
        "recovery": {FAILURE, RECOVERY},
        "always": {FAILURE, RECOVERY, SUCCESS},
    }
    return event in events[notify.when]


def deliver(message: Message, notify: NotifySection) -> list[str]:
    """Tell everybody; return what went wrong, a line for each that was not reached."""
    timeout = parse_duration(notify.timeout)
    troubles: list[str] = []
    if notify.command:
        try:
            _run(message, notify, timeout)
        except StandfastError as error:
            troubles.append(f"notify.command: {error.message}")
    if notify.webhook_file:
        try:
            _post(message, notify, timeout)
        except StandfastError as error:
            troubles.append(f"notify.webhook_file: {error.message}")
    return troubles


def _run(message: Message, notify: NotifySection, timeout: float) -> None:
    environment = {
        "STANDFAST_EVENT": message.event,
        "STANDFAST_SUBJECT": message.subject,
    }
    run_hook(
        notify.command,
        environment=environment,
        timeout=timeout,
        stdin=message.text.encode() + b"\n",
    )


def _post(message: Message, notify: NotifySection, timeout: float) -> None:
    """Send one POST.

    Raises:
        UsageError: a file cannot be read, or holds no URL.
        StandfastError: the other end could not be reached, or refused.
    """
    # ssl takes a while to import, and most runs have nothing to tell.
    import http.client  # noqa: PLC0415
    import urllib.error  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        """Follows nowhere: the token is for the address that was given."""

        def redirect_request(self, *_: object) -> None:
            """Refuse; the answer's status is the error."""

    url = read_first_line(notify.webhook_file, "URL")
    if not url.startswith(("https://", "http://")):
        raise UsageError("its file holds no http:// or https:// address")
    headers = {"User-Agent": "standfast"}
    if notify.token_file:
        headers["Authorization"] = (
            f"Bearer {read_first_line(notify.token_file, 'token')}"
        )
    data = message.text.encode()
    headers["Content-Type"] = "text/plain; charset=utf-8"
    if notify.body == "json":
        data = json.dumps(message.document).encode()
        headers["Content-Type"] = "application/json"
    try:
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - checked above
        opener = urllib.request.build_opener(NoRedirect)
        with opener.open(request, timeout=timeout) as answer:
            answer.read(LARGEST_ANSWER)
    except urllib.error.HTTPError as error:
        error.close()
        raise StandfastError(f"the webhook answered {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise StandfastError(f"the webhook failed: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return why, without the address, which may be the secret itself."""
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "it took too long"
    words = getattr(inner, "strerror", None) or type(inner).__name__
    return str(words).lower()
