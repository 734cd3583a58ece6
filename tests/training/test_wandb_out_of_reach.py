"""A run that is to be logged online continues offline if W&B is out of reach or rejects it."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.commands import TINY, succeed
from helpers.logged_values import history, records

SHORT = (*TINY, "steps=2", "validate_every=1", "final_benchmark=null", "trainer.log_every_n_steps=1")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port of this machine that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, but not listening
        yield held.getsockname()[1]


@pytest.fixture
def rejecting_server() -> Iterator[int]:
    """Return the port of a server that answers every request with 401."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    "problem", ["no key", *(pytest.param(one, marks=pytest.mark.slow) for one in ("no network", "rejected"))]
)
def test_online_run_without_key_or_network_is_logged_offline(
    tmp_path: Path, closed_port: int, rejecting_server: int, problem: str
) -> None:
    port = rejecting_server if problem == "rejected" else closed_port
    environment = {
        "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
        "WANDB_API_KEY": "" if problem == "no key" else 40 * "0",
        "NETRC": str(tmp_path / "none"),
        "HOME": str(tmp_path),
        "no_proxy": "127.0.0.1",
    }
    settings = (*SHORT, "logger=wandb", "logger.wandb.mode=online", "name=o")
    begin = time.monotonic()
    output = succeed("train.py", *settings, folder=tmp_path, environment=environment)
    assert problem == "rejected" or time.monotonic() - begin < 90, "W&B itself tries for 110 s"
    expected = {"no key": "no API key; set WANDB_API_KEY", "no network": "cannot be reached", "rejected": ""}
    assert re.search(rf"logger\.wandb\.mode=online: .*{expected[problem]}", output), output
    assert "upload it later with: wandb sync" in output and "Traceback" not in output
    (start,) = records(tmp_path / "runs" / "o")
    assert [line["trainer/global_step"] for line in history(start) if "train/loss" in line] == [0, 1]
