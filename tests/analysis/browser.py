"""A headless Chromium through chromedriver's own protocol, which is JSON over HTTP."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_START_SECONDS = 60


class Browser:
    """One session.

    Args:
        address: of chromedriver.
        profile: folder for the profile.
    """

    def __init__(self, address, profile):
        self._address = address
        options = {
            "binary": CHROMIUM,
            "args": [*_FLAGS, f"--user-data-dir={profile}"],
            "perfLoggingPrefs": {"enableNetwork": True},
        }
        capabilities = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = self._ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self._address += f"/{answer['sessionId']}"

    def open(self, url, width, height=900, dark=False):
        """Shows a page in a window of a size; forgets what the logs say of those before."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        # The page that a new window shows may still be asking for its parts.
        self._ask("POST", "/url", {"url": "about:blank"})
        for kind in ("browser", "performance"):
            self._ask("POST", "/se/log", {"type": kind})
        self._ask("POST", "/url", {"url": url})

    def evaluate(self, script):
        """What the script's `return` gives."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def console(self):
        """Messages of the console since the page was opened."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def requested(self):
        """Addresses that the page asked for, and documents that came into its place."""
        entries = self._ask("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in asked if not _by_the_browser(each)]

    def close(self):
        """Ends the session."""
        self._ask("DELETE", "")

    def _devtools(self, command, parameters):
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error


def _by_the_browser(asked):
    """Whether Chromium asks for a part of a page of its own, which no page of ours can."""
    return asked.get("documentURL", "").startswith(("chrome:", "about:", "chrome-search:"))


@contextlib.contextmanager
def browser(profile):
    """Yields a `Browser` with a new profile; both programs end with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or driver.poll() is not None:
                    raise
                time.sleep(0.1)
        session = Browser(f"http://127.0.0.1:{port}/session", profile)
        try:
            yield session
        finally:
            session.close()
    finally:
        driver.terminate()
        driver.wait()
