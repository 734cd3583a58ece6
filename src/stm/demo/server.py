"""Server of the page, with limits on requests and a policy for browsers."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr  # noqa: E402  (sends analytics on import unless disabled above)
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402

from stm.demo.event_handlers import EventHandlers  # noqa: E402
from stm.demo.page_layout import TITLE, add_components, add_header  # noqa: E402
from stm.demo.session_pool import SessionPool  # noqa: E402
from stm.demo.uploads import Limits  # noqa: E402
from stm.network import STM, for_inference  # noqa: E402

MEGABYTE = 2**20
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "worker-src 'self' blob:; connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'"
)
"""Lets browsers send requests to this server only."""
FONTS = ["system-ui", "sans-serif"]


class RequestGuard:
    """ASGI middleware that limits the size of requests and adds security headers.

    Args:
        app: Application to protect.
        max_bytes: Largest size of a request.
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request; refuse one that is too large before it is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_bytes:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": b"too large"})
            return
        received = 0

        async def limited_receive() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > self.max_bytes else message

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, limited_receive, send_with_headers)


@contextmanager
def serve(
    network: STM,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits | None = None,
    notice: str = "",
    open_browser: bool = False,
) -> Iterator[str]:
    """Serve the page within a context, and yield its address; all files of visitors are removed at the end.

    Args:
        network: Network.
        host: Address to listen on.
        port: Port; by default the first free one from 7860 on.
        limits: Limits of each session.
        notice: Notice about the network on the page.
        open_browser: Whether to open the page in a browser.

    Raises:
        ValueError: The port is in use, or the host is not an address of this machine.
    """
    limits = limits or Limits()
    pool = SessionPool(for_inference(network), limits=limits)
    previous = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(pool.served_folder)
    try:
        page = build_app(pool, notice)
        try:
            address = _launch(page, host, port, open_browser, limits.upload_mb * MEGABYTE)
        except OSError as error:
            ports = "ports 7860 to 7959" if port is None else f"--port {port}"
            raise ValueError(f"--host {host}, {ports}: not available; another program may use it") from error
        try:
            yield address
        finally:
            page.close(verbose=False)
    finally:
        pool.close()
        if previous is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = previous


def _launch(page: gr.Blocks, host: str, port: int | None, open_browser: bool, max_bytes: int) -> str:
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=max_bytes,
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=_allowed_hosts(host)),
                Middleware(RequestGuard, max_bytes=max_bytes + MEGABYTE),
            ]
        },
        theme=gr.themes.Default(primary_hue="indigo", font=FONTS, font_mono=["monospace"]),
        css_paths=Path(__file__).with_name("style.css"),
        footer_links=[],
    )
    return address


def _allowed_hosts(host: str) -> list[str]:
    """Return the host names that requests may use; for a loopback address only those of this machine.

    Otherwise a website could resolve its own name to this machine (DNS rebinding) and read the page.
    """
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:  # launching the server reports the error
        addresses = set()
    is_loopback = bool(addresses) and all(
        ipaddress.ip_address(str(address)).is_loopback for address in addresses
    )
    return ["localhost", "127.0.0.1", "[::1]", host] if is_loopback else ["*"]


def build_app(pool: SessionPool, notice: str = "") -> gr.Blocks:
    """Build the page without serving it."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        add_header(notice)
        EventHandlers(pool, add_components(pool.limits)).connect(page)
    page.queue(max_size=64, default_concurrency_limit=8)
    return page
