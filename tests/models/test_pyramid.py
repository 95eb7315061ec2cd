"""The feature pyramid and intermediate maps against detectron2's and timm's."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers.pyramid import LEVELS, SimpleFeaturePyramid
from keras_vit.models.pyramid import pyramid_backbone
from keras_vit.models.windows import windowed_features
from tests import tiny
from tests.conftest import REFERENCE

DENSE = REFERENCE / "evaluation/dense"
# Our variable -> their key; kernels are turned by `_turned`.
CONVOLUTIONS = {
    "p2": ("simfp_2", 4),
    "p3": ("simfp_3", 1),
    "p4": ("simfp_4", 0),
    "p5": ("simfp_5", 1),
}
UP = {"p2_up_1": "simfp_2.0", "p2_norm": "simfp_2.1", "p2_up_2": "simfp_2.3", "p3_up": "simfp_3.0"}


def _keys():
    for ours, theirs in UP.items():
        names = ("gamma", "beta") if ours == "p2_norm" else ("kernel", "bias")
        for name, other in zip(names, ("weight", "bias"), strict=True):
            yield f"{ours}/{name}", f"{theirs}.{other}"
    for level, (prefix, first) in CONVOLUTIONS.items():
        for kernel, place in ((1, first), (3, first + 1)):
            yield f"{level}_conv_{kernel}/kernel", f"{prefix}.{place}.weight"
            yield f"{level}_conv_{kernel}_norm/gamma", f"{prefix}.{place}.norm.weight"
            yield f"{level}_conv_{kernel}_norm/beta", f"{prefix}.{place}.norm.bias"


def test_the_pyramid_is_detectron2s():
    with np.load(DENSE / "simple_feature_pyramid.npz") as data:
        data = dict(data)
    layer = SimpleFeaturePyramid(data["outputs/p4"].shape[-1], name="pyramid")
    layer.build(data["features"].shape)
    variables = {"/".join(v.path.split("/")[-2:]): v for v in layer.weights}
    keys = dict(_keys())
    assert set(keys) == set(variables)
    for ours, theirs in keys.items():
        value = data[f"torch_state/{theirs}"]
        # Kernels (out, in, h, w), and (in, out, h, w) of transposed ones.
        variables[ours].assign(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    outputs = layer(data["features"])
    shapes = layer.compute_output_shape(data["features"].shape)
    for level in LEVELS:
        expected = data[f"outputs/{level.lower()}"]
        np.testing.assert_allclose(outputs[level], expected, atol=1e-5, err_msg=level)
        assert shapes[level] == expected.shape


def test_a_backbone_has_pyramid_outputs_and_is_saved(tmp_path):
    model = tiny.make_model(image_size=16)
    backbone = pyramid_backbone(model, channels=8)
    assert {level: x.shape[1:3] for level, x in backbone.pyramid_outputs.items()} == {
        "P2": (16, 16), "P3": (8, 8), "P4": (4, 4), "P5": (2, 2), "P6": (1, 1),
    }  # fmt: skip
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    expected = backbone.predict_on_batch(images)
    head = keras.layers.Conv2D(2, 1, name="box_head")(backbone.pyramid_outputs["P3"])
    assert keras.Model(backbone.inputs, head).predict_on_batch(images).shape == (2, 8, 8, 2)
    backbone.save(tmp_path / "backbone.keras")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    assert set(again.pyramid_outputs) == set(LEVELS)
    for level, value in again.predict_on_batch(images).items():
        np.testing.assert_array_equal(value, expected[level])


def test_windows_by_choice_share_a_plain_models_weights(tmp_path):
    model = tiny.make_model(image_size=16, depth=2)  # of a plain checkpoint, with a class token
    grid = model.config.grid
    plain = model.feature_extractor((-1,), "grid", normalize=False)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    (expected,) = plain.predict_on_batch(images).values()
    whole = windowed_features(model, max(grid), global_blocks=(), relative_positions=True)
    np.testing.assert_allclose(whole.predict_on_batch(images), expected, atol=2e-5)
    depth = model.config.depth
    options = {"window": (2, 3), "global_blocks": (-1,), "relative_positions": True}
    backbone = pyramid_backbone(model, channels=8, **options)
    names = [layer.name for layer in backbone.layers if layer.name.startswith("windows_")]
    assert names == [*(f"windows_{i}" for i in range(depth)), "windows_grid"]
    assert backbone.get_layer("windows_0").window == (2, 3)
    assert backbone.get_layer(f"windows_{depth - 1}").window == grid
    rng = np.random.default_rng(1)
    for name in names[:-1]:
        for table in (backbone.get_layer(name).rows, backbone.get_layer(name).columns):
            assert not np.asarray(table).any()
            table.assign(rng.normal(size=table.shape))
    maps = backbone.predict_on_batch(images)
    assert not np.allclose(maps["P4"], pyramid_backbone(model, 8).predict_on_batch(images)["P4"])
    backbone.save(tmp_path / "backbone.keras")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    for level, value in again.predict_on_batch(images).items():
        np.testing.assert_array_equal(value, maps[level])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative_positions": True}, "need a `window`"),
        ({"window": 0}, "`window` must be a positive integer"),
        ({"window": 2, "global_blocks": (9,)}, "`blocks` must be integers"),
    ],
)
def test_windows_that_have_no_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pyramid_backbone(tiny.make_model(image_size=16), 8, **options)


def test_intermediate_maps_are_timms(tmp_path):
    facts = json.loads((DENSE / "timm_vit.json").read_text())
    shutil.copy(DENSE / "timm_vit.safetensors", tmp_path / "model.safetensors")
    arguments = {"num_heads": facts["num_heads"], "img_size": facts["img_size"]}
    (tmp_path / "config.json").write_text(json.dumps({"model_args": arguments}))
    model = keras_vit.from_pretrained(tmp_path)
    with np.load(DENSE / "timm_vit.ref.npz") as data:
        data = dict(data)
    for case, indices in facts["cases"].items():
        depth = facts["depth"]
        blocks = range(depth) if indices is None else indices
        blocks = range(depth - blocks, depth) if isinstance(blocks, int) else blocks
        blocks = [block % depth for block in blocks]
        for norm in (False, True):
            grids = model.feature_extractor(blocks, "grid", norm).predict_on_batch(data["images"])
            tokens = model.feature_extractor(blocks, "tokens", norm)
            tokens = tokens.predict_on_batch(data["images"])
            for place, block in enumerate(blocks):
                key = f"{case}/norm_{norm}/{place}"
                # Float32 through five blocks.
                expected = data[f"{key}/map"]
                np.testing.assert_allclose(
                    grids[f"block_{block}"], expected, atol=5e-5 * np.abs(expected).max()
                )
                prefix = tokens[f"block_{block}"][:, :1]
                expected = data[f"{key}/prefix"]
                np.testing.assert_allclose(prefix, expected, atol=5e-5 * np.abs(expected).max())
