"""Pictures of what `keras_vit.analysis` computes, in the layout of the paper's figures.

Needs Matplotlib and Pillow, the package's extra `plots`.  Each function gives a Matplotlib `Figure`
that belongs to no window; `to_png` and `Figure.savefig` write it.  Colours are those of viridis,
which people with any colour vision tell apart.

Shapes: B images, H W pixels, h w grid, k heads, L blocks, n components.
"""

import io
import math

import numpy as np

try:
    import PIL.Image
    import PIL.ImageFilter
    from matplotlib import colormaps
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        f"pictures need Matplotlib and Pillow, the extra `plots`, and {error.name!r} is not "
        "installed; pip install matplotlib pillow"
    ) from error

from keras_vit.data.images.mask_colors import colors
from keras_vit.data.images.mask_colors import overlay as color_overlay

COLORS = "viridis"
_FIRST, _SECOND = (colormaps[COLORS](x) for x in (0.15, 0.7))
_MAX_TICKS = 14
_DPI = 120


def overlay_masks(maps, image_size):
    """What of an image is shown: maps over patches drawn as the authors draw them.

    Divided by the maximum, times 255, resized with Lanczos's filter, to 8 bits, a Gaussian blur
    with the radius of a patch, then the minimum subtracted and divided by the maximum (issue 27 of
    google-research/vision_transformer).

    Args:
        maps: (B, h, w), not negative, such as of `attention_rollout`.
        image_size: (H, W) in pixels.

    Returns:
        (B, H, W) float32 in [0, 1].
    """
    height, width = image_size
    rows, columns = maps.shape[1:]
    blur = PIL.ImageFilter.GaussianBlur((width / columns, height / rows))
    masks = np.empty((len(maps), height, width), "float32")
    for mask, values in zip(masks, maps, strict=True):
        scaled = (_over_max(values) * 255).astype("float32")
        picture = PIL.Image.fromarray(scaled).resize((width, height), PIL.Image.Resampling.LANCZOS)
        blurred = np.asarray(picture.convert("L").filter(blur), "float32")
        mask[:] = _over_max(blurred - blurred.min())
    return masks


def overlay(pixels, maps):
    """Images over black, as transparent as `overlay_masks` says.

    Args:
        pixels: (B, H, W, 3) uint8.
        maps: (B, h, w), not negative.

    Returns:
        (B, H, W, 3) uint8.
    """
    masks = overlay_masks(maps, pixels.shape[1:3])
    return np.rint(pixels * masks[..., np.newaxis]).astype("uint8")


def filters_figure(filters, columns=7):
    """Figure 7 left: the principal components of the embedding filters, each scaled by itself.

    Args:
        filters: `FilterComponents`.
        columns: Components in a row.
    """
    figure = _figure(4.2, 0.4 + 4.2 / columns * math.ceil(len(filters.components) / columns))
    _draw_filters(figure, filters, columns)
    return figure


def positions_figure(similarity):
    """Figures 7 centre and 10: for each patch the similarity of its position with all others.

    Args:
        similarity: (h, w, h, w) in [-1, 1], of `position_similarity`.
    """
    rows, columns = similarity.shape[:2]
    figure = _figure(5.2, max(2.0, min(9.0, 4.4 * rows / columns + 0.4)))
    _draw_positions(figure, similarity)
    return figure


def distance_figure(distances, title=None, against=None, against_title=None):
    """Figures 7 right and 11: mean attention distance of each head by depth.

    Args:
        distances: (L, B, k) or (L, k) in pixels, of `attention_distance`.
        title: Over the panel, such as the model's name; None for none.
        against: The same of another model, for a panel beside it; None for none.
        against_title: Over that panel.
    """
    panels = [(distances, title)] + [(against, against_title)] * (against is not None)
    figure = _figure(4.2 * len(panels), 3.4)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (values, text) in zip(all_axes, panels, strict=True):
        _draw_distances(axes, values, text)
    for axes in all_axes[1:]:
        axes.set_ylabel("")
    return figure


def figure_7(filters, similarity, distances):
    """Figure 7: filters, positions and attention distance of a model side by side."""
    figure = _figure(12.6, 3.7)
    left, centre, right = figure.subfigures(1, 3, width_ratios=(1.0, 1.1, 1.1))
    _draw_filters(left, filters, 7)
    _draw_positions(centre, similarity)
    _draw_distances(right.subplots(), distances, "ViT: attention distance")
    return figure


def rollout_figure(pixels, maps, captions=None, pairs=4):
    """Figures 6 and 14: images beside what of them the output attends to.

    Args:
        pixels: (B, H, W, 3) uint8.
        maps: (B, h, w), of `attention_rollout` or another map.
        captions: Text under each image, or None.
        pairs: Images in a row; 1 gives Figure 6.
    """
    shown = overlay(pixels, maps)
    pairs = min(pairs, len(pixels))
    rows = math.ceil(len(pixels) / pairs)
    tall = pixels.shape[1] / pixels.shape[2]
    caption = 0.25 * (captions is not None)
    figure = _figure(pairs * 3.0, rows * (1.5 * tall + caption) + 0.3)
    axes = figure.subplots(rows, 2 * pairs, squeeze=False)
    for one in axes.ravel():
        one.set_axis_off()
    for column in range(2 * pairs):
        axes[0, column].set_title(("Input", "Attention")[column % 2], fontsize=9)
    for i, (image, masked) in enumerate(zip(pixels, shown, strict=True)):
        row, column = divmod(i, pairs)
        for one, picture in ((axes[row, 2 * column], image), (axes[row, 2 * column + 1], masked)):
            one.imshow(picture)
        if captions is not None:
            text = _plain(captions[i], 24)
            axes[row, 2 * column].text(
                0.0, -0.03, text, va="top", fontsize=8, transform=axes[row, 2 * column].transAxes
            )
    return figure


def heads_figure(pixels, maps, kept=None):
    """One image and where each head of a block looks.

    Args:
        pixels: (H, W, 3) uint8.
        maps: (k, h, w), of `attention_map`.
        kept: (k, h, w) booleans, of `thresholded_attention`, whose border is drawn; or None.
    """
    columns = min(len(maps) + 1, 5)
    rows = math.ceil((len(maps) + 1) / columns)
    height, width = pixels.shape[:2]
    figure = _figure(columns * 1.7, rows * (1.7 * height / width + 0.25))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one in axes:
        one.set_axis_off()
    axes[0].imshow(pixels)
    axes[0].set_title("Input", fontsize=9)
    for head, values in enumerate(maps):
        one = axes[head + 1]
        extent = (0, width, height, 0)
        one.imshow(values, cmap=COLORS, extent=extent, interpolation="nearest")
        if kept is not None and not kept[head].all():
            side = np.kron(kept[head], np.ones((8, 8)))
            one.contour(side, [0.5], colors="white", origin="lower", extent=(0, width, 0, height))
        one.set_title(f"Head {head + 1}", fontsize=9)
    return figure


def similarity_figure(similarity, row_title="Layer", column_title="Layer"):
    """Linear CKA between all layers, the first ones at the lower left.

    Args:
        similarity: `Similarity`.
        row_title: What the rows are.
        column_title: What the columns are.
    """
    figure = _figure(4.6, 3.8)
    axes = figure.subplots()
    image = axes.imshow(similarity.values, cmap=COLORS, vmin=0, vmax=1, origin="lower")
    _count_ticks(axes, len(similarity.rows), len(similarity.columns))
    axes.set_ylabel(_plain(row_title, 40))
    axes.set_xlabel(_plain(column_title, 40))
    figure.colorbar(image, ax=axes, label="Linear CKA")
    return figure


def confusion_figure(matrix, names):
    """Which classes are taken for which, each row scaled by its images.

    Args:
        matrix: int (C, C), a row for each true class, a column for each class answered.
        names: C names, written up to 50 of them; up to 20 classes have their numbers in the cells.
    """
    number = len(matrix)
    side = min(max(2.5 + 0.35 * number, 4.0), 14.0)
    figure = _figure(side, side)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=COLORS, vmin=0, vmax=1)
    axes.set_xlabel("Answered")
    axes.set_ylabel("True")
    if number <= 50:
        texts = [_plain(name, 20) for name in names]
        axes.set_xticks(range(number), texts, rotation=90, fontsize=8)
        axes.set_yticks(range(number), texts, fontsize=8)
    if number <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            color = "black" if shares[row, column] > 0.6 else "white"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(image, ax=axes, label="Share of the true class", shrink=0.7)
    return figure


def history_figure(groups, x_title="Step"):
    """Learning curves, one panel for each quantity.

    Args:
        groups: Dict from a panel's title to a dict from a line's name to (x, y) lists.
        x_title: Under the panels.
    """
    columns = min(len(groups), 3)
    rows = math.ceil(len(groups) / columns)
    figure = _figure(3.6 * columns, 2.7 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one in axes[len(groups) :]:
        one.set_axis_off()
    for one, (title, lines) in zip(axes, groups.items(), strict=False):
        styles = zip((_FIRST, _SECOND), ("-", "--"), strict=True)
        for (name, (x, y)), (color, style) in zip(lines.items(), styles, strict=False):
            one.plot(x, y, style, color=color, label=_plain(name, 30), marker=".", markersize=4)
        one.set_title(_plain(title, 40), fontsize=10)
        one.set_xlabel(x_title)
        one.grid(alpha=0.3)
        if len(lines) > 1:
            one.legend(fontsize=8)
    return figure


def overview_figure(inspections):
    """All that a report shows of one or two models, in one picture.

    Args:
        inspections: `Inspection`s; of two on the same images, one column each.
    """
    figure = _figure(6.4 * len(inspections), 11.5)
    for part, found in zip(
        np.ravel(figure.subfigures(1, len(inspections))), inspections, strict=True
    ):
        part.suptitle(_plain(found.label, 50), fontsize=12)
        _draw_overview(part, found)
    return figure


def to_png(figure):
    """A figure as the bytes of a PNG file, without the time and the program's version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def to_jpeg(pixels):
    """One (H, W, 3) uint8 image as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def _figure(width, height):
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _over_max(values):
    largest = values.max()
    return values / largest if largest > 0 else np.zeros_like(values)


def _draw_filters(figure, filters, columns):
    components = filters.components
    rows = math.ceil(len(components) / columns)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one in axes:
        one.set_axis_off()
    for one, component in zip(axes, components, strict=False):
        low, high = component.min(), component.max()
        scaled = (component - low) / (high - low if high > low else 1)
        grey = scaled.shape[-1] < 3
        one.imshow(scaled[..., 0] if grey else scaled[..., :3], cmap="gray", vmin=0, vmax=1)
    kind = "RGB " if components.shape[-1] == 3 else ""
    figure.suptitle(
        f"{kind}embedding filters\n(first {len(components)} principal components)", fontsize=10
    )


def _draw_positions(figure, similarity):
    rows, columns = similarity.shape[:2]
    gap = max(1, round(0.12 * max(rows, columns)))
    cell = (rows + gap, columns + gap)
    picture = np.full((rows * cell[0] - gap, columns * cell[1] - gap), np.nan)
    for i in range(rows):
        for j in range(columns):
            top, left = i * cell[0], j * cell[1]
            picture[top : top + rows, left : left + columns] = similarity[i, j]
    axes = figure.subplots()
    # As many pixels as there are numbers, or none would be seen of a fine grid.
    image = axes.imshow(picture, cmap=COLORS, vmin=-1, vmax=1, interpolation="nearest")
    for axis, number, side, size in (
        (axes.yaxis, rows, cell[0], rows),
        (axes.xaxis, columns, cell[1], columns),
    ):
        shown = _ticks(number)
        axis.set_ticks([i * side + (size - 1) / 2 for i in shown], [str(i + 1) for i in shown])
        axis.set_tick_params(length=0, labelsize=8)
    axes.set_frame_on(False)
    axes.set_ylabel("Input patch row")
    axes.set_xlabel("Input patch column")
    axes.set_title("Position embedding similarity", fontsize=10)
    figure.colorbar(image, ax=axes, label="Cosine similarity", ticks=[-1, 0, 1], shrink=0.8)


def _draw_distances(axes, distances, title):
    values = distances.mean(axis=1) if distances.ndim == 3 else distances  # (L, k)
    depth, heads = values.shape
    # Heads in a different order of distance are no different heads: they are told apart by colour.
    colors = colormaps[COLORS](np.linspace(0.0, 0.9, heads))
    for head in range(heads):
        label = f"Head {head + 1}" if head < 3 else ("…" if head == 3 else None)
        axes.scatter(np.arange(depth), values[:, head], s=14, color=colors[head], label=label)
    axes.set_xlabel("Network depth (layer)")
    axes.set_ylabel("Mean attention distance (pixels)")
    axes.set_ylim(0, 1.08 * max(float(values.max()), 1e-6))
    shown = _ticks(depth)
    axes.set_xticks(shown)
    # Beside the dots, which may be anywhere.
    axes.legend(loc="lower left", bbox_to_anchor=(1.0, 0.0), fontsize=8, handletextpad=0.2)
    if title is not None:
        axes.set_title(_plain(title, 60), fontsize=10)


def _draw_overview(figure, found):
    images = found.images
    has_distance = images is not None and images.attention_distance is not None
    filters, positions, distances, pictures = figure.subfigures(4, 1, height_ratios=(4, 5, 4, 3))
    _draw_filters(filters, found.filters, 7)
    if found.positions is not None:
        _draw_positions(positions, found.positions)
    if has_distance:
        _draw_distances(distances.subplots(), images.attention_distance, "Attention distance")
    if images is None:
        return
    maps = images.rollout if images.rollout is not None else images.grad_cam
    axes = pictures.subplots(2, 6, squeeze=False)
    shown = found.pixels if maps is None else overlay(found.pixels, maps)
    if found.masks is not None:
        shown = color_overlay(found.pixels, found.masks, colors(int(found.masks.max()) + 1))
    for one in axes.ravel():
        one.set_axis_off()
    for column, (image, masked) in enumerate(zip(found.pixels[:6], shown, strict=False)):
        axes[0, column].imshow(image)
        axes[1, column].imshow(masked)


def _ticks(number):
    """At most `_MAX_TICKS` indices below a number, evenly spaced from 0."""
    return list(range(0, number, -(-number // _MAX_TICKS)))


def _count_ticks(axes, rows, columns):
    for axis, number in ((axes.yaxis, rows), (axes.xaxis, columns)):
        axis.set_ticks(_ticks(number))


def _plain(text, length):
    """Text for a picture: no formulas, no marks that turn the direction, not too long."""
    shown = "".join(c if c.isprintable() else "·" for c in str(text)).replace("$", r"\$")
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"
