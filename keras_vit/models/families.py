"""The model families: one record for each, from which everything that lists families follows."""

import concurrent.futures
import dataclasses
import math
import random
from collections.abc import Callable

import keras

from keras_vit.models import axial_resnet, bit, hybrid, pixel_check, resnet_configs, vit
from keras_vit.models.fields import names_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A model family.

    Attributes:
        name: Its name in checkpoint formats and reports.
        model_class: Class of its models.
        has_patches: Whether its images are cut into patches, so that their size is part of the
            architecture; models without take images of any size.
        stride: Pixels of one cell of what is cut into patches: a function of the configuration's
            fields (a mapping).
    """

    name: str
    model_class: type
    has_patches: bool = True
    stride: Callable = lambda _: 1

    @property
    def config_class(self):
        """Class of its configurations."""
        return self.model_class.config_class


FAMILIES = {
    family.name: family
    for family in (
        Family(name="vit", model_class=vit.VisionTransformer),
        Family(
            name="hybrid",
            model_class=hybrid.HybridVisionTransformer,
            stride=lambda fields: resnet_configs.stride(fields["stage_depths"]),
        ),
        Family(name="bit", model_class=bit.BiTResNet, has_patches=False),
        Family(name="axial_resnet", model_class=axial_resnet.AxialResNet, has_patches=False),
    )
}


def family_of(config):
    """The `Family` of a configuration."""
    return next(family for family in FAMILIES.values() if type(config) is family.config_class)


def fields_of_all(attribute):
    """The names of the fields of any family for which an attribute of `FieldInfo` is true."""
    classes = (family.config_class for family in FAMILIES.values())
    return tuple(dict.fromkeys(name for cls in classes for name in names_of(cls, attribute)))


def num_positions(config):
    """The number of learned position embeddings of a model; 0 where there are none."""
    if getattr(config, "position_embedding", None) != "learned":
        return 0
    return math.prod(config.grid) + config.num_leading_positions


def variable_shapes(config):
    """The variables that a model has, without memory for their values.

    Args:
        config: A configuration of one of the families.

    Returns:
        Variable path -> shape, those of a layer in the order of their making.
    """
    # What Keras remembers of variables without values, names and policies, it remembers by thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_variable_shapes, config).result()


def _variable_shapes(config):
    # The initialisers draw seeds from Python's generator, which must not depend on this model.
    state = random.getstate()
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = family_of(config).model_class(config, dtype="float32")
            return {v.path: tuple(v.shape) for v in model.weights}
    finally:
        random.setstate(state)


pixel_check.watch()
