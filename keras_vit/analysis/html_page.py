"""A page of HTML that needs nothing but itself: pieces that escape what they are given.

Every text goes through `text`; only this module writes markup.
"""

import base64
import hashlib
import html

from keras_vit.untrusted import printable

_MAX_CHARS = 2000
_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --ink: #1b1b1f; --soft: #55555f; --line: #c9c9d2;
  --card: #f5f5f8; --link: #1d4ed8; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15161a; --ink: #ececf1; --soft: #b4b4c0; --line: #44454f; --card: #202127;
    --link: #93b4ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 88rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .wide:focus-visible { outline: 3px solid var(--link);
  outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--back); padding: .5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 2.5rem;
  border-bottom: 1px solid var(--line); } h3 { font-size: 1.05rem; }
h4 { font-size: 1rem; margin: 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; }
.side { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem),
  1fr)); align-items: start; }
.side > * { min-width: 0; }
.photos { display: grid; gap: 1rem; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.photos > li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem; min-width: 0; }
.row { display: flex; gap: .5rem; margin: .5rem 0; } .row figure { flex: 1 1 0; min-width: 0; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .9rem; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: .25rem; }
.row img { width: 100%; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; overflow-wrap: normal; }
caption { text-align: left; color: var(--soft); padding: .25rem 0; white-space: nowrap; }
.tables { display: flex; flex-wrap: wrap; gap: 0 2.5rem; } .tables > * { min-width: 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0;
  border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.text { overflow-wrap: anywhere; min-width: 6rem; }
summary { cursor: pointer; padding: .25rem 0; }
.note { color: var(--soft); }
"""


def text(value):
    """Any text as HTML that shows it and does nothing else.

    What has no shape or turns the direction of writing is shown as its code, and the rest is
    isolated from the text around it.

    >>> text('<b>\\u202egnp')
    '<bdi>&lt;b&gt;\\\\u202egnp</bdi>'
    """
    return f"<bdi>{html.escape(visible(value))}</bdi>"


def visible(value):
    """A text whose control characters and marks of direction are written as their codes."""
    return printable(value, _MAX_CHARS)


def attribute(value):
    """A text as the value of an attribute, without its quotes."""
    return html.escape(visible(value), quote=True)


def paragraph(value, kind="note"):
    """A paragraph of text."""
    return f'<p class="{kind}">{text(value)}</p>'


def image(data, kind, alt, caption="", width=None, height=None):
    """A picture with a text for those who do not see it.

    Args:
        data: Bytes of the file.
        kind: "png" or "jpeg".
        alt: What is in it.
        caption: Under it; "" for none.
        width: In pixels, or None.
        height: In pixels, or None.
    """
    encoded = base64.b64encode(data).decode("ascii")
    size = "" if width is None else f' width="{width}" height="{height}"'
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img src="data:image/{kind};base64,{encoded}" alt="{attribute(alt)}"{size}>'
        f"{below}</figure>"
    )


def table(caption, columns, rows):
    """A table whose first column names its rows.

    Args:
        caption: What is in it.
        columns: Names of the columns.
        rows: Sequences of cells; numbers are set to the right, with four digits.
    """
    kinds = [
        "number" if rows and all(_is_number(cell) for cell in column) else "text"
        for column in (zip(*rows, strict=True) if rows else [()] * len(columns))
    ]
    head = "".join(
        f'<th scope="col" class="{kind}">{text(name)}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    lines = []
    for row in rows:
        cells = [_cell(cell) for cell in row]
        first = f'<th scope="row">{cells[0]}</th>'
        rest = "".join(
            f'<td class="{kind}">{cell}</td>'
            for cell, kind in zip(cells[1:], kinds[1:], strict=True)
        )
        lines.append(f"<tr>{first}{rest}</tr>")
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{attribute(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def details(summary, content):
    """Content that is folded away until it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def section(name, title, content):
    """A part of the page with its heading."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{text(title)}'
        f"</h2>{content}</section>"
    )


def heading(level, value):
    """A heading inside a section."""
    return f"<h{level}>{text(value)}</h{level}>"


def block(kind, *content):
    """Content in a box of a kind that the style knows."""
    return f'<div class="{kind}">{"".join(content)}</div>'


def listing(kind, items):
    """A list of a kind that the style knows."""
    return f'<ul class="{kind}">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def page(title, introduction, sections):
    """The whole page.

    Args:
        title: Of the page.
        introduction: Content under the title.
        sections: (name, title, content) of each part.

    Returns:
        The text of an HTML file, which loads nothing: its policy allows pictures that it holds and
        its own style, and no script.
    """
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    links = "".join(f'<li><a href="#{name}">{text(head)}</a></li>' for name, head, _ in sections)
    body = "\n".join(section(*part) for part in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(visible(title))}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f"<header><h1>{text(title)}</h1>{introduction}\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f'<main id="content">\n{body}\n</main>\n</body>\n</html>\n'
    )


def _cell(value):
    if isinstance(value, float):
        return html.escape(f"{value:.4g}")
    return f"{value:,}" if _is_number(value) else text(value)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
