"""The names that the configurations know without Keras are those of the layers."""

from keras_vit.layers import encoder, resnet
from keras_vit.models import resnet_configs, vit_config


def test_names_are_those_of_the_layers():
    assert set(vit_config.GELUS) == set(encoder.GELUS)
    assert set(resnet_configs.STANDARDIZATIONS) == set(resnet.STANDARDIZATIONS)
    assert resnet_configs.NUM_GROUPS == resnet.NUM_GROUPS
