"""The page itself: its server over HTTP, eight visitors at once, and a real browser."""

import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
from browsing import asked, chromium, until
from PIL import Image

from stm.apps.explore.media import Limits
from stm.apps.explore.serve import served
from stm.apps.explore.session import PAPER, POLICIES, Sessions
from stm.apps.policies import policy_named
from stm.masks import read_mask, write_mask
from stm.network import for_inference
from stm.segmenter import Segmenter
from stm.viz import write_video

NETWORK = small.network()
SIZE = (32, 48)
FIRST_ONLY = "First frame only"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(folder):
    """The page's address; what it keeps lies below `folder`."""
    earlier, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        with served(NETWORK, limits=Limits(upload_mb=2, frames=30), notice="a network of a test") as address:
            yield address
        assert not list(folder.glob("stm-explore-*")), "nothing is left behind"
    finally:
        tempfile.tempdir = earlier


def get(address: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes, dict]:
    request = urllib.request.Request(address, data, {"content-type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def call(page: str, name: str, *data: object) -> str:
    """What the page's own way of calling says in the end."""
    _, answer, _ = get(f"{page}gradio_api/call/{name}", json.dumps({"data": data}).encode())
    return get(f"{page}gradio_api/call/{name}/{json.loads(answer)['event_id']}")[1].decode()


KIND = "multipart/form-data; boundary=x"


def upload(page: str, name: str, content: bytes) -> Path:
    """Where the server puts an upload."""
    head = f'--x\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    status, answer, _ = get(f"{page}gradio_api/upload", head.encode() + content + b"\r\n--x--\r\n", KIND)
    assert status == 200
    return Path(json.loads(answer)[0])


def file_data(path: object) -> dict:
    return {"path": str(path), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}


# --- safety ---


def test_no_file_outside_is_readable(page, folder, monkeypatch):
    given = upload(page, "a.png", b"hello")
    assert get(f"{page}gradio_api/file={given}")[1] == b"hello", "the way is the right one"
    call(page, "begin")
    kept = next(folder.glob("stm-explore-*/session-*/*/frames.npy"))
    own = Path(__file__).resolve()
    up = "../" * 12
    paths = ["/etc/passwd", f"{up}etc/passwd", f"/tmp/{up}etc/passwd", str(kept), str(own), "pyproject.toml"]
    paths += [str(kept.parents[2] / "shown" / ".." / kept.relative_to(kept.parents[2])), "file:///etc/passwd"]
    for path in paths:
        for word in (path, urllib.request.quote(path, safe=""), path.replace("/", "%2F").replace(".", "%2e")):
            for route in ("gradio_api/file=", "gradio_api/file/", "file=", "static/", "assets/"):
                status, content, _ = get(f"{page}{route}{word}")
                assert status >= 400 and b"root:" not in content and b"NUMPY" not in content, (route, word)


def test_only_what_was_uploaded_is_taken(page, folder):
    call(page, "begin")
    kept = next(folder.glob("stm-explore-*/session-*/*/frames.npy"))
    picture = io.BytesIO()
    Image.fromarray(small.frames(1, SIZE)[0].permute(1, 2, 0).numpy()).save(picture, "PNG")
    given = file_data(upload(page, "a.png", picture.getvalue()))
    assert "event: complete" in call(page, "upload", [given]), "the way is the right one"
    (folder / "beside.png").write_bytes(picture.getvalue())
    for path in ("/etc/passwd", kept, f"{given['path']}/../../../beside.png", folder / "beside.png"):
        for name, data in (("upload", [file_data(path)]), ("load_mask", file_data(path))):
            answer = call(page, name, data)
            assert "event: error" in answer and "event: complete" not in answer


def test_the_server_fetches_nothing(page):
    fetched = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/secret.png"
    for keys in ({"path": address}, {"path": "/etc/passwd", "url": address}):
        answer = call(page, "load_mask", {**keys, "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in answer
    get(f"{page}gradio_api/proxy={address}")
    server.shutdown()
    assert fetched == []


def test_uploads_are_limited_before_they_are_read(page):
    place = urllib.parse.urlsplit(page)
    for route in ("gradio_api/upload", "gradio_api/component_server", "gradio_api/queue/join"):
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
        connection.putrequest("POST", f"/{route}")
        connection.putheader("Content-Length", str(4 * 2**20))
        connection.endheaders()  # and no byte of it
        assert connection.getresponse().status == 413
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
        chunks = (bytes(2**16) for _ in range(64))  # no length is told
        try:
            connection.request("POST", f"/{route}", chunks, {"content-type": KIND}, encode_chunked=True)
            assert connection.getresponse().status >= 400
        except (ConnectionError, http.client.RemoteDisconnected):
            pass  # hung up


def test_names_of_uploads_are_no_paths(page):
    stored = upload(page, "../../../x/../a.png", b"hello")
    assert ".." not in stored.parts and stored.resolve().parent.parent.name == "shown"


def test_browsers_are_told_to_ask_nobody_else(page):
    _, content, headers = get(page)
    assert "default-src 'self'" in headers["content-security-policy"]
    for address in ("fonts.googleapis", "cdnjs", "cdn.", "fonts.gstatic"):
        assert address.encode() not in content
    assert b'"analytics_enabled":false' in content.replace(b" ", b"")


def test_the_command_serves_and_tidies_up(tmp_path):
    stm = Path(sys.executable).with_name("stm")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([stm, "explore"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = running.stdout.readline().split()[0]
        assert urllib.parse.urlsplit(address).hostname == "127.0.0.1"
        assert b"demonstration network" in get(address)[1]
        call(address, "begin")
        assert list(tmp_path.glob("stm-explore-*/session-*"))
    finally:
        running.terminate()
        assert running.wait(60) == 0
    assert not list(tmp_path.glob("stm-explore-*"))


def test_a_taken_port_is_told(page, folder):
    port, before = urllib.parse.urlsplit(page).port, set(folder.glob("stm-explore-*"))
    with pytest.raises(ValueError, match=f"--port {port}: cannot be had"), served(NETWORK, port=port):
        pass
    assert set(folder.glob("stm-explore-*")) == before


# --- at any time ---


@pytest.fixture
def events(tmp_path):
    """What the page calls, without a server."""
    gradio = pytest.importorskip("gradio")
    from stm.apps.explore.events import Events
    from stm.apps.explore.layout import place

    sessions = Sessions(for_inference(NETWORK), tmp_path / "sessions")
    with gradio.Blocks():
        yield Events(sessions, place(sessions.limits))
    sessions.close()


VISITOR = SimpleNamespace(session_hash="a")


@pytest.mark.parametrize("frames", [0, 1])
def test_stopped_before_both_runs_have_a_frame(events, frames):
    running = events.run(None, PAPER, FIRST_ONLY, VISITOR)
    for _ in range(1 + frames):
        next(running)
    events.stop(VISITOR)
    (last,) = running
    assert f"Stopped: {frames} of 80 frames" in last[events.parts.progress]
    assert events.downloads(VISITOR) == {}, "nothing to download"


def test_another_video_taken_while_one_runs(events):
    running = events.run(None, PAPER, FIRST_ONLY, VISITOR)
    next(running), next(running)
    events.another(VISITOR)
    assert list(running) == [{events.parts.progress: ""}]


def test_an_object_chosen_where_nothing_is_segmented(events):
    with pytest.raises(Exception, match="nothing is segmented yet"):
        events.choose(None, 1, VISITOR)


# --- eight visitors ---


def visit(page: str, number: int, folder: Path) -> None:
    """Upload own frames and a mask, run, download; all must be what a Segmenter gives."""
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False, download_files=str(folder / f"down-{number}"))
    frames = small.frames(8 + number % 3, SIZE, seed=100 + number).permute(0, 2, 3, 1).numpy()
    first = small.masks(1, 1 + number % 3, SIZE)[0].numpy()
    mine = folder / f"mine-{number}"
    mine.mkdir()
    files = []
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(mine / f"{t}.png")
        files.append(handle_file(mine / f"{t}.png"))
    write_mask(mine / "mask.png", first)
    client.predict(files, api_name="/upload")
    client.predict(handle_file(mine / "mask.png"), api_name="/load_mask")
    names = (PAPER, FIRST_ONLY)[:: 1 if number % 2 else -1]
    client.predict(None, *names, api_name="/run")
    masks, _ = client.predict(api_name="/downloads")
    with zipfile.ZipFile(masks["value"] if isinstance(masks, dict) else masks) as archive:
        archive.extractall(mine / "out")
    for place, name in enumerate(names, 1):
        segmenter = Segmenter(NETWORK, policy_named(POLICIES[name]), len(frames))
        for t, frame in enumerate(frames):
            expected = segmenter.labels(segmenter.step(frame, None if t else first))
            found = read_mask(mine / "out" / f"masks_{place}" / f"{t:05d}.png")
            np.testing.assert_array_equal(found, expected, f"visitor {number}, {name}, frame {t}")
    client.close()


def test_eight_visitors_at_once_are_kept_apart(page, tmp_path):
    with ThreadPoolExecutor(8) as visitors:
        list(visitors.map(lambda number: visit(page, number, tmp_path), range(8)))
    assert get(page)[0] == 200


# --- in a browser ---


@pytest.fixture(scope="module")
def browser(folder):
    with chromium(folder / "downloads") as chrome:
        yield chrome


def errors(browser) -> list[str]:
    """What the browser found wrong.

    Gradio writes a picture that it has written before once more, in its place; a browser that fetches it at
    that moment finds it cut off, and shows the next one.
    """
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [message for message in severe if "image.webp - Failed to load" not in message]


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

    def paint(self, colour: int, start: tuple[int, int], by: tuple[int, int]) -> None:
        """A stroke on the canvas with a brush of the palette; offsets are from its middle."""
        self.press("#editor button[aria-label='Brush']")
        self.press("#editor button[aria-label='Color']")
        until(lambda: self.all("#editor button.color"))[colour].click()
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
