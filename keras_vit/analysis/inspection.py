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
from keras_vit.analysis.segmentation import masks_of, shares_of, under_decoder

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
        masks: (B, H, W) uint8, the class of each pixel, of a segmentation model, or None.
        shares: For each image its classes as (name, share of the pixels), or None without masks.
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
    masks: np.ndarray | None = None
    shares: tuple | None = None


def inspect(model, *, source="", label=None, workdir=None, photographs=None, progress=None):
    """Gathers what there is to say about a model.

    Args:
        model: A model of the package; of a segmentation model, what is under its decoder is
            looked at, and the masks are shown.
        source: What the user named it by.
        label: What the report calls it; None takes the source, or the model's name.
        workdir: Folder of the run that trained it, or None.
        photographs: `Photographs` as this model takes them, or None.
        progress: Called with the number of images that are done, or None.

    Returns:
        `Inspection`.
    """
    images = top = pixels = masks = shares = None
    subject = under_decoder(model)
    if photographs is not None:
        images = analyze(subject, photographs.images, progress=progress)
        pixels = to_pixels(photographs.images, model.preprocessing)
        if images.grad_cam is not None:
            top = tuple(_best(logits, model.class_names) for logits in images.outputs)
        masks = masks_of(model, photographs.images)
        if masks is not None:
            shares = tuple(shares_of(mask, model.class_names) for mask in masks)
    has_positions = any(layer.name == "posembed_input" for layer in subject.layers)
    return Inspection(
        label=label or str(source) or model.name,
        facts=model_facts(model, source),
        filters=embedding_filters(subject),
        positions=position_similarity(subject) if has_positions else None,
        run=None if workdir is None else run_facts(workdir),
        photographs=photographs,
        pixels=pixels,
        images=images,
        top=top,
        masks=masks,
        shares=shares,
    )


def _best(logits, class_names):
    """The best classes of one image: ((name, softmax probability), ...)."""
    shifted = np.exp(logits.astype("float64") - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:TOP_K]
    names = class_names or [str(i) for i in range(len(logits))]
    return tuple((names[i], float(probabilities[i])) for i in best)
