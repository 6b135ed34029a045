"""A headless Chromium spoken to over its DevTools pipe: no driver and no package beside Chromium itself."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 60.0
Message = dict[str, Any]


class Page:
    """A page; `events` holds everything that the browser told of it."""

    def __init__(self, write: int, read: int) -> None:
        self.events: list[Message] = []
        self._write, self._read = write, read
        self._buffer = b""
        self._last_id = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int, height: int, mobile: bool = False, dark: bool = False) -> None:
        """Load a file at a size in CSS pixels and wait until it is drawn."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile,
        )  # fmt: skip
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._wait(lambda: any(event.get("method") == "Page.loadEventFired" for event in self.events))
        self.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")

    def evaluate(self, expression: str) -> Any:
        """Run JavaScript in the page and return its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[Message]:
        """Return errors and warnings of console, scripts and content security policy."""
        return [
            event
            for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
            or (event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] != "verbose")
            or (event.get("method") == "Runtime.consoleAPICalled")
        ]

    def requested(self) -> list[str]:
        """Return the addresses that the page asked for."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def call(self, method: str, **params: Any) -> Message:
        """Send a DevTools command and return its result."""
        self._last_id += 1
        message: Message = {"id": self._last_id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answers: list[Message] = []

        def answered() -> bool:
            answers[:] = [event for event in self.events if event.get("id") == message["id"]]
            return bool(answers)

        self._wait(answered)
        self.events.remove(answers[0])
        assert "error" not in answers[0], answers[0]["error"]
        result: Message = answers[0]["result"]
        return result

    def _wait(self, is_over: Any) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not is_over():
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium did not answer within {TIMEOUT_S:g} s"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium ended"
            *whole, self._buffer = (self._buffer + chunk).split(b"\0")
            self.events += [json.loads(message) for message in whole]


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """Start Chromium with a profile of its own and end it afterwards; fails where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "install chromium (Debian: apt-get install chromium) to run the tests marked `system`"
    from_us, to_us = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4. `to_us[1]` is the highest of the four and
    # is copied before it could be overwritten.
    script = f'exec 3<&{from_us[0]} 4>&{to_us[1]}; exec "$0" "$@"'
    process = subprocess.Popen(
        ["bash", "-c", script, chromium, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(from_us[0], to_us[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(from_us[0])
    os.close(to_us[1])
    try:
        yield Page(from_us[1], to_us[0])
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT_S)
        os.close(from_us[1])
        os.close(to_us[0])
