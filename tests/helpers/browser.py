"""Headless Chromium for tests of pages, which are skipped if it is not installed."""

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
    """Start headless Chromium with logs of its console and of its requests.

    Args:
        downloads: Folder for downloaded files.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(switch)
    options.add_argument("--enable-unsafe-swiftshader")  # the mask editor needs WebGL
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def requested_urls(chrome: Any) -> list[str]:
    """Return the URLs that were requested since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the result of a condition once it is true; an element that does not exist yet is awaited."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    deadline = monotonic() + seconds
    while True:
        try:
            if result := condition():
                return result
        except (NoSuchElementException, StaleElementReferenceException):
            if monotonic() > deadline:
                raise
        assert monotonic() < deadline, "timed out"
        sleep(0.1)
