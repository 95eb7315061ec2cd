"""Base class of the image classifiers: a functional model that knows its configuration."""

import dataclasses
from collections.abc import Callable

import keras

from keras_vit.layers import ImageInput, initializers
from keras_vit.layers.dynamic import check_filled
from keras_vit.layers.quantization import check_can_train, quantize_model
from keras_vit.layers.trainable import get_quantized, get_trainable, set_quantized, set_trainable
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.models.task import Task
from keras_vit.train_step import TrainableModel


class ImageClassifier(TrainableModel):
    """Functional model from (B, H, W, C) images to (B, num_classes) float32 logits.

    Attributes:
        config: the frozen dataclass that the model was made from.
        preprocessing: what pixels it wants.
        class_names: a name for each logit, or None.
        origin: where its weights come from, a dict of plain values, or None.
        task: `keras_vit.models.task.Task`, what its logits mean; None is one class an image.
    """

    config_class: type

    def __init__(
        self,
        config,
        *,
        preprocessing=None,
        class_names=None,
        origin=None,
        task=None,
        name=None,
        dtype=None,
    ):
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"`config` must be a {self.config_class.__name__}. Received: {config!r}"
            )
        preprocessing = preprocessing or Preprocessing(image_size=config.image_size)
        preprocessing = preprocessing.with_channels(config.in_channels)
        check_prepared_size(config, preprocessing)
        if isinstance(class_names, str):
            raise TypeError(f"`class_names` must be a list of names. Received: {class_names!r}")
        if class_names is not None:
            class_names = tuple(str(class_name) for class_name in class_names)
            if len(class_names) != config.num_classes:
                raise ValueError(
                    f"`class_names` must name each of the {config.num_classes} classes. "
                    f"Received: {len(class_names)} names"
                )
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self.check_policy(policy)
        image_input = ImageInput(
            shape=(*input_size(config), config.in_channels),
            preprocessing=dataclasses.asdict(preprocessing),
            name="images",
        )
        images = image_input.output
        super().__init__(
            inputs=images, outputs=self._build_outputs(config, images, policy), name=name
        )
        self.dtype_policy = policy
        self.config = config
        self.class_names = class_names
        self.origin = dict(origin) if origin else None
        self.task = task

    @property
    def task(self):
        """`Task`: what the logits mean, or None."""
        return self._task

    @task.setter
    def task(self, task):
        self._task = None if task is None else task.checked(self.config.num_classes)

    @property
    def preprocessing(self):
        """`Preprocessing`: what pixels the model wants."""
        return Preprocessing(**self.get_layer("images").preprocessing)

    @preprocessing.setter
    def preprocessing(self, preprocessing):
        self.get_layer("images").set_preprocessing(dataclasses.asdict(preprocessing))

    def predict(self, x, *args, **kwargs):
        """As that of Keras; images that patches do not fill are a ValueError."""
        self._check_filled(x)
        return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x):
        """As that of Keras; images that patches do not fill are a ValueError."""
        self._check_filled(x)
        return super().predict_on_batch(x)

    def _check_filled(self, images):
        """Raises ValueError as the graph would, which names its operations before its reason."""
        sides = getattr(images, "shape", ())[1:3]
        if input_size(self.config) == (None, None) and len(sides) == 2:
            check_filled(tuple(sides), self.config.patch_size)

    def feature_extractor(self, blocks=(-1,), layout="tokens", normalize=True):
        """A model that shares this one's weights and returns what its blocks return.

        It is an ordinary functional `keras.Model`: it can be trained, saved and built upon.

        Args:
            blocks: Indices of encoder blocks, or of the stages of a BiT-ResNet; negative ones count
                from the last.
            layout: `"tokens"` for (B, T, D) with the class token where there is one, `"grid"` for
                the patches alone, (B, h, w, D).  A BiT-ResNet has grids only.
            normalize: Whether the final norm is applied to each output.  Of a BiT-ResNet, only the
                last stage has one.

        Returns:
            A `keras.Model` from images to a dict: `"block_{i}"` -> features, `i` counted from 0.

        Raises:
            ValueError: For a block that does not exist, an unknown layout, or one that the model
                does not have.
        """
        return self._feature_extractor(self, blocks, layout, normalize)

    # The family's: transformer_features or resnet_features.
    _feature_extractor: Callable

    @staticmethod
    def _build_outputs(config, images, policy):
        """The family's architecture, read top to bottom."""
        raise NotImplementedError

    def set_remat(self, remat=True):
        """Has training compute the encoder's blocks again for their gradients, to save memory.

        The numbers stay the same.  Call it before the model is trained; it is not saved.  Axial
        models do so unless this is called with False.

        Args:
            remat: whether it does.

        Raises:
            ValueError: for a model without encoder blocks.
        """
        blocks = [layer for layer in self.layers if hasattr(layer, "remat")]
        if remat and not blocks:
            raise ValueError(
                "`remat` needs a model with encoder blocks. "
                f"Received: {type(self).__name__}; use `accumulation_steps` to save memory"
            )
        for block in blocks:
            block.remat = remat

    def quantize(self, mode=None, config=None, filters=None):
        """Keeps the kernels of attention, MLPs and heads in 8 bits, as Keras's `quantize` does.

        Each output channel has a scale, and what goes into a kernel is rounded to 8 bits row by row
        (`keras_vit.layers.quantization`).  Patches, positions, norms, biases and a hybrid's ResNet
        stay as they are.  Everything is frozen; adapters can be trained
        (`keras_vit.training.tuning.set_tune(model, "lora:R")`).

        Args:
            mode: `"int8"`.
            config: None, or Keras's default for that mode.
            filters: Which layers: a regular expression that is searched in their names, a list of
                these, a function of a layer, or None for all.

        Raises:
            NotImplementedError: For another mode or quantizers of one's own, or a model without
                encoder blocks.
            ValueError: For a model with adapters or one that is quantised, in float16, or where no
                layer is left.
        """
        quantize_model(self, mode, config, filters)

    def check_trainable(self):
        check_can_train(self)

    def get_config(self):
        return {
            "config": dataclasses.asdict(self.config),
            **shared_config(self),
            **({} if self.task is None else {"task": self.task.describe()}),
            **({"quantized": quantized} if (quantized := get_quantized(self)) else {}),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        arguments = dict(config)
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in arguments.pop("config").items()
        }
        trainable = arguments.pop("trainable", {})
        quantized = arguments.pop("quantized", ())
        task = arguments.pop("task", None)
        dtype = arguments.pop("dtype", None)
        if isinstance(dtype, dict):
            dtype = keras.dtype_policies.deserialize(dtype)
        model = cls(
            cls.config_class(**fields),
            preprocessing=Preprocessing(**arguments.pop("preprocessing")),
            dtype=dtype,
            task=None if task is None else Task(**task),
            **arguments,
        )
        set_quantized(model, quantized)
        set_trainable(model, trainable)
        return model


def input_size(config):
    """(height, width) of a model's input in pixels; (None, None) where they are free."""
    is_free = getattr(config, "dynamic_image_size", False)
    return (None, None) if is_free else config.image_size


def check_prepared_size(config, preprocessing):
    """Raises ValueError unless a model takes images of the size that its preprocessing makes."""
    size = preprocessing.image_size
    if input_size(config) == (None, None):
        check_filled(size, config.patch_size)
    elif size != config.image_size:
        raise ValueError(
            "`preprocessing` must make images of the model's size "
            f"{config.image_size}. Received: {size}"
        )


def shared_config(model):
    """What the configurations of all our models hold, as plain values."""
    trainable = get_trainable(model)
    return {
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "class_names": model.class_names,
        "origin": model.origin,
        "name": model.name,
        "dtype": keras.dtype_policies.serialize(model.dtype_policy),
        **({"trainable": trainable} if trainable else {}),
    }


def preprocessing_of(model, preprocessing=None):
    """What pixels a model wants: one of ours, one that was cut from one of ours, or any other.

    Args:
        model: A `keras.Model` from images.
        preprocessing: `Preprocessing` that a caller gave, or None to ask the model.

    Returns:
        A `Preprocessing`.

    Raises:
        ValueError: If the model does not tell, or the images would not have its input's size.
    """
    preprocessing = preprocessing or found_preprocessing(model)
    if preprocessing is None:
        raise ValueError(
            "a model must tell what pixels it wants, as the models of keras_vit and those cut from "
            f"them do. Received: {type(model).__name__} {model.name!r}; give "
            "`preprocessing=keras_vit.Preprocessing(image_size=..., value_range=...)`, or set the "
            "model's attribute `preprocessing`"
        )
    inputs = getattr(model, "inputs", None)
    size = tuple(inputs[0].shape[1:3]) if inputs else (None, None)
    if size != preprocessing.image_size and None not in size:
        raise ValueError(
            f"`preprocessing` must make images of the model's size {size}. "
            f"Received: {preprocessing.image_size}"
        )
    return preprocessing


def found_preprocessing(model):
    """What pixels a model wants, or None where it does not tell.

    It is the `Preprocessing` of the model, of its input layer, or of the model that its input goes
    straight into.
    """
    if getattr(model, "preprocessing", None) is not None:
        return model.preprocessing
    layers = [layer for layer in model.layers if type(layer) is not keras.layers.InputLayer]
    if len(getattr(model, "inputs", None) or ()) != 1 or not layers:
        return None
    if isinstance(layers[0], ImageInput):
        fields = layers[0].preprocessing
        return None if fields is None else Preprocessing(**fields)
    return found_preprocessing(layers[0]) if isinstance(layers[0], keras.Model) else None


def classification_head(config, features, policy, name="head"):
    """The zero-initialised linear head, in float32 whatever the policy; none for 0 classes."""
    if not config.num_classes:
        return features
    head_policy = policy if policy.compute_dtype == policy.variable_dtype else policy.variable_dtype
    return keras.layers.Dense(
        config.num_classes,
        kernel_initializer=initializers.zeros(),
        bias_initializer=initializers.constant(config.head_bias),
        use_bias=getattr(config, "use_head_bias", True),
        dtype=head_policy,
        name=name,
    )(features)
