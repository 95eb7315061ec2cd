"""The functions of an exported model: checks, preprocessing, model and answer in one graph.

Shapes: B batch, H W pixels of an image, h w pixels of the model's input, C classes, k best classes.

A loaded SavedModel passes tensors of any shape on, and some of them abort the process inside the
model; `tf.ensure_shape` at the beginning of every function turns these into an error.
"""

import tensorflow as tf

from keras_vit.data.images.each import for_each
from keras_vit.data.images.preprocess import evaluation_image, resize_problem
from keras_vit.data.images.try_prepare import try_prepare_image
from keras_vit.data.tasks import MULTILABEL, REGRESSION
from keras_vit.models.task import ACTIVATIONS, Task

PROBABILITIES = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid, "none": tf.identity}


class ServingModule(tf.Module):
    """What is written as a SavedModel.

    Args:
        functions: as `keras_vit.serving.forward.tensorflow_forward` returns them.
        variables: what the functions read.
        preprocessing: the model's `Preprocessing`.
        class_names: C names.
        options: `ServingOptions`.
        task: the model's `Task`; None is one class an image.
        patch_size: (P, Q) in pixels of a model that takes `tensors` of any size that patches fill;
            None where they must have the size that `preprocessing` makes.
    """

    def __init__(
        self,
        functions,
        variables,
        preprocessing,
        class_names,
        options,
        task=None,
        patch_size=None,
    ):
        super().__init__(name="keras_vit")
        self.model_variables = variables
        self._functions = functions
        self._preprocessing = preprocessing
        self._class_names = class_names
        self._options = options
        self._task = task or Task()
        self._patch_size = patch_size
        height, width = preprocessing.image_size if patch_size is None else (None, None)
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
        tensors = tf.TensorSpec([None, height, width, 3], tf.float32, name="tensors")
        self.endpoints = {
            "serving_default": _function(self._classify_bytes, image_bytes),
            "images": _function(self._classify_images, images),
            "tensors": _function(self._logits, tensors),
        }
        for name in ("features", "attention"):
            if name in functions:
                self.endpoints[name] = _function(self._from_bytes(name), image_bytes)

    def _classify_bytes(self, image_bytes):
        tensors, problems = self._tensors_from_bytes(image_bytes)
        return self._marked(self._answer(self._functions["logits"](tensors)), problems)

    def _classify_images(self, images):
        images = self._checked(images, (None, None, None, 3))  # (B, H, W, 3)
        height, width = tf.shape(images, tf.int64)[1], tf.shape(images, tf.int64)[2]
        fits = tf.logical_and(height * width > 0, height * width <= self._options.max_pixels)
        rules = [
            _require(
                fits,
                f"an image must have 1 to {self._options.max_pixels} pixels, these are ",
                *(tf.strings.as_string(height), " x ", tf.strings.as_string(width)),
            )
        ]
        problem = resize_problem(height, width, self._preprocessing, self._options.max_pixels)
        rules.append(_require(tf.equal(problem, ""), problem))
        with tf.control_dependencies(rules):
            images = tf.identity(images)
        tensors = for_each(lambda image: evaluation_image(image, self._preprocessing), images)
        return self._answer(self._functions["logits"](tensors))

    def _logits(self, tensors):
        is_free = self._patch_size is not None
        sides = (None, None) if is_free else self._preprocessing.image_size
        tensors = self._checked(tensors, (None, *sides, 3))
        rules = [self._filled(tensors)] if is_free else []
        finite = tf.reduce_all(tf.math.is_finite(tensors))
        rules.append(_require(finite, "`tensors` must be finite numbers"))
        with tf.control_dependencies(rules):
            return {"logits": self._functions["logits"](tf.identity(tensors))}

    def _filled(self, tensors):
        """That patches fill the images, which have no more pixels than may be."""
        sides = tf.shape(tensors, tf.int64)[1:3]
        most, pixels = self._options.max_pixels, tf.reduce_prod(sides)
        whole = tf.reduce_all(tf.equal(sides % self._patch_size, 0))
        return _require(
            whole & (pixels > 0) & (pixels <= most),
            f"`tensors` must be images of 1 to {most} pixels that patches of {self._patch_size} "
            "fill, these are ",
            tf.strings.reduce_join(tf.strings.as_string(sides), separator=" x "),
        )

    def _from_bytes(self, name):
        def compute(image_bytes):
            tensors, problems = self._tensors_from_bytes(image_bytes)
            return self._marked({name: self._functions[name](tensors)}, problems)

        return compute

    def _checked(self, batch, shape):
        """The batch, once its shape and its number of images are what they must be."""
        batch = tf.ensure_shape(batch, shape)
        size, most = tf.shape(batch)[0], self._options.max_batch_size
        fits = tf.logical_and(size > 0, size <= most)
        rule = _require(
            fits, f"a request must hold 1 to {most} images, it has ", tf.strings.as_string(size)
        )
        with tf.control_dependencies([rule]):
            return tf.identity(batch)

    def _tensors_from_bytes(self, image_bytes):
        """string (B,) -> float32 (B, h, w, 3) and what is wrong with each image, string (B,).

        Where bad images are an error, one fails the call, named by its index.
        """

        def prepare(encoded):
            return try_prepare_image(encoded, self._preprocessing, self._options.max_pixels)

        tensors, problems = for_each(prepare, self._checked(image_bytes, (None,)))
        if self._options.on_bad_image == "mark":
            return tensors, problems
        bad = tf.where(tf.not_equal(problems, ""))[:, 0]
        described = tf.strings.join(
            ["image ", tf.strings.as_string(bad), ": ", tf.gather(problems, bad)]
        )
        message = tf.strings.reduce_join(described, separator="; ")
        with tf.control_dependencies([_require(tf.equal(tf.size(bad), 0), message)]):
            return tf.identity(tensors), problems

    def _marked(self, outputs, problems):
        """Neutral values in the rows of bad images, and the output `error`."""
        if self._options.on_bad_image != "mark":
            return outputs
        good = tf.equal(problems, "")  # (B,)
        marked = {"error": problems}
        for name, value in outputs.items():
            rows = tf.reshape(good, [-1] + [1] * (value.shape.rank - 1))
            neutral = _NEUTRAL.get(name, value.dtype.as_numpy_dtype())
            marked[name] = tf.where(rows, value, tf.constant(neutral, value.dtype))
        return marked

    def _answer(self, scores):
        """float32 logits (B, C) -> the outputs of the model's task."""
        task = self._task
        if task.kind == REGRESSION:
            return {"scores": scores, "values": task.values_of(scores)}
        activation = PROBABILITIES[self._options.activation or ACTIVATIONS[task.kind]]
        all_probabilities = activation(scores / (task.temperature or 1.0))
        probabilities, class_ids = tf.math.top_k(all_probabilities, self._options.top_k)  # (B, k)
        answer = {
            "scores": scores,
            "probabilities": probabilities,
            "class_ids": class_ids,
            "classes": tf.gather(tf.constant(self._class_names), class_ids),
        }
        if task.kind == MULTILABEL:
            answer["present"] = all_probabilities >= list(task.thresholds_of(scores.shape[-1]))
        return answer


# What the row of a bad image holds where it is not 0: nothing that could be taken for a class.
_NEUTRAL = {"class_ids": -1, "classes": ""}


def _function(function, spec):
    return tf.function(function, input_signature=[spec], autograph=False)


def _require(condition, *message):
    return tf.debugging.Assert(condition, [tf.strings.join(message)])
