"""The parts of the report's page, each made from one or two `Inspection`s side by side."""

from keras_vit.analysis import html_page as page
from keras_vit.analysis import plots
from keras_vit.analysis.attention import threshold
from keras_vit.analysis.run_facts import curves
from keras_vit.analysis.similarity import compare
from keras_vit.data.images.mask_colors import colors
from keras_vit.data.images.mask_colors import overlay as color_overlay
from keras_vit.version import __version__


def html_text(inspections):
    """The page about one or two models."""
    labels = " and ".join(found.label for found in inspections)
    parts = [
        (name, title, content)
        for name, title, make in _SECTIONS
        if (content := make(inspections)) is not None
    ]
    introduction = page.paragraph(
        f"Made by keras_vit {__version__}. Filters, positions, attention distance and rollout are "
        "drawn as in section 4.5 and appendices D.7 and D.8 of arXiv:2010.11929v2."
    )
    return page.page(f"Inside {labels}", introduction, parts)


def _beside(inspections, make):
    """What `make` gives for each model, side by side; None where it gives nothing for any."""
    made = [(found, make(found)) for found in inspections]
    if all(content is None for _, content in made):
        return None
    return page.block(
        "side",
        *(
            page.block("model", page.heading(3, found.label), content or _nothing(found))
            for found, content in made
        ),
    )


def _nothing(found):
    return page.paragraph(f"There is nothing of this kind in a {found.facts['family']}.")


def _model(inspections):
    return _beside(inspections, _model_of)


def _model_of(found):
    facts = found.facts
    layers = facts["layers"]
    classes = facts["class_names"]
    origin = facts["origin"]
    size = facts["file"].get("bytes")
    rows = [
        ("family", facts["family"]),
        ("parameters", facts["parameters"]),
        ("GFLOPs of one image, a multiply-add counted as one", facts["multiply_adds"] / 1e9),
        ("numbers", facts["dtype"]),
        ("class names", "none" if classes is None else f"{len(classes)}: {_some(classes)}"),
        ("read from", facts["source"] or "memory"),
        ("file format", origin.get("format", "keras" if facts["file"] else "unknown")),
        *([("file size", f"{size:,} bytes")] if size is not None else []),
    ]
    tables = page.block(
        "tables",
        page.table("The model", ("what", "value"), [(k, _shown(v)) for k, v in rows]),
        _fields("Preprocessing", facts["preprocessing"]),
        _fields("Architecture", facts["architecture"]),
        _fields("Decoder", facts.get("decoder")),
        _fields("Where its weights come from", origin),
    )
    lines = [(x["name"], x["type"], _shown(x["output"]), x["parameters"]) for x in layers]
    titles = ("layer", "type", "output", "parameters")
    return tables + page.details(f"All {len(layers)} layers", page.table("Layers", titles, lines))


def _fields(caption, fields):
    if not fields:
        return ""
    return page.table(caption, ("what", "value"), [(k, _shown(v)) for k, v in fields.items()])


def _training(inspections):
    if all(found.run is None for found in inspections):
        return None
    return _beside(inspections, _training_of)


def _training_of(found):
    run = found.run
    if run is None:
        return page.paragraph("It was not read from the folder of a run.")
    told = run["metrics"].get("findings")
    told = told if isinstance(told, list) else []
    parts = [page.paragraph(problem, "problem") for problem in (*run["problems"], *told)]
    groups, x_title = curves(run["history"])
    if groups:
        last = ", ".join(
            f"{line} {title} {y[-1]:.4g}"
            for title, lines in groups.items()
            for line, (_, y) in lines.items()
        )
        parts.append(
            page.image(
                plots.to_png(plots.history_figure(groups, x_title)),
                "png",
                f"Learning curves by {x_title.lower()}. At the end: {last}.",
                "Learning curves, gradient norms and what evaluators reported",
            )
        )
    tables = [
        _fields(f"Metrics: {name}", value)
        for name, value in run["metrics"].items()
        if name != "recipe" and isinstance(value, dict)
    ]
    facts = {
        name: value
        for name, value in run["metrics"].items()
        if not isinstance(value, dict) and name != "findings"
    }
    parts.append(page.block("tables", _fields("The run", facts), *tables))
    if run["recipe"]:
        parts.append(page.details("Recipe", _fields("Recipe", run["recipe"])))
    if run["skipped"]:
        lines = [
            (
                _shown(entry.get("path") or entry.get("index")),
                _shown(entry.get("split")),
                _shown(entry.get("reason")),
            )
            for entry in run["skipped"]
        ]
        skipped = page.table("Skipped images", ("image", "split", "reason"), lines)
        parts.append(page.details(f"{len(lines)} images were left out of the training", skipped))
    return "".join(parts)


def _next(inspections):
    if all(found.run is None for found in inspections):
        return None
    return _beside(inspections, _next_of)


def _next_of(found):
    if found.run is None:
        return page.paragraph("It was not read from the folder of a run.")
    return page.table("Commands that take this model", ("what", "command"), found.run["next"])


def _filters(inspections):
    return _beside(inspections, _filters_of)


def _filters_of(found):
    filters = found.filters
    count = len(filters.components)
    share = float(filters.explained_variance_ratio.sum())
    return page.image(
        plots.to_png(plots.filters_figure(filters)),
        "png",
        f"The first {count} principal components of the filters of {filters.layer}, each scaled by "
        f"itself. Together they explain {100 * share:.1f} percent of the variance.",
        f"Principal components of the filters of the layer {filters.layer}; "
        f"{100 * share:.1f} % of the variance",
    )


def _positions(inspections):
    return _beside(inspections, _positions_of)


def _positions_of(found):
    if found.positions is None:
        return None
    rows, columns = found.positions.shape[:2]
    return page.image(
        plots.to_png(plots.positions_figure(found.positions)),
        "png",
        f"{rows} by {columns} tiles, one for each patch: the cosine similarity of its position "
        "embedding with that of every patch.",
        "Each tile: similarity of one patch's position with all others",
    )


def _distances(inspections):
    return _beside(inspections, _distances_of)


def _distances_of(found):
    if found.images is None or found.images.attention_distance is None:
        return None
    mean = found.images.attention_distance.mean(axis=1)  # (L, k)
    image = page.image(
        plots.to_png(plots.distance_figure(mean)),
        "png",
        f"Mean attention distance of each of {mean.shape[1]} heads in {mean.shape[0]} layers, from "
        f"{mean.min():.1f} to {mean.max():.1f} pixels; the table has the numbers of each layer.",
        f"Mean over {len(found.pixels)} images; a dot is a head",
    )
    rows = [(i, float(x.min()), float(x.mean()), float(x.max())) for i, x in enumerate(mean)]
    columns = ("layer", "nearest head", "mean", "farthest head")
    return image + page.details(
        "Numbers", page.table("Mean attention distance in pixels", columns, rows)
    )


def _photographs(inspections):
    return _beside(inspections, _photographs_of)


def _photographs_of(found):
    if found.images is None:
        return None
    images, photographs = found.images, found.photographs
    views = []
    if images.rollout is not None:
        views.append(("attention rollout", plots.overlay(found.pixels, images.rollout)))
    if images.grad_cam is not None:
        views.append(("Grad-CAM", plots.overlay(found.pixels, images.grad_cam)))
    if found.masks is not None:
        table = colors(int(found.masks.max()) + 1)
        views.append(("mask", color_overlay(found.pixels, found.masks, table)))
    items = []
    for i, name in enumerate(photographs.names):
        pictures = [("input", found.pixels[i]), *((kind, shown[i]) for kind, shown in views)]
        items.append(
            page.heading(4, name)
            + page.block("row", *(_picture(kind, pixels, name) for kind, pixels in pictures))
            + ("" if found.top is None else _top(found.top[i]))
            + ("" if found.shares is None else _shares(found.shares[i]))
        )
    parts = [page.listing("photos", items)]
    if photographs.num_more:
        parts.append(page.paragraph(f"{photographs.num_more} more images were not looked at."))
    if photographs.skipped:
        parts.append(
            page.table("Images that cannot be read", ("image", "reason"), photographs.skipped)
        )
    if images.last_block is not None:
        parts.append(_heads(found))
    return "".join(parts)


def _picture(kind, pixels, name):
    alt = {
        "input": f"{name}, as the model sees it",
        "attention rollout": f"{name}, bright where the output attends to",
        "Grad-CAM": f"{name}, bright where it speaks for the best class",
        "mask": f"{name}, in the color of each pixel's class",
    }[kind]
    height, width = pixels.shape[:2]
    return page.image(plots.to_jpeg(pixels), "jpeg", alt, kind, width, height)


def _top(best):
    rows = [(name, f"{100 * share:.1f} %") for name, share in best]
    return page.table(f"Top {len(best)} predictions", ("class", "probability"), rows)


def _shares(shares):
    rows = [(name, f"{100 * share:.1f} %") for name, share in shares]
    return page.table("Classes in the mask", ("class", "pixels"), rows)


def _heads(found):
    maps = found.images.last_block[0]
    figure = plots.heads_figure(found.pixels[0], maps, threshold(maps, 0.6))
    return page.image(
        plots.to_png(figure),
        "png",
        f"Where each of the {len(maps)} heads of the last block looks in "
        f"{found.photographs.names[0]}.",
        "Heads of the last block on the first image; the white line holds 60 % of the attention",
    )


def _similarities(inspections):
    shown = [found for found in inspections if found.images is not None and len(found.pixels) > 1]
    if not shown:
        return None
    pairs = [(found, found) for found in shown]
    if len(shown) == 2 and len(shown[0].pixels) == len(shown[1].pixels):
        pairs.append((shown[0], shown[1]))
    boxes = []
    for rows, columns in pairs:
        similarity = compare(rows.images.features, columns.images.features)
        names = rows.label if rows is columns else f"{rows.label} and {columns.label}"
        titles = [f"Layer of {found.label}" for found in (rows, columns)]
        boxes.append(
            page.block(
                "model",
                page.heading(3, names),
                page.image(
                    plots.to_png(plots.similarity_figure(similarity, *titles)),
                    "png",
                    f"Linear CKA of the layers of {names}: {similarity.values.min():.2f} to "
                    f"{similarity.values.max():.2f}, 1 for the same representation.",
                    f"Linear CKA of the mean tokens of {len(rows.pixels)} images",
                ),
            )
        )
    return page.block("side", *boxes)


def _statistics(inspections):
    return _beside(inspections, _statistics_of)


def _statistics_of(found):
    names = ("size", "mean", "std", "min", "max", "norm", "zeros", "not_finite")
    titles = ("variable", "size", "mean", "deviation", "min", "max", "norm", "zeros", "not finite")
    rows = [(row["path"], *(row[name] for name in names)) for row in found.facts["weights"]]
    bad = sum(row["not_finite"] for row in found.facts["weights"])
    parts = [page.paragraph(f"{len(rows)} variables; {bad:,} numbers are not finite.")]
    if found.images is not None and found.images.activations is not None:
        keys = ("layer", "mean", "std", "token_norm", "largest")
        columns = ("layer", "mean", "deviation", "norm of a token", "largest magnitude")
        lines = [tuple(row[key] for key in keys) for row in found.images.activations]
        parts.append(page.table("What leaves each block, over all images", columns, lines))
    parts.append(page.details("Weights", page.table("Weights", titles, rows)))
    return "".join(parts)


_SECTIONS = (
    ("model", "The model", _model),
    ("training", "Training", _training),
    ("filters", "Embedding filters", _filters),
    ("positions", "Position embeddings", _positions),
    ("distances", "Attention distance", _distances),
    ("images", "Images", _photographs),
    ("similarity", "Similarity of layers", _similarities),
    ("statistics", "Weights and activations", _statistics),
    ("next", "What to do with it", _next),
)


def _shown(value):
    """A value for a cell: sizes as 224 x 224, no braces or quotes of Python's."""
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        is_size = all(isinstance(part, int) for part in value)
        return (" x " if is_size else ", ").join(str(part) for part in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items()) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _some(names, number=5):
    more = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(names[:number]) + more
