"""Official files in, official numbers out, and the same files back."""

import csv
import io
import os
import zipfile

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.catalog.augreg import AugRegIndex
from keras_vit.checkpoints.catalog.lookup import get_checkpoint
from keras_vit.errors import CheckpointError, DownloadError
from keras_vit.models import HybridVisionTransformer, VisionTransformer

# The bound that this project sets itself, of max|reference|, in float32.
PARITY = 1e-5

CASES = (
    "vit_jax/vit_token",
    "vit_jax/vit_gap",
    "vit_jax/vit_prelogits",
    "vit_jax/hybrid",
    "vit_jax/hybrid_stem",
    "bit/bit",
)
RECTANGLES = ("vit_jax/vit_gap",)
# Outputs of the references -> names of our layers, where they differ.
LAYERS = {"root": "root_pool", "body": "block4_unit1"}
# Modules of the references that are not layers of ours: a sequence, and what is the model's output.
NOT_LAYERS = ("Transformer", "__call__")


def image_size_of(case, name):
    return case.image_size if name in RECTANGLES or name.startswith("bit") else None


def layer_outputs(case):
    """(our layer, reference array) for each output that the reference lists."""
    for key, array in case.outputs.items():
        name = key.removeprefix("intermediates/")
        if key in ("images", "logits") or name in NOT_LAYERS:
            continue
        name = name.removeprefix("Transformer/")
        name = {"Dropout_0": "posembed_dropout"}.get(name, LAYERS.get(name, name)).replace("/", "_")
        yield name, array


@pytest.mark.parametrize("name", CASES)
def test_logits_and_intermediates_are_the_references(name, reference_case, assert_close, tmp_path):
    case = reference_case(name)
    model = keras_vit.from_pretrained(case.path, image_size=image_size_of(case, name))
    assert model.config.image_size == case.image_size
    assert_close(model(case.images), case.outputs["logits"], PARITY)

    path = keras_vit.save_pretrained(model, tmp_path / "again.npz")
    again = keras_vit.from_pretrained(path, image_size=image_size_of(case, name))
    assert_close(again(case.images), case.outputs["logits"], PARITY)
    layer_names = {layer.name for layer in model.layers}
    expected = {}
    for layer, array in layer_outputs(case):
        if layer not in layer_names:  # "block1" is the output of its last unit
            layer = max(n for n in layer_names if n.startswith(f"{layer}_unit"))
        expected[layer] = array
    outputs = {layer: model.get_layer(layer).output for layer in expected}
    actual = keras.Model(model.input, outputs)(case.images)
    for layer, array in expected.items():
        assert_close(actual[layer], array, PARITY)
    assert len(expected) >= 2


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_written_back_bit_for_bit(name, reference_case, tmp_path):
    case = reference_case(name)
    model = keras_vit.from_pretrained(case.path, image_size=image_size_of(case, name))
    keras_vit.save_pretrained(model, tmp_path / "again.npz")
    expected = case.arrays()
    with np.load(tmp_path / "again.npz") as file:
        assert set(file.files) == set(expected)
        for key, array in expected.items():
            assert file[key].dtype == array.dtype
            np.testing.assert_array_equal(file[key], array)


def published_spelling(arrays):
    """The keys and shapes of the files in the official bucket, from those of today's code."""
    renames = (
        ("LayerNorm_1/", "LayerNorm_2/"),
        ("MultiHeadDotProductAttention_0/", "MultiHeadDotProductAttention_1/"),
        ("MlpBlock_0/", "MlpBlock_3/"),
    )
    for key, array in arrays.items():
        for new, old in renames:
            key = key.replace(new, old)
        is_group_norm = "gn" in key.split("/")[-2] if "/" in key else False
        yield key, array.reshape(1, 1, 1, -1) if is_group_norm else array


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
@pytest.mark.parametrize("name", ["vit_jax/vit_token", "vit_jax/hybrid"])
def test_published_files_are_read_and_written_back(
    name, prefix, reference_case, assert_close, tmp_path
):
    case = reference_case(name)
    published = dict(published_spelling(case.arrays()))
    stored = {prefix + key: array for key, array in published.items()}
    if prefix:
        stored |= {"opt/state/step": np.float32(3), "opt/state/cls/m": np.ones(4)}
    np.savez(tmp_path / "published.npz", **stored)
    model = keras_vit.from_pretrained(tmp_path / "published.npz")
    assert_close(model(case.images), case.outputs["logits"], PARITY)
    keras_vit.save_pretrained(model, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as file:
        assert set(file.files) == set(published)
        for key, array in published.items():
            np.testing.assert_array_equal(file[key], array)


def test_a_number_of_classes_drops_head_and_representation(reference_case):
    case = reference_case("vit_jax/vit_prelogits")
    model = keras_vit.from_pretrained(case.path, num_classes=9)
    assert model.config.representation_size is None
    assert model.output_shape == (None, 9)
    kernel, bias = model.get_layer("head").get_weights()
    assert kernel.shape == (24, 9)
    assert not kernel.any()
    assert not bias.any()
    headless = keras_vit.from_pretrained(case.path, num_classes=0)
    assert headless.output_shape == (None, 24)


def test_another_image_size_interpolates_the_positions(reference_case):
    case = reference_case("vit_jax/vit_token")
    model = keras_vit.from_pretrained(case.path, num_classes=3, image_size=24)
    resized = keras.ops.convert_to_numpy(model.get_layer("posembed_input").embedding.value)
    original = case.arrays()["Transformer/posembed_input/pos_embedding"]
    assert resized.shape == (1, 37, 24)
    np.testing.assert_array_equal(resized[:, 0], original[:, 0])
    grid, new = original[0, 1:].reshape(4, 4, 24), resized[0, 1:].reshape(6, 6, 24)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(new[corner], grid[corner], rtol=1e-6)
    assert model.preprocessing.image_size == (24, 24)
    wide = keras_vit.from_pretrained(case.path, image_size=(12, 40))
    assert wide.config.grid == (3, 10)


def test_rectangular_positions_need_their_image_size(reference_case):
    case = reference_case("vit_jax/vit_gap")
    with pytest.raises(CheckpointError, match=r"24 positions .* give `image_size=\(height, width"):
        keras_vit.from_pretrained(case.path)
    with pytest.raises(CheckpointError, match="cannot be resized to 8x8"):
        keras_vit.from_pretrained(case.path, image_size=32)


def test_the_origin_tells_where_weights_come_from(reference_case, tmp_path):
    case = reference_case("vit_jax/vit_token")
    model = keras_vit.from_pretrained(case.path, dropout=0.1, class_names=list("abcde"))
    assert model.origin == {"file": "vit_token.npz", "format": "vit_jax", "layout": "linen"}
    assert model.config.dropout == 0.1
    model.save(tmp_path / "m.keras")
    again = keras_vit.from_pretrained(tmp_path / "m.keras")
    assert again.class_names == tuple("abcde")
    np.testing.assert_array_equal(
        again.predict(case.images, verbose=0), model.predict(case.images, verbose=0)
    )


def test_a_keras_file_is_a_source_like_any_other(tmp_path):
    config = {"hidden_size": 8, "mlp_dim": 8, "num_heads": 2, "depth": 1, "patch_size": 4}
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, image_size=(8, 12), **config)
    model.save(tmp_path / "model.keras")
    tuned = keras_vit.from_pretrained(tmp_path, num_classes=5, image_size=(12, 8))
    assert tuned.config.grid == (3, 2)
    assert tuned.output_shape == (None, 5)
    old, new = (m.get_layer("embedding").get_weights()[0] for m in (model, tuned))
    np.testing.assert_array_equal(old, new)


def test_arrays_are_assigned_in_the_models_order(tmp_path, monkeypatch):
    """Several processes of JAX assign to shared variables, and hash strings differently."""
    model = tiny("ViT-Ti/16", num_classes=3, image_size=16, depth=2)
    model.save(tmp_path / "model.keras")
    assigned = []
    assign = keras.Variable.assign

    def note_and_assign(variable, value):
        assigned.append(variable.path)
        return assign(variable, value)

    monkeypatch.setattr(keras.Variable, "assign", note_and_assign)
    keras_vit.from_pretrained(tmp_path / "model.keras", num_classes=5)
    keras_vit.load_weights(model, tmp_path / "model.keras")
    every = [v.path for v in model.weights if v.trainable]
    assert assigned == every[:-2] + every


def test_a_file_of_another_size_under_a_policy_trains(reference_case):
    case = reference_case("vit_jax/vit_token")
    model = keras_vit.from_pretrained(case.path, num_classes=2, dtype="mixed_bfloat16")
    assert all(v.dtype == "float32" for v in model.weights)
    assert model.get_layer("encoderblock_0").compute_dtype == "bfloat16"


def rewrite(path, target, change):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    np.savez(target, **arrays)
    return target


def test_every_missing_extra_ill_shaped_or_nan_array_is_named(reference_case, tmp_path):
    case = reference_case("vit_jax/vit_prelogits")
    keys = [k for k in case.arrays() if k != "Transformer/posembed_input/pos_embedding"]
    for key in keys:
        changes = {
            "missing": lambda a, key=key: a.pop(key),
            "expected": lambda a, key=key: a.update({key: np.ones((*a[key].shape, 2), "f4")}),
            "not finite": lambda a, key=key: a.update({key: np.full_like(a[key], np.nan)}),
        }
        for message, change in changes.items():
            path = rewrite(case.path, tmp_path / "bad.npz", change)
            with pytest.raises(CheckpointError) as caught:
                keras_vit.from_pretrained(path)
            text = str(caught.value)
            assert key in text or "architecture" in text, (key, message, text)


def test_all_problems_are_named_at_once(reference_case, tmp_path):
    case = reference_case("vit_jax/vit_token")

    def change(arrays):
        del arrays["Transformer/encoderblock_1/LayerNorm_0/bias"]
        arrays["surprise"] = np.ones(3)
        arrays["embedding/bias"] = np.ones(25, "float32")

    path = rewrite(case.path, tmp_path / "bad.npz", change)
    with pytest.raises(CheckpointError) as caught:
        keras_vit.from_pretrained(path)
    assert caught.value.path == str(path)
    assert len(caught.value.problems) == 3


def test_no_known_format_and_wrong_formats_are_refused(reference_case, tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    with pytest.raises(CheckpointError, match="of no known format: it holds weights"):
        keras_vit.from_pretrained(tmp_path / "other.npz")
    case = reference_case("vit_jax/vit_token")
    with pytest.raises(CheckpointError, match="a bit file has"):
        keras_vit.from_pretrained(case.path, format="bit")
    with pytest.raises(ValueError, match="unknown format. Received: 'vitjax'. Close: vit_jax"):
        keras_vit.from_pretrained(case.path, format="vitjax")


def test_pickled_and_cut_files_are_refused_without_a_canary_running(tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    pickled = io.BytesIO()
    np.save(pickled, np.array([Bomb()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("Transformer/posembed_input/pos_embedding.npy", pickled.getvalue())
    with pytest.raises(CheckpointError, match="pickled"):
        keras_vit.from_pretrained(tmp_path / "bomb.npz")
    assert not canary.exists()


def test_arguments_that_contradict_the_file_are_refused(reference_case):
    case = reference_case("vit_jax/vit_token")
    with pytest.raises(ValueError, match="can be chosen for a file. Received: depth"):
        keras_vit.from_pretrained(case.path, depth=3)
    with pytest.raises(ValueError, match="does not divide"):
        keras_vit.from_pretrained(case.path, image_size=17)


def test_formats_refuse_what_they_cannot_hold(tmp_path):
    fields = {"hidden_size": 8, "mlp_dim": 8, "num_heads": 2, "depth": 1, "patch_size": 4}
    exact = keras_vit.create_model(
        "ViT-Ti/16", image_size=8, gelu="exact", position_embedding="sincos2d", **fields
    )
    with pytest.raises(CheckpointError, match="`position_embedding` 'sincos2d'") as caught:
        keras_vit.save_pretrained(exact, tmp_path / "m.npz")
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "m.npz").exists()
    with pytest.raises(CheckpointError, match="bit cannot hold a model of the family 'vit'"):
        keras_vit.save_pretrained(exact, tmp_path / "m.npz", format="bit")
    with pytest.raises(TypeError, match="must be a model of keras_vit"):
        keras_vit.save_pretrained(keras.Sequential(), tmp_path / "m.npz")


def test_an_existing_file_is_kept_where_asked(reference_case, tmp_path):
    model = keras_vit.from_pretrained(reference_case("vit_jax/vit_token").path)
    path = keras_vit.save_pretrained(model, tmp_path / "m.npz")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="exists already"):
        keras_vit.save_pretrained(model, path, overwrite=False)
    keras_vit.save_pretrained(model, path)
    assert path.read_bytes() == before


def test_families_are_told_apart(reference_case):
    vit = keras_vit.from_pretrained(reference_case("vit_jax/vit_token").path)
    hybrid = keras_vit.from_pretrained(reference_case("vit_jax/hybrid_stem").path)
    assert type(vit) is VisionTransformer
    assert type(hybrid) is HybridVisionTransformer
    assert hybrid.config.stage_depths == ()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder in place of the official buckets; puts made-up files where the real ones are."""
    monkeypatch.setenv("KERAS_VIT_MIRROR", str(tmp_path / "mirror"))

    def publish(name, model):
        checkpoint = get_checkpoint(name)
        path = tmp_path / "mirror" / checkpoint.url.removeprefix("gs://")
        return keras_vit.save_pretrained(model, path)

    return publish


def tiny(name, **fields):
    sizes = {"hidden_size": 8, "mlp_dim": 8, "num_heads": 2, "depth": 1}
    return keras_vit.create_model(name, **{**sizes, **fields})


def test_a_name_of_the_catalogue_brings_size_rule_and_origin(mirror):
    mirror("imagenet21k+imagenet2012/ViT-B_16-224", tiny("ViT-B/16", num_classes=1000))
    model = keras_vit.from_pretrained("imagenet21k+imagenet2012/ViT-B_16-224")
    assert model.config.image_size == (224, 224)
    assert model.preprocessing.resize == "squash"
    assert model.origin["name"] == "imagenet21k+imagenet2012/ViT-B_16-224"
    mirror("big_vision/vit_s16_i1k_90ep", tiny("ViT-S/16", num_classes=1000))
    model = keras_vit.from_pretrained("big_vision/vit_s16_i1k_90ep", num_classes=3, image_size=112)
    assert model.preprocessing.resize == "short_side"
    assert model.preprocessing.resize_to == (128, 128)


def test_a_zero_head_of_the_catalogue_is_kept_only_knowingly(mirror):
    path = mirror("imagenet21k/ViT-B_32", tiny("ViT-B/32", num_classes=21843))
    with pytest.raises(CheckpointError, match="is zero .*give `num_classes=`"):
        keras_vit.from_pretrained("imagenet21k/ViT-B_32")
    assert keras_vit.from_pretrained("imagenet21k/ViT-B_32", num_classes=0).output_shape[1] == 8
    assert keras_vit.from_pretrained(path).output_shape == (None, 21843)
    with pytest.raises(CheckpointError, match="is zero .*give `num_classes=`"):
        keras_vit.from_pretrained("gs://vit_models/imagenet21k/ViT-B_32.npz")
    same = "https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_32.npz"
    assert keras_vit.from_pretrained(same, num_classes=2).origin["name"] == "imagenet21k/ViT-B_32"


def test_a_name_that_leaves_a_choice_takes_what_the_official_index_says(mirror, tmp_path):
    upstream = "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
    tunings = [f"{upstream}--imagenet2012-steps_{n}-lr_0.03-res_224" for n in ("10k", "20k")]
    values = dict.fromkeys(AugRegIndex.columns, "0.1") | {
        "name": "Ti/16", "ds": "i21k", "epochs": "300", "aug": "none", "params": "",
        "adapt_ds": "imagenet2012", "adapt_steps": "10000", "adapt_resolution": "224",
        "filename": upstream,
    }  # fmt: skip
    folder = tmp_path / "mirror" / "vit_models" / "augreg"
    folder.mkdir(parents=True)
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, AugRegIndex.columns)
        writer.writeheader()
        for name, accuracy in zip(tunings, ("0.75", "0.76"), strict=True):
            writer.writerow({**values, "adapt_filename": name, "adapt_final_test": accuracy})
    mirror(f"augreg/{tunings[1]}", tiny("ViT-Ti/16", num_classes=1000))
    model = keras_vit.from_pretrained("augreg/Ti_16--imagenet2012-res_224")
    assert model.origin["name"] == f"augreg/{tunings[1]}"
    assert model.config.image_size == (224, 224)
    with pytest.raises(CheckpointError, match="no measured fine-tuning .* It has: imagenet2012-re"):
        keras_vit.from_pretrained("augreg/Ti_16--kitti-res_224")
    with pytest.raises(DownloadError, match="folder without .*lr_0.001-aug_none-wd_0.03"):
        keras_vit.from_pretrained("augreg/Ti_16")


def test_counters_of_an_optimizer_beside_the_parameters_are_left_out(reference_case, tmp_path):
    stored = {f"opt/target/{k}": a for k, a in reference_case("vit_jax/vit_token").arrays().items()}
    np.savez(tmp_path / "f.npz", **stored, **{"opt/state/step": np.int32(3)})
    assert keras_vit.from_pretrained(tmp_path / "f.npz").config.num_classes == 5
    key = "opt/target/head/bias"
    np.savez(tmp_path / "f.npz", **{**stored, key: stored[key].astype("int64")})
    with pytest.raises(CheckpointError, match="head/bias' has dtype '<i8'; only floating-point"):
        keras_vit.from_pretrained(tmp_path / "f.npz")


def test_an_unknown_name_lists_the_close_ones():
    with pytest.raises(CheckpointError, match="no such file; .*Did you mean imagenet21k/ViT-B_16"):
        keras_vit.from_pretrained("imagenet21k/ViT-B_17")
    with pytest.raises(CheckpointError, match="nowhere.npz: there is no such file"):
        keras_vit.from_pretrained("nowhere.npz")
