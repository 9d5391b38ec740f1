"""A headless Chromium led over a pipe (DevTools protocol): what a page logs, asks the network for, and looks like."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-extensions",
    "--remote-debugging-pipe",
)
# seconds; a busy machine starts a browser slowly
PATIENCE = 60


def find_chromium():
    """The browser on the PATH, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """A browser with one tab; a context manager. ``errors`` and ``requests`` are those since the last :meth:`open`."""

    def __init__(self, folder, dark=False):
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        settings = ["--blink-settings=preferredColorScheme=0"] if dark else []
        command = [find_chromium(), *_FLAGS, *settings, f"--user-data-dir={folder}", "about:blank"]

        def take_pipes():
            # the protocol's pipes are descriptors 3 and 4; first out of the way, since either may be one of them
            one, other = os.dup(theirs), os.dup(answers)
            os.dup2(one, 3)
            os.dup2(other, 4)

        self._process = subprocess.Popen(
            command, close_fds=False, preexec_fn=take_pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(answers)
        os.set_blocking(self._in, False)
        self._buffer, self._number, self._waiting = b"", 0, {}
        self.errors, self.requests, self._loaded, self._session = [], [], False, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def send(self, method, **parameters):
        """The result of one command."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        self._until(lambda: number in self._waiting)
        answer = self._waiting.pop(number)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, address, width, height=900, scheme="light", media=""):
        """Load a page at a width in CSS pixels and wait until its script has run."""
        self.errors, self.requests, self._loaded = [], [], False
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)
        self.send("Page.navigate", url=address)
        self._until(lambda: self._loaded)
        # charts draw themselves when they know their width
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def run(self, expression):
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path, whole=True):
        """The whole page as a PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    def print_pdf(self, path):
        """The page as it prints."""
        answer = self.send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    def _until(self, done):
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "the browser does not answer"
            assert self._process.poll() is None, "the browser has ended"
            try:
                self._buffer += os.read(self._in, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
            *messages, self._buffer = self._buffer.split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message):
        method, told = message.get("method"), message.get("params", {})
        if "id" in message:
            self._waiting[message["id"]] = message
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(f"{told['type']}: {[one.get('value') for one in told['args']]}")
        elif method == "Log.entryAdded":
            self.errors.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
