"""HTML of a report: one self-contained file without scripts or external requests."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from stm.analysis.figures import write_figure

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:">
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem;
 margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }}
th, td {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
figure {{ margin: 1rem 0 }} figcaption {{ color: #444; font-size: .9rem }}
figure img {{ max-width: 100%; height: auto }}
.videos {{ display: flex; flex-wrap: wrap; gap: 1rem }}
.videos figure {{ flex: 1 1 18rem; max-width: 24rem; margin: 0 }}
video {{ width: 100%; background: #000 }}
pre, code {{ font-size: .85rem }} pre {{ background: #f5f5f5; padding: .7rem; overflow-x: auto }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def embed_figure(figure: Figure, path: Path, caption: str) -> str:
    """Write a figure to files and return HTML that embeds it."""
    write_figure(figure, path)
    has_images = any(axes.images for axes in figure.axes)  # images are smaller as PNG
    kind, suffix = ("image/png", ".png") if has_images else ("image/svg+xml", ".svg")
    source = data_uri(kind, path.with_name(path.name + suffix).read_bytes())
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def markdown_to_html(text: str) -> Iterator[str]:
    """Yield the blocks of a table page in Markdown as HTML, without its title."""
    for block in text.split("\n\n")[1:]:
        lines = [line for line in block.splitlines() if line.strip()]
        if lines and lines[0].startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            yield table(rows[0], rows[2:])
        elif block.startswith("      "):
            yield f"<pre>{html.escape(block.strip())}</pre>"
        else:
            yield f"<p>{html.escape(block.strip()).replace('`', '')}</p>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table of text, which scrolls horizontally if it is wide."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads) if any(heads) else ""
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def format_score(value: float | None) -> str:
    """Format a score with three digits."""
    return "-" if value is None else f"{value:.3f}"


def format_cell(value: object) -> str:
    """Format any value of `scores.json`."""
    return format_score(value) if isinstance(value, float) else "" if value is None else str(value)


def data_uri(kind: str, content: bytes) -> str:
    """Return a data URI that contains a file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
