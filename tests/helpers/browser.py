"""A real browser, for tests of pages; where there is none, they are skipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest


@contextmanager
def chromium(downloads: Path | None = None) -> Iterator[Any]:
    """Chromium without a window; it keeps logs of its console and of whom it asks.

    Args:
        downloads: where files go that are downloaded.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(switch)
    options.add_argument("--enable-unsafe-swiftshader")  # canvases that are painted on need WebGL
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def asked(chrome: Any) -> list[str]:
    """The addresses that were asked for since this was called last."""
    messages = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [address for address in sent if not address.startswith(("data:", "blob:"))]


def until(reached: Callable[[], Any], seconds: float = 60) -> Any:
    """What the function gives, once that is true; a part of the page that is not there yet is waited for."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    end = monotonic() + seconds
    while True:
        try:
            if found := reached():
                return found
        except (NoSuchElementException, StaleElementReferenceException):
            if monotonic() > end:
                raise
        assert monotonic() < end, "it did not come"
        sleep(0.1)
