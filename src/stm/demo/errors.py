"""Display of user errors as Gradio messages."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import gradio as gr


def show_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an event handler so that user errors appear on the page."""
    if isgeneratorfunction(handler):

        @wraps(handler)
        def generator(*arguments: Any) -> Iterator[Any]:
            try:
                yield from handler(*arguments)
            except (ValueError, OSError) as error:
                raise _page_error(error) from error

        return generator

    @wraps(handler)
    def function(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except (ValueError, OSError) as error:
            raise _page_error(error) from error

    return function


def _page_error(error: Exception) -> gr.Error:
    """Return the message for the page; that of an operating system error omits the path of the file."""
    message = getattr(error, "strerror", None) or str(error)
    return gr.Error(html.escape(message), print_exception=False)
