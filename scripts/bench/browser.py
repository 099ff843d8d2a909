"""A headless Chromium, driven by ChromeDriver's HTTP protocol (WebDriver)."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

from host import CleanUp

DRIVER, BROWSER = "chromedriver", "chromium"
# What the driver says of the port that it chose.
STARTED = re.compile(r"started successfully on port (\d+)")
TIMEOUT_S = 60
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,800",
]


def missing() -> str | None:
    lacking = next((program for program in (DRIVER, BROWSER) if not shutil.which(program)), None)
    return f"{lacking} is not installed (scripts/setup.sh --cluster)" if lacking else None


class Browser:
    """One window with an empty profile."""

    def __init__(self, clean_up: CleanUp) -> None:
        profile = clean_up.scratch("browser")
        # In a namespace of processes of their own, whose end is that of all of them.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        self._driver = subprocess.Popen(
            [*command, DRIVER, "--port=0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        clean_up.add(self.stop)
        found = (STARTED.search(line) for line in self._driver.stdout)
        started = next(filter(None, found), None)
        if started is None:
            raise RuntimeError(f"{DRIVER} does not start")
        options = {"args": [*ARGUMENTS, f"--user-data-dir={profile}/profile"]}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options}
        self._url = f"http://127.0.0.1:{started[1]}/session"
        self._url += f"/{self._ask('', capabilities={'alwaysMatch': capabilities})['sessionId']}"

    def _ask(self, path: str, **body):
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{DRIVER}: {error.read().decode(errors='replace')[:400]}") from error

    def go(self, url: str) -> None:
        """Opens an address and waits until it is loaded."""
        self._ask("/url", url=url)

    def run(self, script: str, *arguments):
        """The value that the body of a function of JavaScript returns, or that its promise comes to."""
        return self._ask("/execute/sync", script=script, args=list(arguments))

    def stop(self) -> None:
        self._driver.kill()
        self._driver.wait()
