"""Grad-CAM (arXiv:1610.02391): which places speak for a class.

Shapes: B images, b images of one batch, h w grid or feature map, T tokens, D features, Y classes.
"""

import keras
import numpy as np
from keras import ops

from keras_vit.analysis.blocks import (
    Walk,
    as_float32,
    batches,
    block_index,
    check_images,
    check_model,
)


def grad_cam(model, images, classes=None, *, block=-1, batch_size=None):
    """Grad-CAM on the tokens that enter an encoder block, or on a BiT-ResNet's last feature map.

    With A the features and y the class's logit, each feature is weighted by the mean of dy/dA over
    the places: ReLU(sum_d mean_p(dy / dA[p, d]) A[p, d]).  The tokens that *leave* the last block
    are no use: beside the class token they do not reach the logits.

    Args:
        model: A model of the package with a head.
        images: (B, H, W, C), as for a call of the model.
        classes: (B,) indices of the classes, or one for all; None takes each image's best.
        block: Index of the encoder block whose input is looked at; negative ones count from the
            last.  Without meaning for BiT-ResNets, where it must be -1.
        batch_size: Images that go through together; None chooses by memory.

    Returns:
        (B, h, w) float32, not negative, in units of the logit.

    Raises:
        ValueError: for a model without a head or without pooling, a class or block that does not
            exist, or images of another size.
        NotImplementedError: on a backend other than TensorFlow and JAX.
    """
    check_head(model)
    images = check_images(model, images)
    classes = _check_classes(model, classes, images.shape[0])
    if hasattr(model.config, "hidden_size"):
        walk = Walk(model, images.shape[1:3])
        block = block_index(model, block)
        cam = TokenCam(walk, images.shape[0], classes, block)
        for step in walk.steps(images, last=block, batch_size=batch_size):
            cam.see(step)
        return cam.result
    if block != -1:
        raise ValueError(f"`block` must be -1 for a BiT-ResNet. Received: {block}")
    last_map = model.get_layer("pre_logits").input
    to_map = keras.Model(model.input, last_map)
    tail = keras.Model(last_map, model.output)
    result = np.zeros((images.shape[0], *last_map.shape[1:3]), "float32")
    for rows, batch in batches(model, images, batch_size):
        features = ops.convert_to_tensor(to_map.predict_on_batch(batch))
        chosen = _chosen(classes, rows, tail, features)
        result[rows] = _cam(features, _gradient(tail, features, chosen))
    return result


class TokenCam:
    """Collects `grad_cam` from a walk.

    Args:
        walk: A `Walk`.
        num_images: B.
        classes: (B,) indices, or None for each image's best.
        block: Index of the block whose input is looked at.
    """

    def __init__(self, walk, num_images, classes, block):
        self.result = np.zeros((num_images, *walk.grid), "float32")
        self._walk = walk
        self._classes = classes
        self._block = block
        self._tail = walk.tail_from(block)

    def see(self, step):
        """Takes what it needs of a block's work on a batch."""
        if step.block != self._block:
            return
        chosen = _chosen(self._classes, step.rows, self._tail, step.tokens)
        gradient = _gradient(self._tail, step.tokens, chosen)
        first, grid = self._walk.num_prefix, self._walk.grid
        patches, gradient = (
            ops.reshape(tensor[:, first:], (-1, *grid, tensor.shape[-1]))
            for tensor in (step.tokens, gradient)
        )
        self.result[step.rows] = _cam(patches, gradient)


def check_head(model):
    """Raises ValueError unless a model gives one vector of logits for an image."""
    check_model(model, "Grad-CAM")
    pooling = getattr(model.config, "pooling", "mean")
    if not model.config.num_classes or pooling == "none":
        raise ValueError(
            "Grad-CAM needs a model with a head over pooled features. Received: "
            f"{type(model).__name__} with num_classes={model.config.num_classes}, "
            f"pooling={pooling!r}"
        )


def _check_classes(model, classes, num_images):
    if classes is None:
        return None
    classes = np.broadcast_to(np.asarray(classes, "int64"), (num_images,))
    num_classes = model.config.num_classes
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(
            f"`classes` must be between 0 and {num_classes - 1}. Received: {classes.tolist()}"
        )
    return classes


def _chosen(classes, rows, tail, features):
    if classes is not None:
        return classes[rows]
    return as_float32(tail(features, training=False)).argmax(axis=-1)


def _cam(features, gradient):
    """(b, h, w, D) twice -> (b, h, w)."""
    features, gradient = as_float32(features), as_float32(gradient)
    weights = gradient.mean(axis=(1, 2))  # (b, D)
    return np.maximum(np.einsum("bhwd,bd->bhw", features, weights), 0)


def _gradient(tail, features, classes):
    """d logits[i, classes[i]] / d features[i], by the backend's own differentiation."""
    backend = keras.backend.backend()
    if backend not in _GRADIENTS:
        raise NotImplementedError(
            f"Grad-CAM runs on TensorFlow and JAX. Received: the backend {backend!r}; set "
            "KERAS_BACKEND"
        )
    one_hot = ops.one_hot(classes, tail.output.shape[-1], dtype="float32")

    def score(features):
        return ops.sum(ops.cast(tail(features, training=False), "float32") * one_hot)

    return _GRADIENTS[backend](score, features)


def _tensorflow_gradient(score, features):
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(features)
        value = score(features)
    return tape.gradient(value, features)


def _jax_gradient(score, features):
    import jax

    return jax.grad(score)(features)


_GRADIENTS = {"tensorflow": _tensorflow_gradient, "jax": _jax_gradient}
