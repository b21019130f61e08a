"""The real page in a real browser: headless Chromium, a page process and a service process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.face_alignment import align, prepare
from tests.page import PEOPLE, SIDE, THRESHOLD, cosine, encoded, face_service, snapshot_of
from tests.service import ROOT

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
webdriver = pytest.importorskip("selenium.webdriver")
support = pytest.importorskip("selenium.webdriver.support.ui")
exceptions = pytest.importorskip("selenium.common.exceptions")
keyboard = pytest.importorskip("selenium.webdriver.common.keys").Keys
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium and chromium-driver are not installed", allow_module_level=True)

WAIT_SECONDS = 30.0
PHOTO, POINTS = snapshot_of(PEOPLE["alice"][0])
# What a job's line has shown: its state and progress at every change.
WATCH = """
window.seen = [];
new MutationObserver(() => {
  const job = document.querySelector("#jobs > li"), bar = job?.querySelector("progress");
  if (job) window.seen.push([job.dataset.state, bar ? bar.value : null]);
}).observe(document.getElementById("jobs"), {childList: true, subtree: true, attributes: true});
"""


DROP = """
const [name, data] = arguments, transfer = new DataTransfer();
transfer.items.add(new File([Uint8Array.from(data)], name));
document.getElementById("drop").dispatchEvent(
  new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""


@dataclass(frozen=True)
class Browser:
    """A tab on the page's address."""

    driver: Any
    address: str
    token: str

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        """Clicks on the element; again on the one in its place if it is redrawn meanwhile."""
        self.wait(lambda _: self.find(selector).click() or True, f"{selector}: clicked")

    def text_of(self, selector: str) -> str:
        """The text of the element, or of the one in its place if it is redrawn meanwhile."""
        (text,) = self.wait(lambda _: [self.find(selector).text], f"{selector}: read")
        return str(text)

    def wait_for(self, selector: str, text: str) -> Any:
        """The element, when it is shown and its text begins like this."""

        def there(_: Any) -> Any:
            found = self.all(selector)
            return found and found[0].is_displayed() and found[0].text.startswith(text) and found[0]

        return self.wait(there, f"{selector}: {text}")

    def wait(self, condition: Any, what: str) -> Any:
        redrawn = [exceptions.StaleElementReferenceException]
        wait = support.WebDriverWait(self.driver, WAIT_SECONDS, 0.05, redrawn)
        return wait.until(condition, what)

    def drag_marker(self, number: int, by: tuple[int, int]) -> None:
        actions = webdriver.ActionChains(self.driver, duration=0)
        actions.drag_and_drop_by_offset(self.all(".marker")[number], *by).perform()

    def click_photo(self, x: float, y: float) -> None:
        """Clicks on a pixel of the photo."""
        picture = self.find("#picture")
        width, height = self.run("return [arguments[0].width, arguments[0].height]", picture)
        right = (x + 0.5) * width / PHOTO.shape[1] - width / 2
        down = (y + 0.5) * height / PHOTO.shape[0] - height / 2
        actions = webdriver.ActionChains(self.driver, duration=0)
        actions.move_to_element_with_offset(picture, round(right), round(down)).click().perform()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "headless=new",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1200,900",
    ):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own does not start for root
    with face_service(tmp_path) as server, (tmp_path / "page.log").open("wb") as log:
        command = [sys.executable, "-m", "runtime", "page", str(server.plans[0]), "--insecure-toy"]
        command += ["--server", server.url, "--token-file", str(tmp_path / "token")]
        command += ["--keys", str(tmp_path / "keys"), "--threshold", str(THRESHOLD)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("open http://127.0.0.1:"), (tmp_path / "page.log").read_text()
            driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
            try:
                yield Browser(driver, *line.split()[1].split("/#token="))
            finally:
                driver.quit()
        finally:
            process.kill()
            more, _ = process.communicate()
    # Nothing that passed is printed.
    assert more == ""
    assert (tmp_path / "page.log").read_text().splitlines() == [
        "warning: this plan is INSECURE: its ring is a toy, for tests only",
        "uploading the evaluation keys, unless the service has them",
    ]


def test_enrol_verify_delete(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "snapshot.png").write_bytes(encoded(PHOTO))

    # Without the token there is nothing to see; with it, the tab keeps it over a reload.
    browser.driver.get(browser.address)
    browser.wait_for("#connection", "This tab does not belong to the session that is running now.")
    browser.driver.get(f"{browser.address}/#token={browser.token}")
    browser.wait_for("#session", "Photos are encrypted by the program on this computer")
    assert browser.driver.current_url == f"{browser.address}/"
    assert not browser.find("#connection").is_displayed()
    assert not browser.find("#enrol-button").is_enabled()

    # A photo, and its five points by clicks, the last one by the keyboard.
    browser.find("#file").send_keys(str(tmp_path / "snapshot.png"))
    browser.wait_for("#photo-facts", "snapshot.png, 300 × 240 pixels")
    before = places(browser)[3]
    browser.drag_marker(3, (36, -24))
    assert browser.find("#choices input:checked").get_attribute("value") == "3"
    shown = browser.find("#picture").size["width"] / PHOTO.shape[1]
    assert np.abs((places(browser)[3] - before) * shown - [36, -24]).max() <= 1.5
    browser.all("#choices input")[0].click()
    for x, y in POINTS[:4]:
        browser.click_photo(x, y)
    set_by_keyboard(browser, POINTS[4])
    for found, point in zip(places(browser), POINTS, strict=True):
        assert np.abs(found - point).max() <= 1.0
    assert_usable(browser)

    # A name that is none, and one that is; the job is watched to its end.
    browser.find("#name").send_keys("../carol\n")
    problem = browser.wait_for("#problem", "'../carol' cannot be the name of a template.")
    assert problem.text.endswith("Use up to 100 letters, digits, dots, dashes and underscores.")
    browser.find("#name").clear()
    browser.find("#name").send_keys("carol")
    browser.run(WATCH)
    browser.click("#enrol-button")
    browser.wait_for("#jobs > [data-state=done] .job-title", "Enrol carol")
    browser.wait_for("#people > li", "carol")
    assert not browser.find("#problem").is_displayed()
    seen = browser.run("return window.seen")
    assert seen[-1] == ["done", None]
    shares = [share for state, share in seen if state in ("queued", "running")]
    assert shares and shares == sorted(shares) and 0.0 <= shares[0] <= shares[-1] <= 1.0

    # The same person on another photo, which is aligned: the page sees that by its size.
    browser.run(DROP, "aligned.png", [*encoded(PEOPLE["alice"][1])])
    browser.wait_for("#photo-facts", "aligned.png, 112 × 112 pixels")
    assert browser.find("#aligned").is_selected()
    assert not browser.find("#markers").is_displayed()
    browser.click("#verify-button")
    browser.wait_for("#jobs > li:first-child .decision", "The same person as carol")
    score = browser.text_of("#jobs > li:first-child td")
    expected = cosine(prepare(align(PHOTO, POINTS), SIDE), prepare(PEOPLE["alice"][1], SIDE))
    assert float(score) == pytest.approx(expected, abs=0.01)  # points are set to half a pixel
    assert browser.text_of("#jobs > li:first-child caption") == "Cosine, threshold 0.975"

    # After a reload all is there again; then it is deleted.
    browser.driver.refresh()
    browser.wait_for("#jobs > li:first-child .decision", "The same person as carol")
    browser.click("#people button")
    browser.wait_for("#confirm-text", "Delete the template of carol?")
    browser.click("#confirm-no")
    assert browser.text_of("#people > li").startswith("carol")
    browser.click("#people button")
    browser.click("#confirm-yes")
    browser.wait_for("#no-people", "Nobody yet.")
    for _ in range(2):
        count = len(browser.all("#jobs > li"))
        browser.click("#jobs button")
        browser.wait(lambda _, n=count: len(browser.all("#jobs > li")) == n - 1, "dismissed")
    browser.wait_for("#no-jobs", "Nothing is under way.")
    assert_usable(browser)

    # Nothing came from elsewhere, and the policy was not offended; 401 and 422 were meant.
    loaded = browser.run("return performance.getEntriesByType('resource').map((x) => x.name)")
    assert loaded and all(name.startswith(f"{browser.address}/") for name in loaded)
    complaints = [entry["message"] for entry in browser.driver.get_log("browser")]
    assert all("status of 401" in text or "status of 422" in text for text in complaints), (
        complaints
    )


def places(browser: Browser) -> list[np.ndarray]:
    """Where the points are, from what the page says of them."""
    labels = [marker.accessible_name for marker in browser.all(".marker")]
    assert labels[0].startswith("left eye, ")
    return [np.array([float(w) for w in label.split() if w.isdigit()]) for label in labels]


def set_by_keyboard(browser: Browser, point: np.ndarray) -> None:
    """Moves the last point with the arrow keys."""
    *_, marker = browser.all(".marker")
    across, down = (int(n) for n in np.round(point - places(browser)[-1]))
    for steps, keys in (
        (across, (keyboard.LEFT, keyboard.RIGHT)),
        (down, (keyboard.UP, keyboard.DOWN)),
    ):
        tens, ones = divmod(abs(steps), 10)
        marker.send_keys(*[keyboard.SHIFT, *[keys[steps > 0]] * tens, keyboard.NULL] * bool(tens))
        marker.send_keys(*[keys[steps > 0]] * ones)


def assert_usable(browser: Browser) -> None:
    """Every control has a name, and nothing is wider than the window, which may be narrow."""
    for control in browser.all("button, input, select"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    for width, height in ((400, 800), (1200, 900)):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        root = "document.documentElement"
        assert browser.run(f"return {root}.scrollWidth <= {root}.clientWidth")
