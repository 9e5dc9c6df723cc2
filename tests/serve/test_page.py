"""The page in a real browser, before a real server; by WebDriver (W3C), which is JSON over HTTP."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Server, exported, running

DRIVER = Path("/usr/bin/chromedriver")
BROWSER = Path("/usr/bin/chromium")
# No sandbox, because containers run as root; the others keep the browser from the network.
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element, WebDriver 12.2
# Keys, WebDriver 17.4.2.
ENTER, END, HOME, LEFT, RIGHT = "\ue007", "\ue010", "\ue011", "\ue012", "\ue014"


class Page:
    """A tab of the browser: elements are named by CSS selectors."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client = client
        self._session = session

    def ask(self, method: str, path: str, **body: Any) -> Any:
        json = body if method == "POST" else None
        answer = self._client.request(method, f"/session/{self._session}{path}", json=json)
        assert answer.is_success, answer.text
        return answer.json()["value"]

    def open(self, url: str) -> None:
        self.ask("POST", "/url", url=url)

    def run(self, script: str) -> Any:
        return self.ask("POST", "/execute/sync", script=script, args=[])

    def text(self, selector: str) -> str:
        return str(self.run(f"return document.querySelector('{selector}').textContent"))

    def type(self, selector: str, text: str) -> None:
        element = self.ask("POST", "/element", using="css selector", value=selector)[ELEMENT]
        self.ask("POST", f"/element/{element}/value", text=text)

    def wait_for(self, selector: str, start: str) -> str:
        """The text of an element, as soon as it begins as it should."""
        end = time.monotonic() + 30
        while not (text := self.text(selector)).startswith(start):
            assert time.monotonic() < end, f"{text!r}; state: {self.text('#state')!r}"
            time.sleep(0.05)
        return text

    def errors(self) -> list[str]:
        """What the browser's console says in red, but for answers of 4xx and 5xx."""
        entries = self.ask("POST", "/se/log", type="browser")
        messages = [entry["message"] for entry in entries if entry["level"] == "SEVERE"]
        return [message for message in messages if "Failed to load resource" not in message]


@pytest.fixture(scope="module")
def driver() -> Iterator[httpx.Client]:
    for program in (DRIVER, BROWSER):
        if not program.exists():
            pytest.skip(f"{program} is not here (Debian: chromium, chromium-driver)")
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if found := re.search(r"successfully on port (\d+)", line):
                    break
            else:
                raise AssertionError("chromedriver ended")
            with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=60) as client:
                yield client
        finally:
            process.terminate()


@contextlib.contextmanager
def opened(driver: httpx.Client, url: str) -> Iterator[Page]:
    """A browser of its own, with an empty session."""
    always = {
        "goog:chromeOptions": {"binary": str(BROWSER), "args": SWITCHES},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    answer = driver.post("/session", json={"capabilities": {"alwaysMatch": always}})
    assert answer.is_success, answer.text
    page = Page(driver, answer.json()["value"]["sessionId"])
    try:
        page.open(url)
        yield page
    finally:
        page.ask("DELETE", "")


@pytest.fixture
def page(driver: httpx.Client, server: Server) -> Iterator[Page]:
    with opened(driver, server.url) as page:
        yield page


def answer_of(server: Server, video: Path) -> Any:
    content = video.read_bytes()
    query = {"timeline": True, "hop_seconds": 1}
    headers = {"Content-Type": "video/mp4"}
    url = f"{server.url}/v1/classify"
    return httpx.post(url, content=content, params=query, headers=headers, timeout=60).json()


def test_page_shows_what_the_server_answers(page: Page, server: Server, video: Path) -> None:
    wanted = answer_of(server, video)
    assert page.wait_for("#model-line", "tiny, 5 classes")
    page.type("#file", str(video))
    best = wanted["predictions"][0]["label"]
    assert page.wait_for("#said", "Done") == f"Done: {best}."
    assert page.text("#verdict") == best
    shown = page.run(
        "return [...document.querySelectorAll('#bars .label')].map(e => e.textContent)"
    )
    assert shown == [prediction["label"] for prediction in wanted["predictions"]]
    assert wanted["views"] == 1
    assert page.text("#scope").startswith("One clip, from the middle.")
    windows = wanted["timeline"]["windows"]
    assert page.text("#detail").startswith(f"{len(windows)} answer")
    assert page.run("return document.querySelector('#video').videoWidth") == 128
    assert page.errors() == []


def test_page_has_a_bar_for_each_of_two_classes(
    driver: httpx.Client, tmp_path: Path, video: Path
) -> None:
    count = "return document.querySelectorAll('#bars li').length"
    artifact = exported(tmp_path, num_classes=2)
    with running(artifact) as server, opened(driver, server.url) as page:
        page.wait_for("#model-line", "tiny, 2 classes")
        assert page.run(count) == 2
        page.type("#file", str(video))
        page.wait_for("#said", "Done")
        assert page.run(count) == 2
        assert {"class 0", "class 1"} == set(re.findall(r"class \d", page.text("#bars")))
        assert page.errors() == []


def test_page_says_that_a_file_breaks_off(page: Page, cut_video: Path) -> None:
    page.type("#file", str(cut_video))
    said = page.wait_for("#said", "Done")
    assert re.search(r"The file breaks off after 0:0[0-3]\.\d: the answer is about that part", said)


def test_page_seeks_by_arrow_keys(page: Page, server: Server, video: Path) -> None:
    windows = answer_of(server, video)["timeline"]["windows"]
    page.type("#file", str(video))
    page.wait_for("#said", "Done")
    page.run("document.querySelector('#video').pause()")
    for keys, window in ((HOME + RIGHT, windows[1]), (END + LEFT, windows[-1])):
        page.type(".track", keys)
        spoken = page.run("return document.querySelector('.track').getAttribute('aria-valuetext')")
        assert spoken == (
            f"0:{window['start']:04.1f} of 0:04.0, {window['labels'][0]} {window['scores'][0]:.2f}"
        )
        position = page.run("return document.querySelector('#video').currentTime")
        assert position == pytest.approx(window["start"], abs=0.01)


def test_page_says_why_a_file_is_refused(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "letter.mp4"
    path.write_text("Dear reader, this is no video. " * 100)
    page.type("#file", str(path))
    page.wait_for("#wrong", "The file is no video of a kind that is read here")
    assert page.text("#again") == "Try again"
    assert page.errors() == []


def test_page_asks_for_the_key_and_goes_on_with_it(
    driver: httpx.Client, artifact: Path, video: Path
) -> None:
    with (
        running(artifact, STDEPLOY_SERVE_API_KEY="sesame") as server,
        opened(driver, server.url) as page,
    ):
        page.wait_for("#model-line", "The server wants an API key")
        page.type("#key", "wrong" + ENTER)
        page.wait_for("#key-note", "The server did not accept the key")
        page.type("#key", "sesame" + ENTER)
        page.wait_for("#model-line", "tiny, 5 classes")
        page.type("#file", str(video))
        page.wait_for("#said", "Done")
        assert page.run("return Object.values(sessionStorage)") == ["sesame"]
        assert page.run("return localStorage.length") == 0


def test_the_documentation_runs_under_its_policy(page: Page, server: Server) -> None:
    page.open(f"{server.url}/docs")
    shown = "return document.querySelectorAll('.opblock').length"
    end = time.monotonic() + 30
    while (count := page.run(shown)) == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert count == 17
    assert page.errors() == []


def test_page_classifies_what_the_camera_sees(page: Page) -> None:
    page.run("document.querySelector('#camera').click()")
    page.wait_for("#said", "Live: class ")
    page.run("document.querySelector('#camera').click()")
    page.wait_for("#said", "The camera is off")
    assert page.errors() == []
