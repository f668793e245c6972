"""A headless Chromium, driven through its DevTools pipe, for looking at a page.

JSON messages that end with NUL, on descriptors 3 and 4 of the browser
(``--remote-debugging-pipe``); protocol: https://chromedevtools.github.io/
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests run as root, in a namespace of their own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-extensions",
    "--remote-debugging-pipe",
    "--window-size=900,700",
)


class Browser:
    """One page of one browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write = write
        self._read = read
        self._rest = b""
        self._numbers = itertools.count(1)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attach = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str = attach["sessionId"]

    def open(self, address: str) -> None:
        """Go to a page; it loads in the background."""
        self._page("Page.navigate", url=address)

    def evaluate(self, script: str) -> Any:
        """Return what an expression is on the page now."""
        answer = self._page("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 10.0) -> float:
        """Wait until an expression is true on the page; return for how long."""
        start = time.monotonic()
        while not self.evaluate(script):
            assert time.monotonic() - start < seconds, f"never: {script}"
            time.sleep(0.02)
        return time.monotonic() - start

    def picture(self, path: Path) -> None:
        """Take a picture of what is to be seen."""
        shot = self._page("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def _page(self, method: str, **parameters: Any) -> Any:
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str = "", **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has gone"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)


@contextlib.contextmanager
def chromium(prefix: Sequence[str] = ()) -> Iterator[Browser]:
    """Start a browser, behind the words of ``prefix`` (``ip netns exec ...``)."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Its helpers may write into the folder for a moment after they were killed.
    with tempfile.TemporaryDirectory(
        prefix="standfast-chromium-", ignore_cleanup_errors=True
    ) as folder:
        argv = [*prefix, "chromium", *FLAGS, f"--user-data-dir={folder}"]
        # The browser wants exactly 3 and 4; sh moves ours there.
        shell = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "sh", *argv],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": folder},
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(ours_out, ours_in)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=20)
            os.close(ours_out)
            os.close(ours_in)


def shown_after(act: Callable[[], object], browser: Browser, script: str) -> float:
    """Do something and return the seconds until the page shows it."""
    start = time.monotonic()
    act()
    browser.wait(script)
    return time.monotonic() - start
