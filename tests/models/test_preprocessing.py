"""The description of what pixels a model wants."""

import pytest

from keras_vit.models import Preprocessing


def test_the_default_is_the_official_evaluation():
    preprocessing = Preprocessing(image_size=[384, 384])
    assert preprocessing.image_size == (384, 384)
    assert preprocessing.value_range == (-1.0, 1.0)
    assert (preprocessing.resize, preprocessing.resize_to) == ("squash", None)


def test_another_size_keeps_the_proportion_of_the_crop():
    preprocessing = Preprocessing(image_size=(224, 224), resize="short_side", resize_to=(256, 256))
    larger = preprocessing.with_image_size((448, 224))
    assert (larger.image_size, larger.resize_to) == ((448, 224), (512, 256))
    assert larger.resize == "short_side"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": "crop"}, "`resize` must be one of"),
        ({"interpolation": "lanczos"}, "`interpolation` must be one of"),
        ({"resize_to": (200, 300)}, "at least `image_size`"),
        ({"value_range": (1, 1)}, "must rise"),
    ],
)
def test_impossible_descriptions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(image_size=(224, 224), **arguments)


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match=r"must be \(height, width\) in pixels"):
        Preprocessing(image_size=(0, 3))
