"""Models that take pixels as they were decoded, of any size, and prepare them themselves.

Shapes: B batch, H W pixels of the images, h w pixels of the network's input, C channels.
"""

import dataclasses

import keras

from keras_vit.layers import Identity
from keras_vit.layers.quantization import check_can_train
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.train_step import TrainableModel


@keras.saving.register_keras_serializable(package="keras_vit")
class PreprocessPixels(keras.layers.Layer):
    """Resizes, crops and scales images as evaluation does, to the same bits.

    The work is that of `keras_vit.preprocess`, on the processor and not on an accelerator, on every
    backend.

    Args:
        preprocessing: The fields of a `keras_vit.Preprocessing`, a dict of plain values.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        images: (B, H, W, C) in [0, 255].

    Returns:
        float32 (B, h, w, C) in the preprocessing's `value_range`.
    """

    def __init__(self, preprocessing, **kwargs):
        # In half the precision, 0 to 255 would be rounded before it is scaled.
        super().__init__(**{**kwargs, "dtype": "float32"}, trainable=False)
        self.rule = Preprocessing(**preprocessing)
        self.supports_jit = False

    def call(self, images):
        return keras.ops.stop_gradient(_prepare(images, self.rule))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.rule.image_size, self.rule.channels)

    def get_config(self):
        config = super().get_config()
        del config["trainable"]
        return {**config, "preprocessing": dataclasses.asdict(self.rule)}


def _prepare(images, rule):
    # TensorFlow, which is needed here on every backend, is imported when it is.
    from keras_vit.data.images.each import evaluation_batch

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return evaluation_batch(images, rule)

    def on_host(pixels):
        return evaluation_batch(keras.ops.convert_to_numpy(pixels), rule).numpy()

    if backend != "jax":
        return keras.ops.convert_to_tensor(on_host(images))
    import jax

    shape = (images.shape[0], *rule.image_size, rule.channels)
    return jax.pure_callback(on_host, jax.ShapeDtypeStruct(shape, "float32"), images)


@keras.saving.register_keras_serializable(package="keras_vit")
class PixelModel(TrainableModel):
    """A model behind its preprocessing: (B, H, W, C) pixels in [0, 255] of any size -> its output.

    It shares the weights of the model in it, is trained, saved and loaded as any Keras model, and
    all functions of this package take it.

    Args:
        network: `keras.Model` from preprocessed images, of this package or cut from one.
        preprocessing: Its `Preprocessing`; None takes its own.
        name: Name of the Keras model.

    Attributes:
        network: The model in it.
    """

    def __init__(self, network, preprocessing=None, name=None):
        if isinstance(preprocessing, dict):  # of a file
            preprocessing = Preprocessing(**preprocessing)
        rule = preprocessing_of(network, preprocessing)
        pixels = keras.Input((None, None, rule.channels), dtype="float32", name="pixels")
        layer = PreprocessPixels(dataclasses.asdict(rule), name="preprocessing")
        super().__init__(inputs=pixels, outputs=network(layer(pixels)), name=name)
        self.dtype_policy = network.dtype_policy
        self.network = network

    @property
    def preprocessing(self):
        """`Preprocessing`: what it does to pixels."""
        return self.get_layer("preprocessing").rule

    @property
    def config(self):
        """The configuration of the model in it, or None."""
        return getattr(self.network, "config", None)

    @property
    def class_names(self):
        """A name for each logit, or None."""
        return getattr(self.network, "class_names", None)

    @property
    def task(self):
        """`keras_vit.models.task.Task` of the model in it, or None."""
        return getattr(self.network, "task", None)

    @property
    def origin(self):
        """Where the weights come from, or None."""
        return getattr(self.network, "origin", None)

    def feature_extractor(self, *args, **kwargs):
        """As that of the model in it (`ImageClassifier.feature_extractor`), from pixels."""
        extractor = self.network.feature_extractor(*args, **kwargs)
        return PixelModel(extractor, self.preprocessing)

    def set_remat(self, remat=True):
        """As that of the model in it (`ImageClassifier.set_remat`)."""
        self.network.set_remat(remat)

    def quantize(self, *args, **kwargs):
        """As that of the model in it (`ImageClassifier.quantize`)."""
        self.network.quantize(*args, **kwargs)

    def check_trainable(self):
        check_can_train(self)

    def get_config(self):
        return {
            "network": keras.saving.serialize_keras_object(self.network),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        network = keras.saving.deserialize_keras_object(config.pop("network"), custom_objects)
        return cls(network, **config)


def include_preprocessing(model, preprocessing=None):
    """Builds a model's preprocessing into it, as keras.applications' `include_preprocessing` does.

    Args:
        model: A model of this package, one that was cut from one, or one with an own head.
        preprocessing: `keras_vit.Preprocessing` for a model that does not tell its own.

    Returns:
        A `PixelModel` that shares the weights: it takes uint8 or float pixels in [0, 255],
        (B, H, W, C) of any size, and gives what `model(keras_vit.preprocess(images, model))` gives.

    Raises:
        TypeError: For what is no `keras.Model`.
        ValueError: For a model that does not tell what pixels it wants.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if pixel_layer(model) is not None:
        return model
    return PixelModel(model, preprocessing)


def pixel_layer(model):
    """The layer that prepares pixels as the first of a model, or None."""
    layers = [x for x in getattr(model, "layers", ()) if type(x) is not keras.layers.InputLayer]
    is_first = bool(layers) and isinstance(layers[0], PreprocessPixels)
    if layers and isinstance(layers[0], keras.Model):
        return pixel_layer(layers[0])
    return layers[0] if is_first else None


def network_of(model):
    """The model behind the preprocessing that is built in; a model without is its own.

    Args:
        model: A `keras.Model`, perhaps a `PixelModel` or one that was built on one.

    Returns:
        A `keras.Model` from preprocessed images, with the same weights, `class_names` and
        `preprocessing`.
    """
    if isinstance(model, PixelModel):
        return model.network
    layer = pixel_layer(model)
    if layer is None:
        return model
    images = keras.Input((*layer.rule.image_size, layer.rule.channels), name="images")
    network = keras.models.clone_model(model, images, clone_function=_without_preprocessing)
    network.preprocessing = layer.rule
    network.class_names = getattr(model, "class_names", None)
    network.task = getattr(model, "task", None)
    return network


def _without_preprocessing(layer):
    """The layer itself, shared, but for those that prepare pixels."""
    if isinstance(layer, PreprocessPixels):
        return Identity(name=layer.name)
    return network_of(layer) if isinstance(layer, keras.Model) else layer
