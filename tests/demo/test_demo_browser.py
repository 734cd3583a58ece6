"""The page in headless Chromium."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import small_networks as small
from helpers.browser import chromium, requested_urls, wait_until
from helpers.demo_pages import serve_page

from stm.masks import read_mask
from stm.visualization import write_video

FIRST_ONLY = "First frame only"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(folder):
    with serve_page(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser(folder):
    with chromium(folder / "downloads") as chrome:
        yield chrome


def errors(browser) -> list[str]:
    """Return the errors in the console."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


class Screen:
    """Actions of a visitor on the page."""

    def __init__(self, browser, page: str, size: tuple[int, int] = (1280, 800)) -> None:
        self.browser = browser
        browser.get_log("browser")
        requested_urls(browser)
        browser.set_window_size(*size)
        browser.get(page)
        wait_until(lambda: self.find("#editor canvas") and "frames" in self.find("#video").text)

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def find_all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def scroll_to(self, selector: str):
        """Scroll an element to the middle of the window and return it."""
        element = self.find(selector)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def press(self, selector: str) -> None:
        wait_until(lambda: self.find(selector).is_enabled())
        self.scroll_to(selector).click()

    def choose(self, selector: str, text: str) -> None:
        self.press(f"{selector} input")
        wait_until(lambda: [option for option in self.find_all("[role=option]") if text in option.text])[
            0
        ].click()

    def paint(self, color: int, start: tuple[int, int], by: tuple[int, int]) -> None:
        """Paint a stroke with a color of the palette; offsets are relative to the middle of the canvas."""
        self.press("#editor button[aria-label='Brush']")
        self.press("#editor button[aria-label='Color']")
        wait_until(lambda: self.find_all("#editor button.color"))[color].click()
        self.find("#editor button[aria-label='Brush']").click()  # close the palette, which covers the canvas
        wait_until(lambda: not self.find_all("#editor button.color"))
        self.drag(self.scroll_to("#editor canvas"), start, by)

    def drag(self, element, start: tuple[int, int], by: tuple[int, int]) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(self.browser).move_to_element_with_offset(element, *start).click_and_hold()
        actions.move_by_offset(*by).release().perform()

    def click(self, selector: str, at: tuple[int, int]) -> None:
        """Click at an offset from the middle of an element."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).move_to_element_with_offset(
            self.scroll_to(selector), *at
        ).click().perform()

    def wait_for_run(self) -> None:
        wait_until(lambda: self.find("#progress").text.startswith("Done") and self.find_all("#usage img"))
        wait_until(lambda: self.find("#overlay").is_enabled())

    def save_screenshot(self, path: Path) -> None:
        """Save a screenshot of the whole page."""
        height = self.browser.execute_script("return document.documentElement.scrollHeight")
        width = self.browser.get_window_size()["width"]
        self.browser.set_window_size(width, height + 150)
        self.browser.save_screenshot(str(path))


def test_a_run_and_a_click_work_without_requests_to_other_servers(browser, page, tmp_path, folder):
    screen = Screen(browser, page)
    screen.press("#run")
    screen.wait_for_run()
    screen.click("#first-result img", (20, 10))
    wait_until(lambda: screen.find_all("#attention figure"))
    assert len(screen.find_all("#attention figure")) == 1 + len(set(range(0, 48, 5)) | {47})
    addresses = requested_urls(browser)
    assert addresses and all(address.startswith(page) for address in addresses)
    assert errors(browser) == []
    overflow = "return document.documentElement.scrollWidth - window.innerWidth"
    for width in (1280, 500):
        browser.set_window_size(width, 800)
        assert browser.execute_script(overflow) <= 0, "the page scrolls horizontally"
    screen.save_screenshot(tmp_path / "page.png")
    before = set(folder.glob("stm-explore-*/session-*"))
    browser.get("about:blank")
    wait_until(lambda: len(set(folder.glob("stm-explore-*/session-*")) & before) < len(before))


def downloaded(browser_folder: Path, name: str) -> Path:
    """Return a downloaded file, moved so that the next download gets the same name."""
    file = wait_until(lambda: next((f for f in browser_folder.glob(name) if f.stat().st_size), None))
    return file.rename(file.with_name(f"moved-{len(list(browser_folder.iterdir()))}-{name}"))


def read_masks(file: Path, policy: int) -> np.ndarray:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(file.with_suffix(""))
    return np.stack([read_mask(f) for f in sorted((file.with_suffix("") / f"masks_{policy}").glob("*.png"))])


@pytest.mark.slow
def test_upload_paint_run_scrub_click_compare_correct_and_download(browser, page, folder, tmp_path):
    from selenium.webdriver.common.keys import Keys

    write_video(tmp_path / "clip.mp4", small.frames(12, (64, 96)).permute(0, 2, 3, 1).numpy(), fps=8)
    screen = Screen(browser, page)
    screen.find("input[data-testid^='Upload video']").send_keys(str(tmp_path / "clip.mp4"))
    wait_until(lambda: "clip.mp4 · 12 frames · 96x64" in screen.find("#video").text)
    screen.press("#run")
    wait_until(lambda: "no object is drawn yet" in screen.find("body").text)
    screen.paint(0, (-80, -40), (60, 0))
    screen.paint(1, (30, 40), (60, 0))
    screen.choose("#second-policy", FIRST_ONLY)
    screen.press("#run")
    screen.wait_for_run()
    assert [FIRST_ONLY in cell.text for cell in screen.find_all("#summary td:first-child")] == [False, True]

    screen.press("#masks")
    masks = read_masks(downloaded(folder / "downloads", "masks.zip"), 1)
    assert masks.shape == (12, 64, 96) and set(np.unique(masks[0])) == {0, 1, 2}
    (row, column), (other_row, other_column) = (np.argwhere(masks[0] == label).mean(0) for label in (1, 2))
    assert row < 32 < other_row and column < 48 < other_column, "the strokes are not where the pointer was"
    screen.press("#overlay")
    assert downloaded(folder / "downloads", "overlay.mp4").read_bytes()[4:8] == b"ftyp"

    slider = screen.scroll_to("#time input[type=range]")
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 5)
    wait_until(lambda: "Frame 5 · First frame only" in screen.find("#second-result").text)
    screen.click("#second-result img", (-20, -10))
    wait_until(lambda: len(screen.find_all("#attention figure")) == 2)
    assert (
        "frame 5 query pixel" in screen.find("#attention").text
        and "given · 100%" in screen.find("#attention").text
    )
    screen.click("#first-result img", (-20, -10))
    wait_until(lambda: len(screen.find_all("#attention figure")) == 3)

    screen.press("#correct")
    wait_until(lambda: "Correct frame 5" in screen.find("body").text)
    wait_until(lambda: screen.find("#run").text == "Continue from frame 5")
    screen.paint(2, (-60, 50), (80, 0))
    screen.press("#run")
    wait_until(lambda: screen.find("#run").text == "Run")
    screen.wait_for_run()
    screen.press("#masks")
    again = read_masks(downloaded(folder / "downloads", "masks.zip"), 2)
    assert (again[5] == 3).any() and not (again[:5] == 3).any()
    assert errors(browser) == []
    screen.save_screenshot(tmp_path / "page.png")
