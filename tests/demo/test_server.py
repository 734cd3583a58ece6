"""The server over HTTP: files it must not reveal, requests it must refuse, and eight visitors at once."""

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
from helpers.demo_pages import serve_page
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
    with serve_page(folder) as address:
        yield address


def get(address: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes, dict]:
    request = urllib.request.Request(address, data, {"content-type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def call(page: str, name: str, *data: object) -> str:
    """Call an event handler as the page does, and return its final answer."""
    _, answer, _ = get(f"{page}gradio_api/call/{name}", json.dumps({"data": data}).encode())
    return get(f"{page}gradio_api/call/{name}/{json.loads(answer)['event_id']}")[1].decode()


KIND = "multipart/form-data; boundary=x"


def upload(page: str, name: str, content: bytes) -> Path:
    """Upload a file and return its path on the server."""
    head = f'--x\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    status, answer, _ = get(f"{page}gradio_api/upload", head.encode() + content + b"\r\n--x--\r\n", KIND)
    assert status == 200
    return Path(json.loads(answer)[0])


def file_data(path: object) -> dict:
    return {"path": str(path), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}


# --- safety ---


def test_files_outside_of_the_served_folder_are_not_readable(page, folder, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    uploaded = upload(page, "a.png", b"hello")
    assert get(f"{page}gradio_api/file={uploaded}")[1] == b"hello", "a valid path is refused"
    call(page, "load_page")
    stored = next(folder.glob("stm-explore-*/session-*/*/frames.raw"))
    own = Path(__file__).resolve()
    up = "../" * 12 + str(secret)[1:]
    paths = [str(secret), up, f"{folder}/{up}", secret.as_uri(), str(stored), str(own), "pyproject.toml"]
    paths.append(str(stored.parents[2] / "served" / ".." / stored.relative_to(stored.parents[2])))
    for path in paths:
        for word in (path, urllib.request.quote(path, safe=""), path.replace("/", "%2F").replace(".", "%2e")):
            for route in ("gradio_api/file=", "gradio_api/file/", "file=", "static/", "assets/"):
                status, content, _ = get(f"{page}{route}{word}")
                assert status >= 400 and not re.search(b"a secret|NUMPY|import pytest", content), (
                    route,
                    word,
                )


def test_only_uploaded_files_are_accepted(page, folder):
    call(page, "load_page")
    stored = next(folder.glob("stm-explore-*/session-*/*/frames.raw"))
    image = io.BytesIO()
    Image.fromarray(small.frames(1, SIZE)[0].permute(1, 2, 0).numpy()).save(image, "PNG")
    uploaded = file_data(upload(page, "a.png", image.getvalue()))
    assert "event: complete" in call(page, "upload", [uploaded]), "a valid path is refused"
    (folder / "other.png").write_bytes(image.getvalue())
    for path in (__file__, stored, f"{uploaded['path']}/../../../other.png", folder / "other.png"):
        for name, data in (("upload", [file_data(path)]), ("load_mask", file_data(path))):
            answer = call(page, name, data)
            assert "event: error" in answer and "event: complete" not in answer


def test_the_server_fetches_no_urls(page):
    fetched = []

    class OtherServer(BaseHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    server = HTTPServer(("127.0.0.1", 0), OtherServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/secret.png"
    for keys in ({"path": address}, {"path": __file__, "url": address}):
        answer = call(page, "load_mask", {**keys, "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in answer
    get(f"{page}gradio_api/proxy={address}")
    server.shutdown()
    assert fetched == []


def status_for_host(page: str, host: str, method: str = "GET", path: str = "/", **headers: str) -> int:
    """Return the status of a request with a host name."""
    place = urllib.parse.urlsplit(page)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request(method, path, headers={"host": host, **headers})
    return connection.getresponse().status


FOREIGN_HOSTS = ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "192.168.1.5:7860", "", "a b")


def test_a_local_page_refuses_foreign_host_names(page):
    """A foreign name that resolves to 127.0.0.1 would let a website read the page (DNS rebinding)."""
    for host in ("localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:7860", "[::1]", "[::1]:7860"):
        assert status_for_host(page, host) == 200, host
    for host in FOREIGN_HOSTS:
        for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd"):
            assert status_for_host(page, host, path=path) == 400, (host, path)
        assert status_for_host(page, host, "POST", "/gradio_api/call/load_page") == 400
        upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        assert (
            status_for_host(page, host, **upgrade, **{"sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}) == 400
        )


def test_a_public_page_accepts_any_host_name():
    with serve(NETWORK, host="0.0.0.0") as address:
        for host in ("evil.example", "192.168.1.5:7860", "stm.lab.example:7860", "localhost"):
            assert status_for_host(address.replace("0.0.0.0", "127.0.0.1"), host) == 200, host


def test_large_requests_are_refused_before_they_are_read(page):
    place = urllib.parse.urlsplit(page)
    for route in ("gradio_api/upload", "gradio_api/component_server", "gradio_api/queue/join"):
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
        connection.putrequest("POST", f"/{route}")
        connection.putheader("Content-Length", str(4 * 2**20))
        connection.endheaders()  # without the body
        assert connection.getresponse().status == 413
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
        chunks = (bytes(2**16) for _ in range(64))  # without a length
        try:
            connection.request("POST", f"/{route}", chunks, {"content-type": KIND}, encode_chunked=True)
            assert connection.getresponse().status >= 400
        except (ConnectionError, http.client.RemoteDisconnected):
            pass  # the server closed the connection


def test_names_of_uploads_are_not_used_as_paths(page):
    stored = upload(page, "../../../x/../a.png", b"hello")
    assert ".." not in stored.parts and stored.resolve().parent.parent.name == "served"


def test_browsers_may_not_send_requests_to_other_servers(page):
    _, content, headers = get(page)
    assert "default-src 'self'" in headers["content-security-policy"]
    for address in ("fonts.googleapis", "cdnjs", "cdn.", "fonts.gstatic"):
        assert address.encode() not in content
    assert b'"analytics_enabled":false' in content.replace(b" ", b"")


@pytest.mark.slow
def test_the_command_serves_the_page_and_removes_its_files(tmp_path):
    stm = Path(sys.executable).with_name("stm")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([stm, "explore"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = running.stdout.readline().split()[0]
        assert urllib.parse.urlsplit(address).hostname == "127.0.0.1"
        assert b"network that ships with stm" in get(address)[1]
        call(address, "load_page")
        assert list(tmp_path.glob("stm-explore-*/session-*"))
    finally:
        running.terminate()
        assert running.wait(60) == 0
    assert not list(tmp_path.glob("stm-explore-*"))


@pytest.mark.slow
def test_without_gradio_the_command_names_the_extra_and_all_others_work():
    script = (
        "import sys; sys.modules['gradio'] = None; from stm.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )

    def run_without_gradio(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)

    explore = run_without_gradio("explore")
    assert explore.returncode == 2
    assert explore.stderr == "stm: stm explore needs Gradio: pip install 'stm-vos[demo]'\n"
    assert run_without_gradio("--help").returncode == 0


def test_a_port_in_use_is_an_error(page, folder):
    port, before = urllib.parse.urlsplit(page).port, set(folder.glob("stm-explore-*"))
    with pytest.raises(ValueError, match=f"--port {port}: not available"), serve(NETWORK, port=port):
        pass
    assert set(folder.glob("stm-explore-*")) == before


# --- eight visitors ---


def visit(page: str, number: int, folder: Path) -> None:
    """Upload frames and a mask, run and download, and compare the masks with those of a Segmenter."""
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False, download_files=str(folder / f"down-{number}"))
    frames = small.frames(8 + number % 3, SIZE, seed=100 + number).permute(0, 2, 3, 1).numpy()
    first = small.masks(1, 1 + number % 3, SIZE)[0].numpy()
    own = folder / f"own-{number}"
    own.mkdir()
    files = []
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(own / f"{t}.png")
        files.append(handle_file(own / f"{t}.png"))
    write_mask(own / "mask.png", first)
    client.predict(files, api_name="/upload")
    client.predict(handle_file(own / "mask.png"), api_name="/load_mask")
    names = (PAPER, FIRST_ONLY)[:: 1 if number % 2 else -1]
    client.predict(None, *names, api_name="/run")
    masks, _ = client.predict(api_name="/write_downloads")
    with zipfile.ZipFile(masks["value"] if isinstance(masks, dict) else masks) as archive:
        archive.extractall(own / "out")
    for index, name in enumerate(names, 1):
        segmenter = Segmenter(NETWORK, parse_policy(POLICIES[name]), length=len(frames))
        for t, frame in enumerate(frames):
            expected = segmenter.labels(segmenter.step(frame, None if t else first))
            mask = read_mask(own / "out" / f"masks_{index}" / f"{t:05d}.png")
            np.testing.assert_array_equal(mask, expected, f"visitor {number}, {name}, frame {t}")
    client.close()


@pytest.mark.slow
def test_eight_simultaneous_visitors_are_separate(page, tmp_path):
    with ThreadPoolExecutor(8) as visitors:
        list(visitors.map(lambda number: visit(page, number, tmp_path), range(8)))
    assert get(page)[0] == 200
