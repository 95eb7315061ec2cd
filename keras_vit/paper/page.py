"""The results as one HTML page that needs nothing else: the table, and a plot as inline SVG."""

import html
import math

from keras_vit.paper.results import duration, show

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 56
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")
_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; }
table { border-collapse: collapse; } td, th { padding: .25em .7em; border-bottom: 1px solid #ddd; }
td { text-align: right; white-space: nowrap; } th { text-align: left; font-weight: 600; }
.paper { color: #777; } figure { margin: 2em 0; } svg text { font: 12px sans-serif; fill: #333; }
"""


def make_page(results):
    """Writes the page.

    Args:
        results: `Results`.

    Returns:
        The HTML text.
    """
    experiment = results.experiment
    head = "".join(f"<th>{html.escape(column)}</th>" for column in results.columns)
    body = []
    for row in results.rows:
        cells = (f"<td>{_cell(results.value(row, column))}</td>" for column in results.columns)
        body.append(f"<tr><th>{html.escape(row)}</th>{''.join(cells)}</tr>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in experiment.notes)
    title = html.escape(experiment.title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        "<p>Measured, <span class=paper>[the paper's number] and the difference</span>. "
        f"All runs took {duration(results.seconds)}.</p>"
        f"<table><tr><th></th>{head}</tr>{''.join(body)}</table>"
        f"{_plots(results)}<ul>{notes}</ul></html>\n"
    )


def _cell(value):
    text = html.escape(show(value))
    start, bracket, rest = text.partition(" [")
    return f"{start}<span class=paper>{bracket}{rest}</span>" if bracket else text


def _plots(results):
    if results.experiment.x_label is None:
        return _plot(
            "Measured against the paper's",
            "the paper's",
            "measured",
            [
                (value.row, value.published, value.measured, False)
                for value in results.values
                if value.published is not None and value.measured is not None
            ],
            is_log=False,
        )
    parts, columns = [], results.columns
    by_row = len(columns) > 1 and all(
        len({value.x for value in results.values if value.column == column}) == 1
        for column in columns
    )
    for name in [None] if by_row else columns:
        points = []
        for value in results.values:
            if value.x is None or (name is not None and value.column != name):
                continue
            points.append((value.row, value.x, value.measured, False))
            points.append((value.row, value.x, value.published, True))
        points = [point for point in points if point[2] is not None]
        title = results.experiment.title if name is None else name
        parts.append(_plot(title, results.experiment.x_label, "accuracy", points, is_log=True))
    return "".join(parts)


def _plot(title, x_label, y_label, points, is_log):
    """A scatter plot: filled circles are measured, rings are the paper's."""
    if not points:
        return ""

    def place(value):
        return math.log10(value) if is_log else value

    xs, ys = [place(point[1]) for point in points], [point[2] for point in points]
    x_low, x_high, y_low, y_high = *_range(xs), *_range(ys)
    names = list(dict.fromkeys(point[0] for point in points))
    marks = []
    for (row, _, y, is_paper), x in zip(points, xs, strict=True):
        left = _MARGIN + (x - x_low) / (x_high - x_low) * (_WIDTH - 2 * _MARGIN)
        top = _HEIGHT - _MARGIN - (y - y_low) / (y_high - y_low) * (_HEIGHT - 2 * _MARGIN)
        colour = _COLOURS[names.index(row) % len(_COLOURS)]
        fill = "none" if is_paper else colour
        who = "paper" if is_paper else "measured"
        marks.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5" fill="{fill}" stroke="{colour}">'
            f"<title>{html.escape(row)}, {who}: {y:.4g}</title></circle>"
        )
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    unplace = (lambda value: 10**value) if is_log else (lambda value: value)
    labels = [
        (_MARGIN, bottom + 18, f"{unplace(x_low):.3g}", "middle"),
        (right, bottom + 18, f"{unplace(x_high):.3g}", "middle"),
        (_WIDTH // 2, bottom + 40, x_label + (" (log)" if is_log else ""), "middle"),
        (_MARGIN - 6, bottom, f"{y_low:.4g}", "end"),
        (_MARGIN - 6, _MARGIN, f"{y_high:.4g}", "end"),
        (_MARGIN - 6, _HEIGHT // 2, y_label, "end"),
    ]
    texts = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'
        for x, y, text, anchor in labels
    )
    legend = "".join(
        f'<span style="color:{_COLOURS[i % len(_COLOURS)]}">&#9679;</span> {html.escape(name)} '
        for i, name in enumerate(names)
    )
    return (
        f"<figure><figcaption>{html.escape(title)}; rings are the paper's</figcaption>"
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img">'
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{right}" fill="none" stroke="#999"/>'
        f"{texts}{''.join(marks)}</svg><p>{legend}</p></figure>"
    )


def _range(values):
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(low) * 0.05 or 0.5
    return low - margin, high + margin
