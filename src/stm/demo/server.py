"""The page's only door: what is let in and out, and what is left behind."""

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

import gradio as gr  # noqa: E402  (asks on import)
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402

from stm.demo.event_handlers import EventHandlers  # noqa: E402
from stm.demo.page_layout import head, place  # noqa: E402
from stm.demo.sessions import Sessions  # noqa: E402
from stm.demo.uploads import Limits  # noqa: E402
from stm.network import STM, for_inference  # noqa: E402

MEGABYTE = 2**20
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "worker-src 'self' blob:; connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'"
)
"""What a browser may ask for: this server alone."""
FONTS = ["system-ui", "sans-serif"]


class Guard:
    """Refuses what is too large before it is read, and tells browsers to ask nobody else.

    Args:
        app: what it stands before.
        most: bytes of a request.
    """

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most:
            text = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 413, "headers": text})
            await send({"type": "http.response.body", "body": b"too large"})
            return
        come = 0

        async def counted() -> Any:
            nonlocal come
            message = await receive()
            come += len(message.get("body", b""))
            return {"type": "http.disconnect"} if come > self.most else message

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, counted, told)


@contextmanager
def serve(
    network: STM,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits | None = None,
    notice: str = "",
    browser: bool = False,
) -> Iterator[str]:
    """The page while it lasts: its address. All that visitors left is removed at the end.

    Args:
        port: the first that is free from 7860 on by default.
        notice: what visitors should know of the network.
        browser: open it in one.

    Raises:
        ValueError: the port is in use, or the host is none of this machine's.
    """
    limits = limits or Limits()
    sessions = Sessions(for_inference(network), limits=limits)
    earlier = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.shown)
    try:
        page = build_app(sessions, notice)
        try:
            address = _launched(page, host, port, browser, limits.upload_mb * MEGABYTE)
        except OSError as error:
            where = "no port from 7860 to 7959" if port is None else f"--port {port}"
            raise ValueError(f"--host {host}, {where}: cannot be had; another program may use it") from error
        try:
            yield address
        finally:
            page.close(verbose=False)
    finally:
        sessions.close()
        if earlier is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = earlier


def _launched(page: gr.Blocks, host: str, port: int | None, browser: bool, most: int) -> str:
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=most,
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=_answers_to(host)),
                Middleware(Guard, most=most + MEGABYTE),
            ]
        },
        theme=gr.themes.Default(primary_hue="indigo", font=FONTS, font_mono=["monospace"]),
        css_paths=Path(__file__).with_name("style.css"),
        footer_links=[],
    )
    return address


def _answers_to(host: str) -> list[str]:
    """The names by which browsers may call the page: of a loopback address, this machine's own.

    Else a page from elsewhere could have its own name lead here (DNS rebinding) and read all it asks for.
    """
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:  # serving it says why
        found = set()
    loopback = bool(found) and all(ipaddress.ip_address(str(one)).is_loopback for one in found)
    return ["localhost", "127.0.0.1", "[::1]", host] if loopback else ["*"]


def build_app(sessions: Sessions, notice: str = "") -> gr.Blocks:
    """The page, not yet served."""
    with gr.Blocks(
        title="A look into space-time memory", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        head(notice)
        EventHandlers(sessions, place(sessions.limits)).connect(page)
    page.queue(max_size=64, default_concurrency_limit=8)
    return page
