"""A page in a real headless Chromium, driven over the DevTools protocol: what it draws, says and asks for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

PATIENCE = 600.0  # seconds; for hangs only, as a busy machine may take minutes to start a browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str:
    """The browser's path; the test is skipped where there is none. CHROMIUM names one in another place."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH; install one, or set CHROMIUM to its path")
    return found


class Chromium:
    """One browser with one page.

    console: every error and warning the page made; requests: every address it asked for, the page's own included.
    """

    def __init__(self, profile: Path) -> None:
        import websocket

        # What the browser itself would fetch (updates, spelling lists) is none of the page's doing.
        command = [find_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "--hide-scrollbars"]
        command += ["--disable-background-networking", "--disable-component-update", "--remote-allow-origins=*"]
        self.process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.console: list[str] = []
        self.requests: list[str] = []
        self._count = 0
        try:
            port = self._port(profile / "DevToolsActivePort")
            while not (pages := self._pages(port)):
                time.sleep(0.05)
            self._socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=PATIENCE)
        except BaseException:
            self.process.kill()
            raise
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        try:
            self.send("Browser.close")
            self._socket.close()
        finally:
            self.process.kill()
            self.process.wait()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer; what happens meanwhile is noted."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                found: dict[str, Any] = message["result"]
                return found
            self._note(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, awaited if it is a promise; an exception is raised here."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "JavaScript error"))
        return answer["result"].get("value")

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file and wait until its figures are drawn."""
        self.resize(width, height)
        self.console.clear()
        self.requests.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && document.body.dataset.drawn !== undefined")

    def wait(self, condition: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until a JavaScript expression is true; `meanwhile` is called before every look."""
        end = time.monotonic() + PATIENCE
        while not (meanwhile(), self.evaluate(condition))[1]:
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}; console: {self.console}")
            time.sleep(0.05)

    def resize(self, width: int, height: int = 900) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def press(self, key: str) -> None:
        """A key as the focused element gets it from a keyboard, such as "ArrowLeft" or "Home"."""
        code = {"End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def box(self, selector: str) -> list[float]:
        """Left, top, width and height of an element, in the window."""
        place = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        found: list[float] = self.evaluate(f"(b => [b.x, b.y, b.width, b.height])({place})")
        return found

    def screenshot(self, path: Path, selector: str | None = None) -> None:
        """The whole page, or one element of it, as PNG."""
        clip = self.box(selector or "html")
        clip[1] += self.evaluate("scrollY")
        area = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}
        answer = self.send("Page.captureScreenshot", clip=area, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _pages(self, port: int) -> list[dict[str, str]]:
        with urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
            return [target for target in json.load(answer) if target["type"] == "page"]

    def _port(self, file: Path) -> int:
        end = time.monotonic() + PATIENCE
        while True:
            lines = file.read_text().split() if file.exists() else []
            if lines:
                return int(lines[0])
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Chromium did not start (exit {self.process.poll()})")
            time.sleep(0.05)

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message["method"], message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.console.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.console.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.console.append(str(parameters["args"]))
