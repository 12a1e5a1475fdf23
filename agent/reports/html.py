"""The looks of an HTML page: its frame, its style, and the few kinds of block it is made of.

Self-contained: no script, and a policy that forbids the browser to load anything. The functions
take HTML, not text: whoever has a value from outside passes it through `escape` first.
"""

import base64
import html
from collections.abc import Callable, Iterable, Sequence

from candor.agent.reports.charts import NARROW_IN, WIDE_IN


def page(title: str, blocks: Iterable[str]) -> str:
    """A whole page of blocks."""
    return _PAGE.format(title=title, style=_STYLE, body="\n".join(blocks))


def card(title: str, caption: str, body: str) -> str:
    note = f"<p class=caption>{caption}</p>" if caption else ""
    return f"<section><h2>{title}</h2>{note}{body}</section>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped cells; a column named #… holds numbers."""
    kinds = [" class=number" if column.startswith("#") else "" for column in columns]

    def line(cells: Sequence[str], tag: str) -> str:
        joined = "".join(
            f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{joined}</tr>"

    head = line([column.removeprefix("#") for column in columns], "th")
    body = "".join(line(row, "td") for row in rows)
    return f"<div class=scroll><table><thead>{head}</thead><tbody>{body}</tbody></table></div>"


def image(draw: Callable[..., bytes], text: str) -> str:
    """A drawing, which is made `width_in` inches wide for a desk and again for a phone."""
    # An image of its own, not inline: the ids of two drawings cannot meet.
    wide, narrow = (
        f"data:image/svg+xml;base64,{base64.b64encode(draw(width_in=width)).decode()}"
        for width in (WIDE_IN, NARROW_IN)
    )
    phone = f'<source media="(max-width: 40rem)" srcset="{narrow}">'
    return f'<picture>{phone}<img alt="{escape(text)}" src="{wide}"></picture>'


def escape(value: object) -> str:
    return html.escape(str(value), quote=True)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title} · Candor</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --faint: #5f6b76; --line: #e1e6ea;
  --paper: #fff; --desk: #f5f6f8; --good: #1d6f42; --bad: #a8321b; --alarm: #fdeeea;
  --note: #8a3213; --noted: #fde9d9; --link: #33629c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --faint: #9aa5b0; --line: #37414b; --paper: #1b2128; --desk: #12161b;
    --good: #6fcf97; --bad: #ff9c86; --alarm: #3a2320; --note: #ffc9a8; --noted: #4a3021;
    --link: #8db8ec; }
  /* Charts are dark on nothing: lightness is turned over, white becomes the paper, hues stay. */
  img { filter: invert(.88) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--desk); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
.kind { margin: 0; color: var(--faint); text-transform: uppercase; letter-spacing: .08em;
  font-size: .75rem; }
h1 { margin: .1rem 0 .2rem; font-size: clamp(1.4rem, 6vw, 2rem); line-height: 1.2;
  overflow-wrap: anywhere; }
h2 { margin: 0 0 .2rem; font-size: 1.2rem; }
.lead, .caption { margin: 0 0 .9rem; color: var(--faint); overflow-wrap: anywhere; }
.caption { font-size: .9rem; max-width: 44rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2rem 0 1.5rem; }
.tile { flex: 1 1 7.5rem; padding: .8rem 1rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: .6rem; }
.tile b { display: block; font-size: 1.4rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: .8rem; }
.good b { color: var(--good); } .bad { background: var(--alarm); } .bad b { color: var(--bad); }
.open { background: var(--noted); } .open b { color: var(--note); }
section { margin: 0 0 1.25rem; padding: 1.3rem 1.4rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: .6rem; }
img { display: block; width: 100%; height: auto; }
picture + picture img { margin-top: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 600; text-align: left; }
th, td { padding: .38rem .6rem .38rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; } td.number { white-space: nowrap; }
code { font: .85rem ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
mark { background: var(--noted); color: var(--note); padding: .05rem .35rem; border-radius: .3rem; }
summary { cursor: pointer; color: var(--link); margin-top: .6rem; }
@media (max-width: 40rem) { main { padding: 1.5rem .75rem 3rem; } section { padding: 1rem; } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
