"""Debian's Chromium without a screen, driven by its DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PATIENCE = 60.0


class Page:
    """One tab; `complaints` are what its console and its scripts have said."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found
            if message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))

    def value(self, expression: str) -> Any:
        result = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Its first true value; a page that is not there yet has none."""
        expression = f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()"
        until = time.monotonic() + PATIENCE
        while not (found := self.value(expression)):
            assert time.monotonic() < until, f"never true: {expression}\n{self.complaints}"
            time.sleep(0.1)
        return found

    def look(self, *, width: int, height: int, dark: bool) -> None:
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(directory: Path, url: str) -> Iterator[Page]:
    """A browser of its own, whose profile is below `directory`, at `url`."""
    profile = directory / "profile"
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars",
        "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    with (directory / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_tab(process, profile), max_size=None, ping_interval=None) as connection:
            page = Page(connection)
            page.tell("Page.navigate", url=url)
            yield page
    finally:
        process.terminate()
        process.wait()


def _tab(process: subprocess.Popen[bytes], profile: Path) -> str:
    """The address of its only tab."""
    port = profile / "DevToolsActivePort"
    until = time.monotonic() + PATIENCE
    while not (port.exists() and port.read_text().count("\n")):
        assert process.poll() is None, "the browser has ended"
        assert time.monotonic() < until, "the browser does not start"
        time.sleep(0.05)
    number = port.read_text().split()[0]
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/json", timeout=PATIENCE) as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        if tabs:
            return str(tabs[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < until, "the browser opens no tab"
        time.sleep(0.05)
