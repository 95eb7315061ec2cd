"""Everything that a report says, gathered; how it is shown is in `report`.

Shapes: B images, H W pixels, h w grid, Y classes.
"""

import dataclasses

import numpy as np

from keras_vit.analysis.analyze import ImageAnalysis, analyze
from keras_vit.analysis.facts import model_facts
from keras_vit.analysis.filters import FilterComponents, embedding_filters
from keras_vit.analysis.pictures import Photographs, to_pixels
from keras_vit.analysis.positions import position_similarity
from keras_vit.analysis.run_facts import run_facts

TOP_K = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """One model, and what it does with some images.

    Attributes:
        label: What the report calls it.
        facts: As `model_facts`.
        filters: `FilterComponents`.
        positions: (h, w, h, w), as `position_similarity`, or None.
        run: As `run_facts`, or None for a model that is no run's folder.
        photographs: `Photographs`, or None.
        pixels: (B, H, W, 3) uint8, what they look like, or None.
        images: `ImageAnalysis`, or None.
        top: For each image the best classes as (name, probability), or None without a head.
    """

    label: str
    facts: dict
    filters: FilterComponents
    positions: np.ndarray | None = None
    run: dict | None = None
    photographs: Photographs | None = None
    pixels: np.ndarray | None = None
    images: ImageAnalysis | None = None
    top: tuple | None = None


def inspect(model, *, source="", label=None, workdir=None, photographs=None, progress=None):
    """Gathers what there is to say about a model.

    Args:
        model: A model of the package.
        source: What the user named it by.
        label: What the report calls it; None takes the source, or the model's name.
        workdir: Folder of the run that trained it, or None.
        photographs: `Photographs` as this model takes them, or None.
        progress: Called with the number of images that are done, or None.

    Returns:
        `Inspection`.
    """
    images = top = pixels = None
    if photographs is not None:
        images = analyze(model, photographs.images, progress=progress)
        pixels = to_pixels(photographs.images, model.preprocessing)
        if images.grad_cam is not None:
            top = tuple(_best(logits, model.class_names) for logits in images.outputs)
    has_positions = any(layer.name == "posembed_input" for layer in model.layers)
    return Inspection(
        label=label or str(source) or model.name,
        facts=model_facts(model, source),
        filters=embedding_filters(model),
        positions=position_similarity(model) if has_positions else None,
        run=None if workdir is None else run_facts(workdir),
        photographs=photographs,
        pixels=pixels,
        images=images,
        top=top,
    )


def _best(logits, class_names):
    """The best classes of one image: ((name, softmax probability), ...)."""
    shifted = np.exp(logits.astype("float64") - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:TOP_K]
    names = class_names or [str(i) for i in range(len(logits))]
    return tuple((names[i], float(probabilities[i])) for i in best)
