"""BiT-ResNet files: the TensorFlow naming with its numbers, and big_vision's own naming."""

import re

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.errors import CheckpointError

# The bound that this project sets itself, of max|reference|, in float32.
PARITY = 1e-5


def as_bit_paper(arrays):
    """The same weights under the names that big_vision's `bit_paper` gives them."""
    renames = (
        (r"^resnet/", ""),
        (r"root_block/standardized_conv2d", "root_block/conv_root"),
        (r"a/proj/standardized_conv2d", "conv_proj"),
        (r"^group_norm/", "norm-pre-head/"),
        (r"head/conv2d", "head"),
        *((f"/{old}/group_norm/", f"/gn{new}/") for old, new in zip("abc", "123", strict=True)),
        *((f"/{x}/standardized_conv2d/", f"/conv{n}/") for x, n in zip("abc", "123", strict=True)),
        (r"gamma$", "scale"),
        (r"beta$", "bias"),
    )
    for key, array in arrays.items():
        for old, new in renames:
            key = re.sub(old, new, key)
        if key.endswith(("scale", "bias")) and not key.startswith("head"):
            array = array.reshape(1, 1, 1, -1)
        yield key, array.reshape(array.shape[-2:]) if key == "head/kernel" else array


def test_numbered_layers_are_read_and_written_without_numbers(
    reference_case, assert_close, tmp_path
):
    case = reference_case("bit/bit")
    numbered = {}
    for i, (key, array) in enumerate(case.arrays().items()):
        key = re.sub(
            r"standardized_conv2d/", f"standardized_conv2d_{i}/" if i % 3 else r"\g<0>", key
        )
        numbered[key] = array
    np.savez(tmp_path / "numbered.npz", **numbered)
    model = keras_vit.from_pretrained(tmp_path / "numbered.npz", image_size=case.image_size)
    assert_close(model(case.images), case.outputs["logits"], PARITY)
    keras_vit.save_pretrained(model, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as file:
        assert set(file.files) == set(case.arrays())


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_files_of_big_vision_are_read_and_come_back(prefix, reference_case, tmp_path):
    case = reference_case("bit/bit")
    paper = {prefix + key: array for key, array in as_bit_paper(case.arrays())}
    np.savez(tmp_path / "paper.npz", **paper)
    model = keras_vit.from_pretrained(tmp_path / "paper.npz", image_size=case.image_size)
    assert model.origin["format"] == "bit_paper"
    keras_vit.save_pretrained(model, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as file:
        assert set(file.files) == set(paper)
        for key, array in paper.items():
            np.testing.assert_array_equal(file[key], array)


def test_big_vision_pads_the_roots_pooling_with_minus_infinity(
    reference_case, assert_close, tmp_path
):
    case = reference_case("bit/bit")
    np.savez(tmp_path / "paper.npz", **dict(as_bit_paper(case.arrays())))
    model = keras_vit.from_pretrained(tmp_path / "paper.npz", image_size=case.image_size)
    outputs = [model.get_layer(name).output for name in ("root_conv", "root_pool")]
    root, pooled = map(keras.ops.convert_to_numpy, keras.Model(model.input, outputs)(case.images))
    expected = case.outputs["root"].copy()
    assert_close(pooled[:, 1:, 1:], expected[:, 1:, 1:], PARITY)
    assert (pooled[:, 0] < expected[:, 0]).any()
    np.testing.assert_array_equal(pooled[:, 0, 0], root[:, :2, :2].max(axis=(1, 2)))
    with pytest.raises(CheckpointError, match="bit cannot hold `root_pool_padding` 'infinite'"):
        keras_vit.save_pretrained(model, tmp_path / "no.npz", format="bit")
