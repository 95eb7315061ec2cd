"""The functions of an exported model: checks, preprocessing, model and answer in one graph.

Shapes: B batch, H W pixels of an image, h w pixels of the model's input, C classes, D features.

A loaded SavedModel passes tensors of any shape on, and some of them abort the process inside the
model; `tf.ensure_shape` at the beginning of every function turns these into an error.
"""

import tensorflow as tf

from keras_vit.data.decode import try_decode_image
from keras_vit.data.preprocess import evaluation_image

ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}


class ServingModule(tf.Module):
    """What is written as a SavedModel.

    Args:
        forward: function from float32 (B, h, w, 3) to a dict of `logits` (B, C) and, if the model
            has them, `features` (B, D).
        has_features: whether there are `features`.
        variables: the `tf.Variable`s that `forward` reads.
        preprocessing: the model's `Preprocessing`.
        class_names: C names.
        top_k: number of classes in an answer.
        activation: one of `ACTIVATIONS`.
    """

    def __init__(
        self, forward, has_features, variables, preprocessing, class_names, top_k, activation
    ):
        super().__init__(name="keras_vit")
        self.model_variables = variables
        self._forward = forward
        self._preprocessing = preprocessing
        self._class_names = class_names
        self._top_k = top_k
        self._activation = ACTIVATIONS[activation]
        height, width = preprocessing.image_size
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
        tensors = tf.TensorSpec([None, height, width, 3], tf.float32, name="tensors")
        self.endpoints = {
            "serving_default": _function(self._classify_bytes, image_bytes),
            "images": _function(self._classify_images, images),
            "tensors": _function(self._logits, tensors),
        }
        if has_features:
            self.endpoints["features"] = _function(self._features, image_bytes)

    def _classify_bytes(self, image_bytes):
        return self._answer(self._forward(self._tensors_from_bytes(image_bytes))["logits"])

    def _classify_images(self, images):
        images = _not_empty(tf.ensure_shape(images, (None, None, None, 3)))  # (B, H, W, 3)
        tensors = _map(self._prepare, images)
        return self._answer(self._forward(tensors)["logits"])

    def _logits(self, tensors):
        tensors = tf.ensure_shape(tensors, (None, *self._preprocessing.image_size, 3))
        return {"logits": self._forward(_not_empty(tensors))["logits"]}

    def _features(self, image_bytes):
        return {"features": self._forward(self._tensors_from_bytes(image_bytes))["features"]}

    def _prepare(self, image):
        return evaluation_image(image, self._preprocessing)

    def _tensors_from_bytes(self, image_bytes):
        """string (B,) -> float32 (B, h, w, 3); one bad image fails the call, named by its index."""
        image_bytes = _not_empty(tf.ensure_shape(image_bytes, (None,)))

        def decode(encoded):
            image, problem = try_decode_image(encoded)
            return self._prepare(image), problem

        tensors, problems = _map(decode, image_bytes)
        bad = tf.where(tf.not_equal(problems, ""))[:, 0]
        described = tf.strings.join(
            ["image ", tf.strings.as_string(bad), ": ", tf.gather(problems, bad)]
        )
        message = tf.strings.reduce_join(described, separator="; ")
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(bad), 0), [message])]):
            return tf.identity(tensors)

    def _answer(self, scores):
        """float32 logits (B, C) -> the outputs of a classification."""
        probabilities, class_ids = tf.math.top_k(self._activation(scores), self._top_k)  # (B, k)
        return {
            "scores": scores,
            "probabilities": probabilities,
            "class_ids": class_ids,
            "classes": tf.gather(tf.constant(self._class_names), class_ids),
        }


def _function(function, spec):
    return tf.function(function, input_signature=[spec], autograph=False)


def _map(function, batch):
    """Stacks the function's results for the elements of a batch of at least one.

    tf.data, because its graphs are not rewritten: elsewhere a division becomes a product with the
    reciprocal, and the pixels differ from those of evaluation in the last bit.
    """
    results = tf.data.Dataset.from_tensor_slices(batch).map(
        function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return results.batch(tf.shape(batch, tf.int64)[0]).get_single_element()


def _not_empty(batch):
    filled = tf.debugging.Assert(tf.shape(batch)[0] > 0, ["the batch is empty"])
    with tf.control_dependencies([filled]):
        return tf.identity(batch)
