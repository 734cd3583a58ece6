"""The page in a real browser."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import small_networks as small
from helpers.browser import asked, chromium, until
from helpers.demo_pages import page_in

from stm.masks import read_mask
from stm.visualization import write_video

FIRST_ONLY = "First frame only"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(folder):
    with page_in(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser(folder):
    with chromium(folder / "downloads") as chrome:
        yield chrome


def errors(browser) -> list[str]:
    """What the browser found wrong."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


class Screen:
    """What a visitor does with the page."""

    def __init__(self, browser, page: str, size: tuple[int, int] = (1280, 800)) -> None:
        self.browser = browser
        browser.get_log("browser")
        asked(browser)
        browser.set_window_size(*size)
        browser.get(page)
        until(lambda: self.one("#editor canvas") and "frames" in self.one("#video").text)

    def one(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def seen(self, selector: str):
        """A part, scrolled to the middle of the window."""
        part = self.one(selector)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", part)
        return part

    def press(self, selector: str) -> None:
        until(lambda: self.one(selector).is_enabled())
        self.seen(selector).click()

    def choose(self, selector: str, text: str) -> None:
        self.press(f"{selector} input")
        until(lambda: [option for option in self.all("[role=option]") if text in option.text])[0].click()

    def paint(self, color: int, start: tuple[int, int], by: tuple[int, int]) -> None:
        """A stroke on the canvas with a brush of the palette; offsets are from its middle."""
        self.press("#editor button[aria-label='Brush']")
        self.press("#editor button[aria-label='Color']")
        until(lambda: self.all("#editor button.color"))[color].click()
        self.one("#editor button[aria-label='Brush']").click()  # or the palette would be in the way
        until(lambda: not self.all("#editor button.color"))
        self.drag(self.seen("#editor canvas"), start, by)

    def drag(self, part, start: tuple[int, int], by: tuple[int, int]) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(self.browser).move_to_element_with_offset(part, *start).click_and_hold()
        actions.move_by_offset(*by).release().perform()

    def click(self, selector: str, at: tuple[int, int]) -> None:
        """A click at an offset from the middle."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).move_to_element_with_offset(self.seen(selector), *at).click().perform()

    def done(self) -> None:
        until(lambda: self.one("#progress").text.startswith("Done") and self.all("#usage img"))
        until(lambda: self.one("#film").is_enabled())

    def keep(self, path: Path) -> None:
        """A picture of all of the page."""
        height = self.browser.execute_script("return document.documentElement.scrollHeight")
        width = self.browser.get_window_size()["width"]
        self.browser.set_window_size(width, height + 150)
        self.browser.save_screenshot(str(path))


def test_in_a_browser_it_runs_looks_and_asks_nobody_else(browser, page, tmp_path, folder):
    screen = Screen(browser, page)
    screen.press("#run")
    screen.done()
    screen.click("#first-picture img", (20, 10))
    until(lambda: screen.all("#cards figure"))
    assert len(screen.all("#cards figure")) == 1 + len(set(range(0, 39, 5)) | {38})
    addresses = asked(browser)
    assert addresses and all(address.startswith(page) for address in addresses)
    assert errors(browser) == []
    wide = "return document.documentElement.scrollWidth - window.innerWidth"
    for width in (1280, 500):
        browser.set_window_size(width, 800)
        assert browser.execute_script(wide) <= 0, "the page scrolls to no side"
    screen.keep(tmp_path / "page.png")
    there = set(folder.glob("stm-explore-*/session-*"))
    browser.get("about:blank")
    until(lambda: len(set(folder.glob("stm-explore-*/session-*")) & there) < len(there))


def downloaded(browser_folder: Path, name: str) -> Path:
    """A file that the browser has loaded; it is taken away, so that the next one has its name."""
    file = until(lambda: next((f for f in browser_folder.glob(name) if f.stat().st_size), None))
    return file.rename(file.with_name(f"taken-{len(list(browser_folder.iterdir()))}-{name}"))


def masks_in(file: Path, policy: int) -> np.ndarray:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(file.with_suffix(""))
    return np.stack([read_mask(f) for f in sorted((file.with_suffix("") / f"masks_{policy}").glob("*.png"))])


@pytest.mark.slow
def test_in_a_browser_load_draw_run_scrub_click_compare_correct_download(browser, page, folder, tmp_path):
    from selenium.webdriver.common.keys import Keys

    write_video(tmp_path / "clip.mp4", small.frames(12, (64, 96)).permute(0, 2, 3, 1).numpy(), fps=8)
    screen = Screen(browser, page)
    screen.one("input[data-testid^='Your film']").send_keys(str(tmp_path / "clip.mp4"))
    until(lambda: "clip.mp4 · 12 frames · 96x64" in screen.one("#video").text)
    screen.press("#run")
    until(lambda: "no object is drawn yet" in screen.one("body").text)
    screen.paint(0, (-80, -40), (60, 0))
    screen.paint(1, (30, 40), (60, 0))
    screen.choose("#second", FIRST_ONLY)
    screen.press("#run")
    screen.done()
    assert [FIRST_ONLY in part.text for part in screen.all("#table td:first-child")] == [False, True]

    screen.press("#masks")
    masks = masks_in(downloaded(folder / "downloads", "masks.zip"), 1)
    assert masks.shape == (12, 64, 96) and set(np.unique(masks[0])) == {0, 1, 2}
    (row, column), (other_row, other_column) = (np.argwhere(masks[0] == label).mean(0) for label in (1, 2))
    assert row < 32 < other_row and column < 48 < other_column, "painted where the pointer was"
    screen.press("#film")
    assert downloaded(folder / "downloads", "overlay.mp4").read_bytes()[4:8] == b"ftyp"

    slider = screen.seen("#time input[type=range]")
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 5)
    until(lambda: "Frame 5 · First frame only" in screen.one("#second-picture").text)
    screen.click("#second-picture img", (-20, -10))
    until(lambda: len(screen.all("#cards figure")) == 2)
    assert "frame 5 asks at" in screen.one("#cards").text and "given · 100%" in screen.one("#cards").text
    screen.click("#first-picture img", (-20, -10))
    until(lambda: len(screen.all("#cards figure")) == 3)

    screen.press("#correct")
    until(lambda: "Correct frame 5" in screen.one("body").text)
    until(lambda: screen.one("#run").text == "Go on from frame 5")
    screen.paint(2, (-60, 50), (80, 0))
    screen.press("#run")
    until(lambda: screen.one("#run").text == "Run")
    screen.done()
    screen.press("#masks")
    again = masks_in(downloaded(folder / "downloads", "masks.zip"), 2)
    assert (again[5] == 3).any() and not (again[:5] == 3).any()
    assert errors(browser) == []
    screen.keep(tmp_path / "page.png")
