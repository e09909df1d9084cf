"""A browser for the tests: headless Chromium behind its driver, spoken to in the W3C's WebDriver protocol.

That is a handful of JSON requests, https://www.w3.org/TR/webdriver2/, which the standard library can send.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from PIL import Image

REQUIRED = "required"  # the value of GPULSTM_BROWSER with which a missing browser is a failure
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's /dev/shm is often too small
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",  # no network but this machine
)
KEYS = {
    "Enter": "\ue007",
    "Shift": "\ue008",
    "Control": "\ue009",
    "Escape": "\ue00c",
    "ArrowLeft": "\ue012",
    "ArrowRight": "\ue014",
}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for an element's number


def programs() -> tuple[str | None, str | None]:
    """The browser and its driver."""
    return next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")


def why_none() -> str:
    """What is missing, or nothing."""
    browser, driver = programs()
    missing = ["Chromium"] * (browser is None) + ["chromedriver"] * (driver is None)
    return f"{' and '.join(missing)} not found (on Debian: apt install chromium chromium-driver)" if missing else ""


WATCH = """
import subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end():
    sys.stdin.buffer.read()  # until the tests close their side, or are gone
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
threading.Thread(target=end, daemon=True).start()
sys.exit(child.wait())
"""


@contextmanager
def running(command, log, **popen):
    """A process that ends with this block, and also when the tests are killed. Its output goes into ``log``."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", WATCH, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl+C is for the tests, which then end it in order
            **popen,
        )
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(15)
        finally:
            process.kill()
            process.wait()


def announced(process, log, pattern: str, seconds: float = 60) -> str:
    """Waits until the process writes what the pattern says, and returns its group."""
    end = time.monotonic() + seconds
    while True:
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(pattern, text)
        if found:
            return found[1]
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{pattern} was not written within {seconds} s. The output was:\n{text}")
        time.sleep(0.05)


@contextmanager
def browser(folder):
    """A `Browser` whose profile and logs lie in ``folder``."""
    binary, driver = programs()
    logs = folder / "chromium.log", folder / "chromedriver.log"
    switches = [*SWITCHES, "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        switches.append("--no-sandbox")  # Chromium refuses root otherwise, and a container often has nobody else
    # Started here and not by its driver, which would leave it behind when the tests are killed.
    with running([binary, *switches], logs[0]) as chromium, running([driver, "--port=0"], logs[1]) as process:
        there = announced(chromium, logs[0], r"DevTools listening on ws://([\w.:]+)/")
        port = announced(process, logs[1], r"started successfully on port (\d+)")
        wanted = {"goog:chromeOptions": {"debuggerAddress": there}, "goog:loggingPrefs": {"browser": "ALL"}}
        yield Browser(f"http://127.0.0.1:{port}", wanted)


class Browser:
    def __init__(self, driver: str, capabilities: dict):
        self.address = f"{driver}/session"
        session = self.request("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self.address += "/" + session["sessionId"]

    def request(self, method: str, path: str, body: dict | None = None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data=data, headers=headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the driver is on this machine
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                value = json.load(error)["value"]
            raise RuntimeError(f"{value['error']}: {value['message']}") from None

    def open(self, url: str):
        self.request("POST", "/url", {"url": url})

    def script(self, body: str, *arguments):
        """What the JavaScript returns; it finds the arguments in ``arguments``."""
        return self.request("POST", "/execute/sync", {"script": body, "args": list(arguments)})

    def until(self, body: str, *arguments, seconds: float = 60):
        """Waits until the script returns something that is true, and returns that."""
        end = time.monotonic() + seconds
        while True:
            found = self.script(body, *arguments)
            if found:
                return found
            assert time.monotonic() < end, f"not true within {seconds} s: {body} {arguments}"
            time.sleep(0.1)

    def find(self, selector: str, text: str = ""):
        """The first visible element that a CSS selector finds and that contains the text; waits for it."""
        return self.until(
            """return [...document.querySelectorAll(arguments[0])].find(
                   one => one.textContent.includes(arguments[1]) && one.getClientRects().length)""",
            selector,
            text,
        )

    def click(self, element):
        """Clicks as a mouse does: on what is covered or out of sight this raises."""
        self.request("POST", f"/element/{element[ELEMENT]}/click")

    def press(self, *keys: str):
        """Presses the keys together, each a character or one of `KEYS`; they go where the focus is."""
        codes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": "keyDown", "value": code} for code in codes]
        actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self.request("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def type(self, text: str):
        actions = [{"type": kind, "value": character} for character in text for kind in ("keyDown", "keyUp")]
        self.request("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def view(self, width: int, height: int, mobile: bool = False):
        """The size of what is seen, in pixels. Windows as narrow as a phone exist in this way alone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self.request("POST", "/goog/cdp/execute", command)

    def screenshot(self, element=None) -> Image.Image:
        """Of what is seen, or of one element, in RGB."""
        path = f"/element/{element[ELEMENT]}/screenshot" if element else "/screenshot"
        return Image.open(io.BytesIO(base64.b64decode(self.request("GET", path)))).convert("RGB")

    def console(self) -> list[dict]:
        """What was logged since the last call: dictionaries with level, message and source."""
        return self.request("POST", "/se/log", {"type": "browser"})
