"""What all classifiers of the package are: a functional model that knows its configuration."""

import dataclasses
import difflib

import keras

from keras_vit.layers import EncoderBlock, initializers
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.trainer import TrainableModel


def check_positive(config, *names):
    """Raises ValueError unless each named field of `config` is an integer of at least 1."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {value!r}")


def check_rates(config, *names):
    """Raises ValueError unless each named field of `config` is in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` must be in [0, 1). Received: {value!r}")


def check_one_of(config, **choices):
    """Raises ValueError unless each field is one of its choices."""
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise ValueError(f"`{name}` must be one of {tuple(known)}. Received: {value!r}")


def check_num_classes(config):
    """Raises ValueError unless `num_classes` is an integer of at least 0."""
    value = config.num_classes
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(
            f"`num_classes` must be an integer of at least 0 (0: no head). Received: {value!r}"
        )


def pair(value, name):
    """(height, width) from one integer or two.

    Raises:
        ValueError: if it is neither, or not positive.

    >>> pair(224, "image_size"), pair([16, 24], "image_size")
    ((224, 224), (16, 24))
    """
    sides = (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
    if (
        not isinstance(sides, tuple | list)
        or len(sides) != 2
        or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides)
    ):
        raise ValueError(
            f"`{name}` must be a positive integer or (height, width). Received: {value!r}"
        )
    return tuple(sides)


def replace_fields(config, changes):
    """`dataclasses.replace` whose error for an unknown field names the close ones."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or known
            raise ValueError(
                f"{type(config).__name__} has no field {name!r}. Close: {', '.join(close)}"
            )
    return dataclasses.replace(config, **changes)


class ImageClassifier(TrainableModel):
    """Functional model from (B, H, W, C) images to (B, num_classes) float32 logits.

    Attributes:
        config: the frozen dataclass that the model was made from.
        preprocessing: what pixels it wants.
        class_names: a name for each logit, or None.
        origin: where its weights come from, a dict of plain values, or None.
    """

    config_class: type

    def __init__(
        self, config, *, preprocessing=None, class_names=None, origin=None, name=None, dtype=None
    ):
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"`config` must be a {self.config_class.__name__}. Received: {config!r}"
            )
        preprocessing = preprocessing or Preprocessing(image_size=config.image_size)
        if preprocessing.image_size != config.image_size:
            raise ValueError(
                "`preprocessing` must make images of the model's size "
                f"{config.image_size}. Received: {preprocessing.image_size}"
            )
        if class_names is not None:
            class_names = tuple(str(class_name) for class_name in class_names)
            if len(class_names) != config.num_classes:
                raise ValueError(
                    f"`class_names` must name each of the {config.num_classes} classes. "
                    f"Received: {len(class_names)} names"
                )
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self.check_policy(policy)
        images = keras.Input((*config.image_size, config.in_channels), name="images")
        super().__init__(
            inputs=images, outputs=self._build_outputs(config, images, policy), name=name
        )
        self.dtype_policy = policy
        self.config = config
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.origin = dict(origin) if origin else None

    @staticmethod
    def _build_outputs(config, images, policy):
        """The family's architecture, read top to bottom."""
        raise NotImplementedError

    def set_remat(self, remat=True):
        """Has training compute the encoder's blocks again for their gradients, to save memory.

        The numbers stay the same.  Call it before the model is trained; it is not saved.

        Args:
            remat: whether it does.

        Raises:
            ValueError: for a model without encoder blocks.
        """
        blocks = [layer for layer in self.layers if isinstance(layer, EncoderBlock)]
        if remat and not blocks:
            raise ValueError(
                "`remat` needs a model with encoder blocks. "
                f"Received: {type(self).__name__}; use `accumulation_steps` to save memory"
            )
        for block in blocks:
            block.remat = remat

    def get_config(self):
        return {
            "config": dataclasses.asdict(self.config),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "class_names": self.class_names,
            "origin": self.origin,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        arguments = dict(config)
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in arguments.pop("config").items()
        }
        dtype = arguments.pop("dtype", None)
        if isinstance(dtype, dict):
            dtype = keras.dtype_policies.deserialize(dtype)
        return cls(
            cls.config_class(**fields),
            preprocessing=Preprocessing(**arguments.pop("preprocessing")),
            dtype=dtype,
            **arguments,
        )


def classification_head(config, features, policy):
    """The zero-initialised linear head, in float32 whatever the policy; none for 0 classes."""
    if not config.num_classes:
        return features
    head_policy = policy if policy.compute_dtype == policy.variable_dtype else policy.variable_dtype
    return keras.layers.Dense(
        config.num_classes,
        kernel_initializer=initializers.zeros(),
        bias_initializer=initializers.constant(config.head_bias),
        dtype=head_policy,
        name="head",
    )(features)
