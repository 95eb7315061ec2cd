"""Classes for each pixel of images of any size, by a segmentation model and sliding windows.

Shapes: H W pixels of an image, n windows, h w of a window, K classes.
"""

import collections

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.images import windows


class Segmenter:
    """A segmentation model with its windows.

    Args:
        model: `SegmentationModel`.
        batch_size: Windows in one call of the model, of one image or of several.
    """

    def __init__(self, model, batch_size=8):
        self._model = model
        self._batch_size = batch_size
        rule, stride = model.preprocessing, tuple(model.window_stride)
        shape = (*rule.image_size, rule.channels)
        self._blank = np.zeros(shape, np.float32)
        channels = 3 if rule.channels in (1, 3) else rule.channels

        @tf.function(
            input_signature=[tf.TensorSpec((None, None, channels), tf.uint8)],
            autograph=False,
        )
        def cut(image):
            return windows.windows_of(image, rule, stride)

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, *rule.image_size, model.output_shape[-1])),
                tf.TensorSpec((None, 2), tf.int32),
                tf.TensorSpec((2,), tf.int32),
                tf.TensorSpec((2,), tf.int32),
            ],
            autograph=False,
        )
        def join(logits, corners, size, original):
            return windows.classes_at(windows.merged(logits, corners, size), original)

        self._cut, self._join = cut, join

    def masks(self, images, before_batch=None):
        """Yields the class of each pixel for each image, in order.

        Args:
            images: Iterable of uint8 (H, W, 3) in [0, 255].
            before_batch: Called before each call of the model, or None.

        Returns:
            An iterator of int32 (H, W) in [0, K).  No mask depends on the batch size, but for
            rounding in the model.
        """
        waiting = collections.deque()  # windows that the model has not seen
        begun = collections.deque()  # images: (logits so far, corners, size, original size)

        def step():
            if before_batch is not None:
                before_batch()
            batch = [waiting.popleft() for _ in range(min(self._batch_size, len(waiting)))]
            padded = batch + [self._blank] * (self._batch_size - len(batch))
            logits = self._model.predict_on_batch(np.stack(padded))
            logits = keras.ops.convert_to_numpy(logits)[: len(batch)]
            for row in logits:
                target = next(image for image in begun if len(image[0]) < len(image[1]))
                target[0].append(row)

        def finished():
            while begun and len(begun[0][0]) == len(begun[0][1]):
                logits, corners, size, original = begun.popleft()
                yield self._join(np.stack(logits), corners, size, original).numpy()

        for image in images:
            parts, corners, size = self._cut(image)
            waiting.extend(parts.numpy())
            begun.append(([], corners, size, tf.constant(image.shape[:2], tf.int32)))
            while len(waiting) >= self._batch_size:
                step()
                yield from finished()
        while waiting:
            step()
        yield from finished()
