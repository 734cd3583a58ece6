"""The page's server over HTTP: what it must not give away, and eight visitors at once."""

import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import small_networks as small
from helpers.demo_pages import page_in
from PIL import Image

from stm.config.memory_policies import parse_policy
from stm.demo.server import serve
from stm.demo.session import PAPER, POLICIES
from stm.inference import Segmenter
from stm.masks import read_mask, write_mask

NETWORK = small.network()
SIZE = (32, 48)
FIRST_ONLY = "First frame only"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(folder):
    with page_in(folder) as address:
        yield address


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


def test_no_file_outside_is_readable(page, folder, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    given = upload(page, "a.png", b"hello")
    assert get(f"{page}gradio_api/file={given}")[1] == b"hello", "the way is the right one"
    call(page, "begin")
    kept = next(folder.glob("stm-explore-*/session-*/*/frames.npy"))
    own = Path(__file__).resolve()
    up = "../" * 12 + str(secret)[1:]
    paths = [str(secret), up, f"{folder}/{up}", secret.as_uri(), str(kept), str(own), "pyproject.toml"]
    paths.append(str(kept.parents[2] / "shown" / ".." / kept.relative_to(kept.parents[2])))
    for path in paths:
        for word in (path, urllib.request.quote(path, safe=""), path.replace("/", "%2F").replace(".", "%2e")):
            for route in ("gradio_api/file=", "gradio_api/file/", "file=", "static/", "assets/"):
                status, content, _ = get(f"{page}{route}{word}")
                assert status >= 400 and not re.search(b"a secret|NUMPY|import pytest", content), (
                    route,
                    word,
                )


def test_only_what_was_uploaded_is_taken(page, folder):
    call(page, "begin")
    kept = next(folder.glob("stm-explore-*/session-*/*/frames.npy"))
    picture = io.BytesIO()
    Image.fromarray(small.frames(1, SIZE)[0].permute(1, 2, 0).numpy()).save(picture, "PNG")
    given = file_data(upload(page, "a.png", picture.getvalue()))
    assert "event: complete" in call(page, "upload", [given]), "the way is the right one"
    (folder / "beside.png").write_bytes(picture.getvalue())
    for path in (__file__, kept, f"{given['path']}/../../../beside.png", folder / "beside.png"):
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
    for keys in ({"path": address}, {"path": __file__, "url": address}):
        answer = call(page, "load_mask", {**keys, "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in answer
    get(f"{page}gradio_api/proxy={address}")
    server.shutdown()
    assert fetched == []


def named(page: str, host: str, way: str = "GET", path: str = "/", **headers: str) -> int:
    """What the page's port answers to who calls it by that name: the status."""
    place = urllib.parse.urlsplit(page)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request(way, path, headers={"host": host, **headers})
    return connection.getresponse().status


STRANGERS = ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "192.168.1.5:7860", "", "a b")


def test_a_page_for_this_machine_answers_to_its_names_alone(page):
    """A name of elsewhere that leads to 127.0.0.1 would let that site's pages in (DNS rebinding)."""
    for host in ("localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:7860", "[::1]", "[::1]:7860"):
        assert named(page, host) == 200, host
    for host in STRANGERS:
        for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd"):
            assert named(page, host, path=path) == 400, (host, path)
        assert named(page, host, "POST", "/gradio_api/call/begin") == 400
        upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        assert named(page, host, **upgrade, **{"sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}) == 400


def test_a_page_for_others_answers_to_any_name():
    with serve(NETWORK, host="0.0.0.0") as address:
        for host in ("evil.example", "192.168.1.5:7860", "stm.lab.example:7860", "localhost"):
            assert named(address.replace("0.0.0.0", "127.0.0.1"), host) == 200, host


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
    with pytest.raises(ValueError, match=f"--port {port}: cannot be had"), serve(NETWORK, port=port):
        pass
    assert set(folder.glob("stm-explore-*")) == before


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
        segmenter = Segmenter(NETWORK, parse_policy(POLICIES[name]), len(frames))
        for t, frame in enumerate(frames):
            expected = segmenter.labels(segmenter.step(frame, None if t else first))
            found = read_mask(mine / "out" / f"masks_{place}" / f"{t:05d}.png")
            np.testing.assert_array_equal(found, expected, f"visitor {number}, {name}, frame {t}")
    client.close()


def test_eight_visitors_at_once_are_kept_apart(page, tmp_path):
    with ThreadPoolExecutor(8) as visitors:
        list(visitors.map(lambda number: visit(page, number, tmp_path), range(8)))
    assert get(page)[0] == 200
