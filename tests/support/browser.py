"""A real Chromium without a window, steered over a pipe by the DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Through shadow roots too: half of TensorBoard is drawn inside them.
WALK = """
function* walk(node) {
  yield node;
  if (node.shadowRoot) yield* walk(node.shadowRoot);
  for (const child of node.childNodes) yield* walk(child);
}
const hidden = new Set(["STYLE", "SCRIPT", "TEMPLATE"]);
"""
TEXT = (
    WALK
    + """
[...walk(document.body)].filter(n => n.nodeType === 3 && !hidden.has(n.parentNode.nodeName))
  .map(n => n.textContent.trim()).filter(t => t).join("\\n")
"""
)
PICTURES = (
    WALK
    + """
[...walk(document.body)].filter(n => n.nodeName === "IMG" && n.naturalWidth > 0)
  .map(n => [n.naturalWidth, n.naturalHeight])
"""
)


def wait_until(ready, seconds, output):
    """Wait until ready() is true; fail with describe() when it takes longer."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, output()
        time.sleep(0.2)


class Browser:
    """One page of one browser."""

    def __init__(self, profile: Path) -> None:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is None:
            pytest.skip("chromium not found: on Debian, apt-get install chromium")
        off = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
        options = [f"--disable-{name}" for name in off]
        options += ["--headless", "--no-sandbox", "--no-first-run", "--window-size=1400,1000"]
        from_us, self._to = os.pipe()
        self._from, to_us = os.pipe()
        # The protocol wants these very numbers.
        shell = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        command = [chromium, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        with (profile.parent / "chromium.txt").open("w") as output:
            self._process = subprocess.Popen(
                ["bash", "-c", shell, "bash", *command, "about:blank"],
                pass_fds=(from_us, to_us),
                stdout=output,
                stderr=output,
            )
        os.close(from_us)
        os.close(to_us)
        self._number, self._rest, self._session = 0, b"", None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        result = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = result["sessionId"]

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:  # until its answer; events in between are passed over
            while b"\0" not in self._rest:
                read = os.read(self._from, 1 << 20)
                assert read, "chromium has ended"
                self._rest += read
            line, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script):
        """Return what a script's last expression is worth."""
        result = self._call("Runtime.evaluate", expression=f"{{{script}}}", returnByValue=True)
        return result["result"].get("value")

    def open(self, address: str, *wanted: str, pictures: int = 0) -> None:
        """Open a page and wait until it shows some texts, and so many pictures."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=address)

        def missing():
            text = self.text()
            there = len(self.evaluate(PICTURES) or [])
            return [each for each in wanted if each not in text], max(0, pictures - there)

        wait_until(lambda: missing() == ([], 0), 60, lambda: f"{missing()} of {self.text()}")

    def text(self) -> str:
        """Return all that is written on the page, a line each piece."""
        return self.evaluate(TEXT) or ""

    def screenshot(self, path: Path) -> None:
        """Write what the window shows, as a PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(120)
        os.close(self._to)
        os.close(self._from)


def take(browser, path):
    """Keep a screenshot, which shows something beside the menus."""
    browser.screenshot(path)
    with Image.open(path) as image:
        contents = np.asarray(image.convert("L"))[80:, 420:]
    assert contents.std() > 5, "the page is empty"
