"""Pages that stand alone: one HTML file with its style, pictures and videos inside, for a desk and for a phone."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from nextframe.files import write_atomically
from nextframe.pages.drawing import mp4_bytes, png_bytes

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #1b1f24; --soft: #5d6670; --line: #e2e4e1;
  --accent: #0f8a7a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #111418; --card: #191d22; --ink: #e8eaec; --soft: #9aa4ae; --line: #2b3138; --accent: #2dbeaa; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: clamp(26px, 5vw, 40px); line-height: 1.15; letter-spacing: -.02em; margin: 0 0 16px; }
h2 { font-size: 22px; letter-spacing: -.01em; margin: 56px 0 6px; }
h3 { font-size: 16px; margin: 24px 0 6px; }
p { max-width: 720px; margin: 8px 0; }
.lead { font-size: 17px; margin: 0 0 12px; }
.soft, figcaption, .sub { color: var(--soft); } .soft { font-size: 14.5px; }
.over { color: var(--accent); font-weight: 600; font-size: 14px; letter-spacing: .04em; margin: 0 0 8px; }
.tiles { display: grid; gap: 12px; margin: 20px 0 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.tile .name { font-size: 14px; color: var(--soft); }
.tile .value { font-size: 30px; font-weight: 650; letter-spacing: -.02em; line-height: 1.3; }
.tile .sub { font-size: 13.5px; line-height: 1.45; }
.grid { display: grid; gap: 20px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.clip { display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr); margin: 8px 0 28px; }
@media (min-width: 800px) { .clip { grid-template-columns: 260px minmax(0, 1fr); align-items: center; } }
.clip .wide { margin: 3px 0; border-radius: 6px; }
.beside { display: grid; gap: 36px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  align-items: center; margin: 20px 0; }
figure { margin: 0; min-width: 0; } main > figure { margin: 12px 0 24px; }
figcaption { font-size: 14.5px; margin-top: 6px; }
video, figure img { width: 100%; height: auto; display: block; border-radius: 10px; background: #111418; }
.wide { overflow-x: auto; border-radius: 10px; } .wide img { min-width: 720px; }
.chart { max-width: 560px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px; }
.chart svg { width: 100%; height: auto; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14.5px; margin: 10px 0; }
.legend i { display: inline-block; width: 18px; height: 4px; border-radius: 2px; margin-right: 7px;
  vertical-align: middle; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 14.5px; width: 100%; margin: 12px 0; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } td + td { font-variant-numeric: tabular-nums; }
td:nth-child(2):last-child { overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: minmax(84px, 150px) 1fr; gap: 10px; align-items: center; margin: 6px 0;
  font-size: 14.5px; }
.bar .track { display: flex; align-items: center; gap: 8px; min-width: 0; white-space: nowrap; }
.bar .fill { height: 16px; border-radius: 4px; background: var(--accent); min-width: 2px; flex: 0 1 auto; }
@media (max-width: 560px) { .bar, .bar .track { display: block; white-space: normal; }
  .bar .fill { display: inline-block; max-width: 100%; margin-right: 6px; vertical-align: middle; } }
.bar .fill + .fill { margin-left: -6px; opacity: .45; }
pre { background: #14181d; color: #e8eaec; padding: 12px 16px; border-radius: 10px; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: 6px 0 14px;
  font: 13.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.banner { position: fixed; left: 50%; bottom: 16px; transform: translateX(-50%); width: max-content;
  max-width: min(92vw, 720px); margin: 0; padding: 8px 16px; border-radius: 10px; background: #b3352c; color: #fff; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
.good { color: var(--accent); font-weight: 600; } .bad { color: #d0483e; font-weight: 600; }
footer { margin-top: 64px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--soft); font-size: 14px; }
"""


ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' "
    "height='16' rx='3' fill='%230f8a7a'/%3E%3Cpath d='M5 4l7 4-7 4z' fill='white'/%3E%3C/svg%3E"
)


def page(title: str, body: Sequence[str]) -> str:
    """A whole document. `title` is plain text, `body` HTML."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="{ICON}"><style>{STYLE}</style></head><body><main>
{"".join(body)}
</main></body></html>
"""


def write_page(path: Path, html: str) -> Path:
    """Raises UserError where it cannot be written."""
    write_atomically(path, html.encode(errors="replace"))  # names of files may be no text
    return path


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>'


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def video(frames: np.ndarray, fps: float, caption: str) -> str:
    """Frames uint8 [f, h, w, 3] as a video that plays, silently, again and again."""
    return mp4_video(mp4_bytes(frames, fps), caption)


def mp4_video(mp4: bytes, caption: str) -> str:
    """The same for a video that is mp4 already."""
    data = b64encode(mp4).decode()
    source = f'src="data:video/mp4;base64,{data}"'
    return _figure(f"<video autoplay loop muted playsinline controls {source}></video>", caption)


def picture(image: np.ndarray, caption: str) -> str:
    """A wide picture, uint8 [h, w, 3], that a phone can scroll through."""
    data = b64encode(png_bytes(image)).decode()
    alt = escape(caption or "frames in a row")
    return _figure(f'<div class="wide"><img alt="{alt}" src="data:image/png;base64,{data}"></div>', caption)


def beside(left: str, right: str) -> str:
    """Two halves; one above the other on a phone."""
    return f'<div class="beside"><div>{left}</div><div>{right}</div></div>'


def chart(svg: str, caption: str) -> str:
    return _figure(f'<div class="chart">{svg}</div>', caption)


def _figure(content: str, caption: str) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{content}{below}</figure>"


def grid(*cells: str) -> str:
    return f'<div class="grid">{"".join(cells)}</div>'


def clip(player: str, strips: Sequence[str]) -> str:
    """A small video, and rows of its frames."""
    return f'<div class="clip">{player}<div>{"".join(strips)}</div></div>'


def tiles(*content: tuple[str, str, str]) -> str:
    """Headline figures: name, value, and what to hold it against."""
    cells = "".join(
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="sub">{escape(below)}</div></div>'
        for name, value, below in content
    )
    return f'<div class="tiles">{cells}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    top = row(head, "th") if any(head) else ""
    return f'<div class="scroll"><table>{top}{"".join(row(cells, "td") for cells in rows)}</table></div>'


def bars(rows: Sequence[tuple[str, Sequence[float], str]]) -> str:
    """Horizontal bars: name, lengths (several make a stacked bar), and the text behind it."""
    longest = max((sum(lengths) for _, lengths, _ in rows), default=0) or 1
    lines = []
    for name, lengths, text in rows:
        fills = "".join(f'<span class="fill" style="width:{70 * length / longest:.2f}%"></span>' for length in lengths)
        track = f'<span class="track">{fills}{escape(text)}</span>'
        lines.append(f'<div class="bar"><span>{escape(name)}</span>{track}</div>')
    return "".join(lines)


def commands(lines: Sequence[tuple[str, str]]) -> str:
    """Commands to type, each under what it does."""
    return "".join(f"{paragraph(what)}<pre>{escape(command)}</pre>" for what, command in lines)


def folded(summary: str, *content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{''.join(content)}</details>"
