"""The site's page of models and checkpoints, made from the tables of the package."""

import io

import matplotlib.figure

from keras_vit.cli import models, published_models

INTRODUCTION = """# Models and checkpoints

What `keras-vit models` and `keras-vit models --checkpoints` print. GFLOPs are billions of
multiply-adds for one image. A name of the first table goes into `keras_vit.create_model`, one of
the second into `keras_vit.from_pretrained`; how other files are loaded is in
[checkpoints.md](checkpoints.md).
"""
PLOT = "images/accuracy_against_gflops.svg"
# Okabe and Ito's colours, which colour-blind readers tell apart.
FAMILIES = {
    "BiT-ResNets": ("^", "#D55E00"),
    "hybrids": ("s", "#009E73"),
    "Vision Transformers": ("o", "#0072B2"),
}
MODEL_COLUMNS = {
    "name": "name",
    "family": "class",
    "num_params": "parameters",
    "gflops": "GFLOPs at 224 px",
    "hidden_size": "hidden size",
    "depth": "depth",
    "num_heads": "heads",
}
CHECKPOINT_COLUMNS = {
    "name": "name",
    "architecture": "architecture",
    "image_size": "pixels",
    "num_classes": "classes",
    "num_params": "parameters",
    "gflops": "GFLOPs",
    "accuracy": "ImageNet top-1 (%)",
    "finetuned_accuracy": "after fine-tuning (%)",
    "training": "trained on",
}


HUB = """
## Published by timm on the hub

What `keras-vit models --hub` prints, from timm's own registry. Each name goes into
`keras_vit.from_pretrained`, which downloads it. Accuracies are in no table of timm's, so none are
told here. Hybrids, and models with a part that keras_vit lacks, have no number of parameters here.
"""
HUB_COLUMNS = {
    "name": "name",
    "image_size": "pixels",
    "num_classes": "classes",
    "num_params": "parameters",
    "gflops": "GFLOPs",
    "licence": "licence",
    "task": "for",
}


def page():
    """The page as Markdown."""
    checkpoints = models.checkpoint_rows("*")
    return "\n".join(
        [
            INTRODUCTION,
            "## Models\n",
            *_table(MODEL_COLUMNS, models.model_rows("*")),
            "\n## Accuracy against computation\n",
            "ImageNet top-1 of the files below whose accuracy a source gives: of the file itself, "
            "or after it was fine-tuned on ImageNet.\n",
            f"![Scatter plot of ImageNet accuracy against GFLOPs of the checkpoints]({PLOT})\n",
            "## Checkpoints\n",
            *_table(CHECKPOINT_COLUMNS, checkpoints),
            HUB,
            *_table(HUB_COLUMNS, published_models.published_rows("*")),
        ]
    )


def plot():
    """Accuracy against GFLOPs of all checkpoints whose accuracy is known, as SVG."""
    figure = matplotlib.figure.Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = [
        (row, row["accuracy"] or row["finetuned_accuracy"]) for row in models.checkpoint_rows("*")
    ]
    for family, (marker, color) in FAMILIES.items():
        points = [(row["gflops"], y) for row, y in rows if y and _family(row) == family]
        axes.scatter(
            *zip(*points, strict=True), marker=marker, color=color, alpha=0.7, label=family
        )
    axes.set_xscale("log")
    axes.set_xlabel("multiply-adds of one image (billions)")
    axes.set_ylabel("ImageNet top-1 (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _family(row):
    if "ViT" not in row["architecture"]:
        return "BiT-ResNets"
    return "hybrids" if row["architecture"].startswith("R") else "Vision Transformers"


def _table(columns, rows):
    yield "| " + " | ".join(columns.values()) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(name, row[name]) for name in columns) + " |"


def _cell(name, value):
    if value is None:
        return ""
    if name in ("name", "architecture"):
        return f"`{value}`"
    return models.CELLS.get(name, str)(value)
