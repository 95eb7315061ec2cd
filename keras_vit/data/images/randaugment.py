"""RandAugment, MixUp and CutMix as pure functions of a seed; the one module that uses keras-cv.

RandAugment has the 16 operations and the levels of big_vision's `pp/autoaugment.py`, and gives its
pixels.  What each operation does to the pixels is keras-cv's, where that is the same function;
where it is another, the few lines are here:

| operation | why not keras-cv |
|---|---|
| Equalize | its step leaves out the smallest bin of the histogram, Pillow and big_vision the last |
| Color | its grey keeps fractions, which levels above 10 enlarge |
| Contrast | blends with each channel's mean; officially with a constant, pixels / 256 at most 255 |
| Brightness | adds a constant; officially a factor |
| SolarizeAdd | there is none: `Solarization` adds to every pixel and then inverts |

keras-cv's own layers draw from generators with a state, so only their `augment_images` is called,
with transformations that are computed here.  `keras_cv` is imported when it is first needed.

MixUp and CutMix take one share for the batch, as big_vision does, where keras-cv's draw one for
each example; CutMix's rectangle is keras-cv's.

Legend: `H W` pixels, `B` batch, `C` classes.
"""

import functools
import math

import tensorflow as tf

_GREY = 128.0  # what comes in from outside of an image
_OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout"),
    "SolarizeAdd",
)


@functools.cache
def _layer(name, **arguments):
    """A layer of keras-cv, made outside of any graph."""
    with tf.init_scope():
        import keras_cv

        # Without a seed a layer asks for the process's generator, which may not be there; without
        # a dtype it takes the model's.
        return getattr(keras_cv.layers, name)(**arguments, seed=1, dtype="float32")


def _apply(layer, image, transformations=None):
    """Calls the deterministic part of a layer on one image, on any backend of Keras."""
    from keras_cv.src.backend.scope import TFDataScope

    with TFDataScope():
        images = layer.augment_images(image[tf.newaxis], transformations=transformations)
    return images[0]


def _moved(name, image, transformations, **arguments):
    fill = {"fill_mode": "constant", "fill_value": _GREY, "interpolation": "nearest"}
    return _apply(_layer(name, **arguments, **fill), image, transformations)


def _blend(degenerate, image, factor):
    """1 is the image, 0 the degenerate one; beyond that the difference is enlarged."""
    return tf.clip_by_value(degenerate + factor * (image - degenerate), 0.0, 255.0)


def _grey(image):
    """float (H, W, 1), rounded as TensorFlow does for uint8."""
    return tf.cast(tf.image.rgb_to_grayscale(tf.cast(image, tf.uint8)), tf.float32)


def _either_sign(value, seed):
    return tf.where(tf.random.stateless_uniform((), seed) < 0.5, -value, value)


def _auto_contrast(image, level, seed):
    return _apply(_layer("AutoContrast", value_range=(0, 255)), image)


def _equalize(image, level, seed):
    def equalize_channel(values):
        histogram = tf.histogram_fixed_width(values, [0, 255], nbins=256)
        last = histogram[tf.reduce_max(values)]
        step = (tf.size(values) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        # The first bin is not shifted by half a step.
        table = tf.concat([[0], tf.clip_by_value(table, 0, 255)[1:]], axis=0)
        return tf.where(step > 0, tf.gather(table, values), values)

    channels = tf.unstack(tf.cast(image, tf.int32), num=3, axis=-1)
    return tf.cast(tf.stack([equalize_channel(c) for c in channels], axis=-1), tf.float32)


def _solarize_from(image, threshold):
    transformations = {"thresholds": float(threshold), "additions": 0.0}
    return _apply(_layer("Solarization", value_range=(0, 255)), image, transformations)


def _invert(image, level, seed):
    return _solarize_from(image, 0)


def _rotate(image, level, seed):
    angle = _either_sign(level / 10 * 30 * math.pi / 180, seed)
    return _moved("RandomRotation", image, {"angles": angle[tf.newaxis]}, factor=1.0)


def _posterize(image, level, seed):
    # TensorFlow shifts uint8 by 0 to 7 bits, whatever is asked for.
    bits = min(max(int(level / 10 * 4), 1), 8)
    return _layer("Posterization", value_range=(0, 255), bits=bits).augment_image(image)


def _solarize(image, level, seed):
    # The official comparison is one of uint8, where 256 is 0: level 10 inverts the image.
    return _solarize_from(image, int(level / 10 * 256) % 256)


def _solarize_add(image, level, seed):
    added = tf.minimum(image + int(level / 10 * 110), 255.0)
    return tf.where(image < 128, added, image)


def _factor(level):
    return level / 10 * 1.8 + 0.1


def _color(image, level, seed):
    return _blend(_grey(image), image, _factor(level))


def _contrast(image, level, seed):
    # Meant as the mean; officially the number of pixels over that of the histogram's bins.
    num_pixels = tf.cast(tf.size(image) // 3, tf.float32)
    return _blend(tf.floor(tf.minimum(num_pixels / 256, 255.0)), image, _factor(level))


def _brightness(image, level, seed):
    return _blend(tf.zeros_like(image), image, _factor(level))


def _sharpness(image, level, seed):
    layer = _layer("RandomSharpness", value_range=(0, 255), factor=1.0)
    return _blend(tf.floor(_apply(layer, image, 1.0)), image, _factor(level))


def _shear(axis):
    def shear(image, level, seed):
        amount = tf.reshape(_either_sign(level / 10 * 0.3, seed), (1, 1))
        transformations = {"shear_x": None, "shear_y": None, f"shear_{axis}": amount}
        return _moved("RandomShear", image, transformations, x_factor=0.5, y_factor=0.5)

    return shear


def _translate(axis):
    def translate(image, level, seed):
        size = tf.cast(tf.shape(image)[0 if axis == "height" else 1], tf.float32)
        share = tf.reshape(_either_sign(level / 10 * 100, seed) / size, (1, 1))
        transformations = {
            **{f"{other}_translations": tf.zeros((1, 1)) for other in ("height", "width")},
            f"{axis}_translations": share,
        }
        arguments = {"height_factor": 1.0, "width_factor": 1.0}
        return _moved("RandomTranslation", image, transformations, **arguments)

    return translate


def _cutout(image, level, seed):
    side = 2 * int(level / 10 * 40)
    shape = tf.shape(image)
    x_seed, y_seed = tf.unstack(tf.random.split(seed, 2), num=2)
    transformations = {
        "centers_x": tf.random.stateless_uniform((1,), x_seed, 0, shape[1], tf.int32),
        "centers_y": tf.random.stateless_uniform((1,), y_seed, 0, shape[0], tf.int32),
        "rectangles_height": tf.constant([side]),
        "rectangles_width": tf.constant([side]),
    }
    layer = _layer("RandomCutout", height_factor=1.0, width_factor=1.0, fill_value=_GREY)
    return _apply(layer, image, transformations)


_FUNCTIONS = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear("x"),
    "ShearY": _shear("y"),
    "TranslateX": _translate("width"),
    "TranslateY": _translate("height"),
    "Cutout": _cutout,
    "SolarizeAdd": _solarize_add,
}


def apply_operation(name, image, seed, magnitude):
    """Applies one operation of RandAugment; fractions of the result are dropped.

    Args:
        name: a key of big_vision's list, such as `"ShearX"`.
        image: float32 (H, W, 3), whole numbers in [0, 255].
        seed: int (2,), of the sign or the place that some operations draw.
        magnitude: the level, officially up to 10.

    Returns:
        float32 (H, W, 3), whole numbers in [0, 255].
    """
    result = _FUNCTIONS[name](image, float(magnitude), seed)
    return tf.ensure_shape(tf.floor(result), image.shape)


def rand_augment(image, seed, layers, magnitude):
    """RandAugment (arXiv:1909.13719) as in big_vision: `layers` operations, each one of 16.

    Args:
        image: float32 (H, W, 3), whole numbers in [0, 255].
        seed: int (2,), the only source of randomness.
        layers: how many operations follow each other.
        magnitude: the level of all of them.

    Returns:
        float32 (H, W, 3), whole numbers in [0, 255].
    """
    for layer_seed in tf.unstack(tf.random.split(seed, layers), num=layers):
        choice_seed, seed = tf.unstack(tf.random.split(layer_seed, 2), num=2)
        choice = tf.random.stateless_uniform((), choice_seed, 0, len(_OPERATIONS), tf.int32)
        branches = [
            functools.partial(apply_operation, name, image, seed, magnitude) for name in _OPERATIONS
        ]
        image = tf.ensure_shape(tf.switch_case(choice, branches), image.shape)
    return image


def _beta(seed, p):
    """a ~ Beta(p, p), float32."""
    # In float64, where two draws of a small p are not both zero.
    first, second = tf.unstack(tf.random.stateless_gamma((2,), seed, p, dtype=tf.float64), num=2)
    return tf.cast(first / (first + second), tf.float32)


def _partner(batch, partner):
    return tf.reverse(batch, [0]) if partner == "reversed" else tf.roll(batch, 1, axis=0)


def _mixup(images, seed, p, partner):
    share = _beta(seed, p)
    share = tf.maximum(share, 1.0 - share)
    return share * images + (1.0 - share) * _partner(images, partner), share


def _cutmix(images, seed, p, partner):
    from keras_cv.src.utils import fill_utils

    share_seed, *center_seeds = tf.unstack(tf.random.split(seed, 3), num=3)
    side = tf.sqrt(1.0 - _beta(share_seed, p))
    centers, halves, covered = [], [], 1.0
    for size, center_seed in zip(images.shape[1:3], center_seeds, strict=True):
        center = tf.random.stateless_uniform((), center_seed, 0, size, tf.int32)
        half = tf.cast(side * size, tf.int32) // 2
        inside = tf.minimum(center + half, size) - tf.maximum(center - half, 0)
        covered *= tf.cast(inside, tf.float32) / size
        centers.append(tf.cast(center[tf.newaxis], tf.float32))
        halves.append(tf.cast(half[tf.newaxis], tf.float32))
    images = fill_utils.fill_rectangle(
        *(images, centers[1], centers[0], 2 * halves[1], 2 * halves[0]), _partner(images, partner)
    )
    return images, 1.0 - covered


def mix_batch(images, labels, seed, num_classes, *, mixup=0.0, cutmix=0.0, partner="next"):
    """MixUp (arXiv:1710.09412) or CutMix (arXiv:1905.04899) of a batch with itself.

    There is one share for the batch.  MixUp's is the larger of a ~ Beta(p, p) and 1 - a, as in
    big_vision; the share that CutMix leaves an image is a, less what its rectangle, whose centre is
    anywhere, has outside of the image.

    Args:
        images: float (B, H, W, 3), the size known statically.
        labels: int (B,), or float32 (B, C), each class's share or presence.
        seed: int (2,), the only source of randomness.
        num_classes: C.
        mixup: p of MixUp; 0 is none.
        cutmix: p of CutMix; 0 is none.  Where both are set, either is taken with equal chance.
        partner: `"next"` for the image before it (the last one for the first), or `"reversed"`.

    Returns:
        `(images, labels)`: (B, H, W, 3) of the same dtype, and float32 (B, C) whose rows sum to 1.
    """
    choice_seed, mix_seed = tf.unstack(tf.random.split(seed, 2), num=2)
    with_mixup = functools.partial(_mixup, images, mix_seed, mixup, partner)
    with_cutmix = functools.partial(_cutmix, images, mix_seed, cutmix, partner)
    if mixup and cutmix:
        mixed, share = tf.cond(
            tf.random.stateless_uniform((), choice_seed) < 0.5, with_mixup, with_cutmix
        )
    else:
        mixed, share = with_mixup() if mixup else with_cutmix()
    targets = labels if labels.dtype.is_floating else tf.one_hot(labels, num_classes)
    targets = share * targets + (1.0 - share) * _partner(targets, partner)
    return tf.ensure_shape(mixed, images.shape), targets
