"""What a visitor did wrong is told on the page."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import gradio as gr


def show_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A visitor's mistake is told on the page."""
    if isgeneratorfunction(handler):

        @wraps(handler)
        def yielding(*arguments: Any) -> Iterator[Any]:
            try:
                yield from handler(*arguments)
            except (ValueError, OSError) as error:
                raise _in_words(error) from error

        return yielding

    @wraps(handler)
    def returning(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except (ValueError, OSError) as error:
            raise _in_words(error) from error

    return returning


def _in_words(error: Exception) -> gr.Error:
    """What the page says of it; of a full disk and the like without the file's place."""
    show_errors = getattr(error, "strerror", None) or str(error)
    return gr.Error(html.escape(show_errors), print_exception=False)
