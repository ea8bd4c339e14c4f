#!/usr/bin/env python3
"""Look at pages in a real browser without a screen: what it complains of, measures and shows.

    python tools/browser.py page.html --picture page.png --width 1200 --dark

Speaks Chromium's DevTools protocol over two pipes, so that nothing has to be installed but
Chromium itself. The network is off.

Rules of this file
------------------
1. Standard library only.
2. A browser is always ended, with all its processes.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 120.0
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--remote-debugging-pipe"),
)
# Words that lie on other words, and what is wider than the page.
_LOOK = """
(() => {
  const box = (e) => e.getBoundingClientRect();
  const plots = [...document.querySelectorAll("svg")].map((svg) => {
    const texts = [...svg.querySelectorAll("text")].map(
      (e) => ({ words: e.textContent, b: box(e) }));
    const overlaps = [];
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      const [p, q] = [texts[i].b, texts[j].b];
      if (p.left < q.right - 1 && q.left < p.right - 1
          && p.top < q.bottom - 2 && q.top < p.bottom - 2)
        overlaps.push([texts[i].words, texts[j].words]);
    }
    const { width, height } = box(svg);
    const inside = (b) => b.left >= box(svg).left - 1 && b.right <= box(svg).right + 1;
    return { label: svg.getAttribute("aria-label"), css: svg.getAttribute("class"), width, height,
      overlaps, outside: texts.filter((t) => !inside(t.b)).map((t) => t.words),
      n_shapes: svg.querySelectorAll("rect,circle,path,line").length };
  });
  const [timing] = performance.getEntriesByType("navigation");
  return { plots, load_s: timing.loadEventEnd / 1000, paint_s: (performance.getEntriesByName(
      "first-contentful-paint")[0] || { startTime: 0 }).startTime / 1000,
    title: document.title, text: document.body.innerText, n_nodes: document.all.length,
    is_too_wide: document.documentElement.scrollWidth > innerWidth };
})()
"""


class Browser:
    """A running browser with one page; a context manager.

    Raises
    ------
    FileNotFoundError
        If there is no Chromium.
    """

    def __init__(self) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            raise FileNotFoundError(f"no browser: none of {', '.join(NAMES)} is on PATH")
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        self._process = subprocess.Popen(
            # The browser reads from descriptor 3 and writes to 4.
            [
                *("bash", "-c", f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'),
                *(program, *_OPTIONS, f"--user-data-dir={self._folder.name}", "about:blank"),
            ],
            pass_fds=(to_browser, from_browser),
            env=os.environ | {"TMPDIR": self._folder.name},  # it leaves things there when killed
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._unread = b""
        self._n_calls = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Browser:
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attach(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            targets = self.call("Target.getTargets")["targetInfos"]
            pages = [each["targetId"] for each in targets if each["type"] == "page"]
            if pages:
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the browser has no page")
        attached = self.call("Target.attachToTarget", targetId=pages[0], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=True, **offline)

    def close(self) -> None:
        """End the browser."""
        for descriptor in (self._write, self._read):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something, and note what it tells meanwhile."""
        self._n_calls += 1
        message = {"id": self._n_calls, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != self._n_calls:
                self._note(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return dict(answer["result"])

    def open(
        self, path: Path, *, width: int = 1200, height: int = 900, is_dark: bool = False
    ) -> None:
        """Load a page, and wait until it says that it has."""
        self.complaints.clear()
        self.requests.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        self._wait_for_paint()

    def look(self) -> dict[str, Any]:
        """Measure the page: load time, plots with their sizes, words that lie on each other."""
        return dict(self.evaluate(_LOOK))

    def evaluate(self, script: str) -> Any:
        """Run JavaScript in the page, and return what it gives."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def drag(self, x: float, y: float, right: float, down: float) -> None:
        """Press the mouse at a place of the window, move it and let go."""
        steps = (("mousePressed", 0.0), ("mouseMoved", 0.5), ("mouseMoved", 1.0))
        for kind, part in (*steps, ("mouseReleased", 1.0)):
            where = {"x": x + part * right, "y": y + part * down}
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)
        self._wait_for_paint()

    def _wait_for_paint(self) -> None:
        """Let the browser draw twice: what was changed before is then on the screen."""
        twice = "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)))"
        self.evaluate(f"new Promise((done) => {twice})")

    def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _wait_for(self, method: str) -> None:
        while True:
            message = self._next()
            self._note(message)
            if message.get("method") == method:
                return

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self._unread:
            is_there, _, _ = select.select([self._read], [], [], deadline - time.monotonic())
            part = os.read(self._read, 1 << 20) if is_there else b""
            if not part:
                raise TimeoutError(f"the browser ({NAMES[0]}) gave no answer, or has gone")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{told['type']}: {told['args']}")
        elif method == "Log.entryAdded":
            self.complaints.append(f"{told['entry']['level']}: {told['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(str(told["request"]["url"]))


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--picture", type=Path, help="save a picture of the whole page as PNG")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args(argv)
    with Browser() as browser:
        browser.open(options.page, width=options.width, is_dark=options.dark)
        seen = browser.look()
        if options.picture:
            browser.picture(options.picture)
        seen.pop("text")
        seen |= {"complaints": browser.complaints, "requests": browser.requests}
    print(json.dumps(seen, indent=1))
    return 1 if seen["complaints"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
