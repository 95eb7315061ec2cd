"""All measures that need images, in one pass.

Shapes: B images, h w grid, k heads, L blocks, D hidden, Y classes.
"""

import dataclasses

import numpy as np

from keras_vit.analysis.attention import BlockMap, Distance, Rollout
from keras_vit.analysis.blocks import (
    Walk,
    as_float32,
    batches,
    check_images,
    check_model,
    has_attention,
)
from keras_vit.analysis.gradcam import TokenCam, grad_cam
from keras_vit.analysis.similarity import Features, block_features
from keras_vit.analysis.statistics import Activations


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageAnalysis:
    """What a model does with some images; None stands for what its family does not have.

    Attributes:
        outputs: (B, Y) float32 logits, or what the model gives where it has no head.
        attention_distance: (L, B, k) in pixels, as `attention_distance`.
        rollout: (B, h, w), as `attention_rollout`.
        last_block: (B, k, h, w), as `attention_map` of the last block.
        grad_cam: (B, h, w), as `grad_cam` for each image's best class; None without a head.
        features: Dict from each block's name to (B, D), as `block_features`.
        activations: One dict a block: `layer`, `mean`, `std`, `token_norm` (mean Euclidean norm of
            a token), `largest` (magnitude).
    """

    outputs: np.ndarray
    attention_distance: np.ndarray | None = None
    rollout: np.ndarray | None = None
    last_block: np.ndarray | None = None
    grad_cam: np.ndarray | None = None
    features: dict[str, np.ndarray]
    activations: list[dict] | None = None


def analyze(model, images, *, batch_size=None, progress=None):
    """Everything that the package says about a model and images, in one pass over them.

    Args:
        model: A model of the package; of a BiT-ResNet there are outputs, features and Grad-CAM.
        images: (B, H, W, C), as for a call of the model.
        batch_size: Images that go through together; None chooses by memory.
        progress: Called with the number of images that are done after each batch, or None.

    Returns:
        `ImageAnalysis`.

    Raises:
        ValueError: for a model of another package, or images of another size.
    """
    check_model(model, "`analyze`")
    images = check_images(model, images)
    has_head = model.config.num_classes and getattr(model.config, "pooling", "mean") != "none"
    if not hasattr(model.config, "hidden_size"):
        return ImageAnalysis(
            outputs=_outputs(model, images, batch_size, progress),
            grad_cam=grad_cam(model, images, batch_size=batch_size) if has_head else None,
            features=block_features(model, images, batch_size=batch_size),
        )
    walk, count = Walk(model, images.shape[1:3]), images.shape[0]
    last = walk.depth - 1
    collectors = {"features": Features(walk, count), "activations": Activations(walk)}
    if has_attention(model):
        collectors |= {
            "attention_distance": Distance(walk, count),
            "rollout": Rollout(walk, count),
            "last_block": BlockMap(walk, count, last),
        }
    if has_head:
        collectors["grad_cam"] = TokenCam(walk, count, None, last)
    outputs = []
    for step in walk.steps(images, batch_size=batch_size):
        for collector in collectors.values():
            collector.see(step)
        if step.block == last:
            outputs.append(as_float32(walk.tail(step.outputs, training=False)))
            if progress is not None:
                progress(step.rows.stop)
    results = {name: collector.result for name, collector in collectors.items()}
    return ImageAnalysis(outputs=np.concatenate(outputs), **results)


def _outputs(model, images, batch_size, progress):
    outputs = []
    for rows, batch in batches(model, images, batch_size):
        outputs.append(as_float32(model.predict_on_batch(batch)))
        if progress is not None:
            progress(rows.stop)
    return np.concatenate(outputs)
