"""A detector of KerasHub on a model of this package: RetinaNet on ViTDet's feature pyramid.

python examples/retinanet.py --model=augreg/Ti_16 --image_size=224

It needs `pip install keras-hub`.  The detector has random heads; one step on made-up boxes shows
that it trains, and nothing more.
"""

import argparse

import keras
import numpy as np

import keras_vit
from keras_vit.models.pyramid import pyramid_backbone


def detector(model, num_classes, *, window=None, channels=256):
    """KerasHub's RetinaNet on a model's pyramid.

    Args:
        model: A Vision Transformer of this package, whose weights are shared.
        num_classes: Number of classes of objects.
        window: As in `pyramid_backbone`.
        channels: Of the maps of the pyramid.

    Returns:
        A `keras_hub.models.RetinaNetObjectDetector` for images of the model's size, as its
        preprocessing makes them, and boxes "xyxy" in pixels.

    Raises:
        ValueError: For patches of another size than 16, for KerasHub takes level 3 for stride 8.
    """
    import keras_hub

    if model.config.patch_size != (16, 16):
        raise ValueError(f"patches must be of 16 px. Received: {model.config.patch_size}")
    encoder = pyramid_backbone(model, channels, window=window, relative_positions=bool(window))
    backbone = keras_hub.models.RetinaNetBackbone(
        image_encoder=encoder,
        min_level=3,
        max_level=6,
        use_p5=False,
        image_shape=(*model.config.image_size, model.config.in_channels),
    )
    return keras_hub.models.RetinaNetObjectDetector(
        backbone, num_classes=num_classes, bounding_box_format="xyxy"
    )


def made_up_boxes(size, number=2, seed=0):
    """Images with one bright rectangle each: float32 (n, H, W, 3) in [-1, 1], and its boxes.

    Args:
        size: (H, W) in pixels.
        number: n.
        seed: Of everything random.

    Returns:
        `(images, {"boxes": (n, 1, 4) "xyxy" in pixels, "labels": (n, 1)})`.
    """
    rng = np.random.default_rng(seed)
    (height, width), images = size, rng.uniform(-1, 0, (number, *size, 3)).astype(np.float32)
    boxes = np.zeros((number, 1, 4), np.float32)
    for image, box in zip(images, boxes, strict=True):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        image[top : top + height // 2, left : left + width // 2] = 1
        box[0] = left, top, left + width // 2, top + height // 2
    return images, {"boxes": boxes, "labels": rng.integers(0, 2, (number, 1)).astype(np.float32)}


def train_one_step(model, **options):
    """Trains one step on made-up boxes.

    Args:
        model: As in `detector`.
        **options: Of `detector`.

    Returns:
        `(losses, detector)`: a dict from name to number, before the step, and the detector.
    """
    found = detector(model, 2, **options)
    # The losses are KerasHub's own.
    found.compile(optimizer=keras.optimizers.SGD(1e-3, global_clipnorm=1.0))
    images, truth = made_up_boxes(model.config.image_size)
    history = found.fit(images, truth, batch_size=len(images), epochs=1, verbose=0).history
    return {name: values[0] for name, values in history.items()}, found


def main(arguments=None):
    """Trains one step and prints its losses."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="augreg/Ti_16", help="what `from_pretrained` takes")
    parser.add_argument("--image_size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--window", type=int, help="patches of a side; none for global attention")
    given = parser.parse_args(arguments)
    model = keras_vit.from_pretrained(given.model, num_classes=0, image_size=given.image_size)
    losses, _ = train_one_step(model, window=given.window)
    for name, loss in losses.items():
        print(f"{name} {float(loss):.4f}")


if __name__ == "__main__":
    main()
