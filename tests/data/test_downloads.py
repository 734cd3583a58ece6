"""Downloads over loopback: resumed, checked, extracted into the layout that the configurations expect."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stm.data.downloads import SOURCES, Archive, Source, download, fetch


@dataclass
class Server:
    """Files by path, and how many bytes of a response are sent before the connection ends."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: int | None = None
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state.files.get(self.path)
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            if content is None:
                return self.send_error(404)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: state.cut])
            return None

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield state
        http.shutdown()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, f"content of {name}" * 50)
    return buffer.getvalue()


def test_an_interrupted_download_continues(server: Server, tmp_path: Path) -> None:
    server.files["/set.zip"] = zipped("top/JPEGImages/a.jpg", "top/Annotations/a.png")
    archive = Archive(f"{server.url}/set.zip", ("JPEGImages", "Annotations"))
    server.cut = 100
    with pytest.raises(OSError, match=r"set.zip: ended after 100 of \d+ bytes; the same command continues"):
        download(archive, tmp_path)
    server.cut = None
    assert download(archive, tmp_path).read_bytes() == server.files["/set.zip"]
    assert server.ranges == [None, "bytes=100-"]


def test_the_layout_is_the_expected_one_at_any_depth(server: Server, tmp_path: Path) -> None:
    server.files["/set.zip"] = zipped("a/b/JPEGImages/x/0.jpg", "a/b/Annotations/x/0.png", "a/b/README")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("lists/train.txt"))
    server.files["/lists.tar"] = buffer.getvalue()
    archives = (
        Archive(f"{server.url}/set.zip", ("JPEGImages", "Annotations")),
        Archive(f"{server.url}/lists.tar", ("lists",)),
    )
    source = Source("set", "page", "terms", "SET", archives)
    assert fetch(source, tmp_path) == tmp_path / "SET"
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    expected = {"JPEGImages/x/0.jpg", "Annotations/x/0.png", "README", "lists/train.txt"}
    assert files == {f"SET/{name}" for name in expected}
    requests = len(server.ranges)
    fetch(source, tmp_path)
    assert len(server.ranges) == requests, "what is there is not downloaded again"


def test_damaged_files_are_refused(server: Server, tmp_path: Path) -> None:
    server.files["/set.zip"] = content = zipped("images/a.jpg")
    archive = Archive(f"{server.url}/set.zip", ("images",), hashlib.md5(content).hexdigest())
    assert fetch(Source("set", "page", "terms", "SET", (archive,)), tmp_path / "intact")
    with pytest.raises(ValueError, match="MD5 must be 0; got"):
        download(replace(archive, md5="0"), tmp_path)
    assert not list(tmp_path.glob("*.part"))
    broken = ((b"<html>sorry", "no intact archive"), (zipped("other/a"), "must hold the folders images"))
    plain = replace(archive, md5=None)
    for content, message in broken:
        server.files["/set.zip"] = content
        with pytest.raises(ValueError, match=message):
            fetch(Source("set", "page", "terms", "SET", (plain,)), tmp_path / message[:4])
    with pytest.raises(OSError, match="none.zip: the server answers 404"):
        download(Archive(f"{server.url}/none.zip", ()), tmp_path)
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/x.zip: cannot be reached"):
        download(Archive("http://127.0.0.1:9/x.zip", ()), tmp_path)


def test_archives_cannot_write_outside_their_folder(server: Server, tmp_path: Path) -> None:
    server.files["/set.zip"] = zipped("images/a.jpg", "../../evil.txt")
    source = Source("set", "page", "terms", "SET", (Archive(f"{server.url}/set.zip", ("images",)),))
    fetch(source, tmp_path / "in")
    assert not list(tmp_path.glob("evil.txt")) and not list((tmp_path / "in").glob("evil.txt"))


def test_sources_without_a_plain_download_name_their_page(capsys: pytest.CaptureFixture[str]) -> None:
    from stm.cli.main import run

    assert run(["data", "get", "youtube_vos", "x"]) == 2
    assert "get it from https://youtube-vos.org" in capsys.readouterr().err
    assert run(["data", "get", "davis2018", "x"]) == 2
    assert "must be one of davis2016, davis2017" in capsys.readouterr().err
    assert run(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(source.page in listed and source.terms in listed for source in SOURCES.values())
