"""Chromium without a window, asked over a pipe by the DevTools protocol."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time

# `CHROMIUM` names another one than those that are on the path.
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Page:
    """A page of a browser.

    Attributes:
        problems: list of what the browser's console said: errors, and requests that were refused.
    """

    def __init__(self, reads, writes):
        self._reads, self._writes, self._number = reads, writes, 0
        self._session, self.problems = None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        found = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Accessibility"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """The result of a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writes.write(json.dumps(message).encode() + b"\0")
        self._writes.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.problems.append(answer["params"])

    def _read(self):
        data = bytearray()
        while (byte := self._reads.read(1)) != b"\0":
            assert byte, "the browser has gone"
            data += byte
        return json.loads(data)

    def open(self, address, width=900, height=1500):
        """Loads a page."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def value(self, expression):
        """What an expression comes to."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.send("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression, seconds=120):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def press(self, key, text=None, modifiers=0):
        """Presses a key: "Tab", "Enter", or with its text a letter."""
        code = {"Tab": 9, "Enter": 13, "a": 65}.get(key, 0)
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        text = {"text": text} if text else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, selector, text):
        """Puts text into a field, in place of what it holds."""
        self.value(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({selector!r}))")
        self.send("Input.insertText", text=text)

    def choose_files(self, selector, *paths):
        """Chooses files in a field."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def nameless(self):
        """Roles of what can be used and has no name for a screen reader."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "textbox", "spinbutton", "img", "form", "log", "list")
        return [
            node["role"]["value"]
            for node in nodes
            if not node.get("ignored")
            and node["role"]["value"] in roles
            and not node.get("name", {}).get("value")
        ]

    def picture(self, path, scheme):
        """Writes a picture of the page in a color scheme, "light" or "dark"."""
        import base64

        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        found = self.send("Page.captureScreenshot", format="png")
        pathlib.Path(path).write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser(directory):
    """A `Page` of a browser whose profile is in a directory."""
    to_browser, from_browser = os.pipe(), os.pipe()
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
    names = {3: to_browser[0], 4: from_browser[1]}

    def prepare():
        copies = {number: os.dup(end) for number, end in names.items()}
        for number, end in copies.items():
            os.dup2(end, number)

    process = subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={directory}", "about:blank"],
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=prepare,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        with open(from_browser[0], "rb", 0) as reads, open(to_browser[1], "wb", 0) as writes:
            yield Page(reads, writes)
    finally:
        process.kill()
        process.wait()
