"""Axial blocks and the unit of AxialResNet against scenic's results."""

import keras
import numpy as np
import pytest

from keras_vit.layers import (
    AxialAttention,
    AxialBottleneckUnit,
    AxialEncoderBlock,
    LearnedPositionEmbedding2D,
)
from keras_vit.layers.axial_resnet import _halved
from keras_vit.layers.recompute import LayerNormalization
from tests.conftest import REFERENCE

# Float32 on both sides, through four blocks.
TOLERANCE = 1e-5

# Our variable of a half block -> theirs.
PARTS = {
    **{f"norm_{i + 1}/gamma": f"LayerNorm_{i}/scale" for i in (0, 1)},
    **{f"norm_{i + 1}/beta": f"LayerNorm_{i}/bias" for i in (0, 1)},
    **{
        f"attention/{name}_{part}": f"MultiHeadAttention_0/{name}/{part}"
        for name in ("query", "key", "value", "out")
        for part in ("kernel", "bias")
    },
    **{
        f"mlp/dense_{i + 1}/{part}": f"MlpBlock_0/Dense_{i}/{part}"
        for i in (0, 1)
        for part in ("kernel", "bias")
    },
}


def _reference(name):
    with np.load(REFERENCE / f"evaluation/positions/{name}.npz") as file:
        return {key: file[key] for key in file.files}


def test_the_axial_encoder_is_the_reference(assert_close):
    data = _reference("axial_encoder")
    inputs = data["inputs"]
    batch, height, width, features = inputs.shape
    positions = LearnedPositionEmbedding2D((height, width))
    x = positions(inputs.reshape(batch, -1, features))
    # Theirs are named by what they are of: the "row" table has an entry for each column.
    positions.x_embedding.assign(data["params/posembed_input/row_pos_embedding"])
    positions.y_embedding.assign(data["params/posembed_input/col_pos_embedding"])
    x = positions(inputs.reshape(batch, -1, features))
    expected = data["intermediates/posembed_input"].reshape(x.shape)
    assert_close(x, expected, TOLERANCE)
    for i in (0, 1):
        block = AxialEncoderBlock((height, width), {"num_heads": 2, "mlp_dim": 24})
        block.build(x.shape)
        for variable in block.weights:
            half, name = variable.path.split("/", 2)[-2:]
            theirs = {"row": "row", "column": "col"}[half]
            variable.assign(data[f"params/encoder_block_{theirs}_{i}/{PARTS[name]}"])
        x = block(x)
        expected = data[f"intermediates/encoder_block_col_{i}"].reshape(x.shape)
        assert_close(x, expected, TOLERANCE)
    norm = LayerNormalization(epsilon=1e-6)
    norm.build(x.shape)
    norm.set_weights([data["params/encoder_norm/scale"], data["params/encoder_norm/bias"]])
    assert_close(norm(x), data["outputs"].reshape(x.shape), TOLERANCE)


@pytest.mark.parametrize("axis", ["height", "width"])
def test_the_attention_of_an_axial_resnet_is_the_reference(axis, assert_close):
    data = _reference("axial_resnet_attention")
    prefix = {"height": "row", "width": "column"}[axis]
    keys = {
        "qkv_kernel": "Dense_0/kernel",
        "relative_embedding": "relative_pos_emb",
        **{f"{norm}/gamma": f"{norm}/scale" for norm in ("gn_qkv", "gn_out")},
        **{f"{norm}/beta": f"{norm}/bias" for norm in ("gn_qkv", "gn_out")},
    }
    layer = AxialAttention(2, axis, name="layer")
    layer.build(data["inputs"].shape)
    for variable in layer.weights:
        key = keys[variable.path.removeprefix("layer/")]
        variable.assign(data[f"{prefix}/params/SelfAttentionWith1DRelativePos_0/{key}"])
    assert_close(layer(data["inputs"]), data[f"{prefix}/output"], TOLERANCE)


def test_axial_layers_keep_their_contract(check_layer_contract):
    block = {"grid": (2, 3), "block": {"num_heads": 2, "mlp_dim": 8, "stochastic_depth": 0.0}}
    check_layer_contract(AxialEncoderBlock, block, (2, 6, 8), (2, 6, 8))
    attention = {"num_heads": 2, "axis": "width"}
    check_layer_contract(AxialAttention, attention, (2, 2, 3, 32), (2, 2, 3, 32))
    unit = {"filters": 32, "stride": 2, "num_heads": 4}
    check_layer_contract(AxialBottleneckUnit, unit, (2, 3, 4, 32), (2, 2, 2, 128))


def test_halving_takes_means_and_fills_up_with_zeros():
    x = np.arange(6, dtype="float32").reshape(1, 3, 2, 1)
    halved = keras.ops.convert_to_numpy(_halved(x)).ravel()
    np.testing.assert_array_equal(halved, [(0 + 1 + 2 + 3) / 4, (4 + 5) / 4])


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: AxialAttention(2, "depth"), "`axis` must be one of"),
        (lambda: AxialAttention(3, "width").build((None, 2, 2, 32)), "must divide the channels"),
        (lambda: AxialBottleneckUnit(32, stride=3), "`stride` must be 1 or 2"),
        (
            lambda: AxialEncoderBlock((2, 3), {"num_heads": 2, "mlp_dim": 8}).build((None, 7, 8)),
            "needs the 6 tokens of the grid",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
