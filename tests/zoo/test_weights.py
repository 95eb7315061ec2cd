"""All of a file's weights into a model that is there already, or none of them and the reason."""

import gzip
import hashlib
import itertools
import json
import pathlib
import re
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints import matching
from keras_vit.checkpoints.containers import hdf5
from keras_vit.checkpoints.format import entries
from keras_vit.checkpoints.formats.registry import FORMATS, format_for
from keras_vit.errors import CheckpointError
from keras_vit.models.families import variable_shapes
from keras_vit.models.fields import replace_fields
from keras_vit.models.presets import PRESETS, get_preset
from keras_vit.zoo import weights as loading
from keras_vit.zoo.opening import variables_of
from keras_vit.zoo.saving import describe

SIZES = {"image_size": 16, "num_classes": 5}
ENCODER = {"hidden_size": 8, "mlp_dim": 12, "num_heads": 2, "depth": 1}
RESNET = {"stage_depths": (1,), "width_factor": 0.5}
MODELS = {
    "vit": ("ViT-B/16", {"patch_size": 8, "representation_size": 6, **SIZES, **ENCODER}),
    "hybrid": ("R50+ViT-B/16", {"patch_size": 2, **SIZES, **ENCODER, **RESNET}),
    "bit": ("BiT-R50x1", {**SIZES, **RESNET}),
}
# Changes to the variables, which must be known without making the model.
VARIATIONS = (
    {"class_token": False, "pooling": "mean", "representation_size": None},
    {"class_token": False, "pooling": "attention", "num_classes": 0},
    {"position_embedding": "sincos2d", "pooling": "attention"},
    {"position_embedding": "none", "pooling": "none", "depth": 2},
)
ENDINGS = (".npz", ".safetensors", ".keras", ".weights.h5")


def tiny(name, **changes):
    preset, fields = MODELS[name]
    return keras_vit.create_model(preset, **{**fields, **changes})


def filled(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=v.shape).astype("float32") for v in model.weights])
    return model


def save(model, path):
    if path.suffix == ".keras":
        model.save(path)
    elif path.suffix == ".h5":
        model.save_weights(path)
    else:
        keras_vit.save_pretrained(model, path)
    return path


def bits(model):
    return b"".join(array.tobytes() for array in model.get_weights())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_file_loads_bit_for_bit(name, ending, tmp_path):
    model = filled(tiny(name))
    path = save(model, tmp_path / f"model{ending}")
    other = filled(tiny(name), seed=1)
    assert keras_vit.load_weights(other, path) is other
    assert bits(other) == bits(model)


def test_a_trained_model_and_one_under_a_policy_load(tmp_path):
    model = tiny("vit", dropout=0.1, dtype="mixed_bfloat16")
    model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)  # what a trained model's file also holds
    path = save(model, tmp_path / "model.keras")
    for source in (path, save(model, tmp_path / "model.weights.h5")):
        assert bits(keras_vit.load_weights(tiny("vit", dropout=0.1), source)) == bits(model)
    half = filled(tiny("vit", dtype="bfloat16"))
    path = save(half, tmp_path / "half.keras")
    loaded = keras_vit.load_weights(tiny("vit"), path)
    for ours, theirs in zip(loaded.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype("float32"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [*(("vit", changes) for changes in VARIATIONS), ("hybrid", VARIATIONS[1]), ("bit", {})],
)
def test_the_variables_of_a_configuration_are_known_without_making_it(name, changes):
    model = tiny(name, **changes)
    shapes = variable_shapes(model.config)
    assert shapes == {v.path: tuple(v.shape) for v in model.weights}
    # Within a layer in the order in which Keras numbers them.
    assert sorted(shapes, key=owner) == sorted((v.path for v in model.weights), key=owner)


def owner(path):
    return path.rpartition("/")[0]


def test_the_digest_is_tested_before_anything_else(tmp_path):
    path = save(filled(tiny("vit")), tmp_path / "model.weights.h5")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    keras_vit.load_weights(tiny("vit"), path, sha256=digest.upper())
    data = bytearray(path.read_bytes())
    data[next(iter(hdf5.read_headers(path).values())).start] ^= 1
    path.write_bytes(data)
    model = tiny("vit")
    before = bits(model)
    with pytest.raises(CheckpointError, match="has the SHA-256 digest"):
        keras_vit.load_weights(model, path, sha256=digest)
    assert bits(model) == before
    keras_vit.load_weights(model, path)
    with pytest.raises(CheckpointError, match="has the SHA-256 digest"):
        keras_vit.from_pretrained(save(tiny("vit"), tmp_path / "model.safetensors"), sha256=digest)
    with pytest.raises(ValueError, match="must be 64 hexadecimal digits"):
        keras_vit.load_weights(model, path, sha256="abc")
    with pytest.raises(CheckpointError, match="a digest is that of one file"):
        keras_vit.load_weights(model, tmp_path, sha256=digest)


# What is done to one array of a file: missing, of another shape, there twice, or not finite.
def changed(kind, key, arrays):
    array = arrays[key]
    if kind == "missing":
        return {k: a for k, a in arrays.items() if k != key}
    if kind == "shape":
        return {**arrays, key: np.concatenate([array, array])}
    return {**arrays, key: np.full_like(array, np.nan)}


def damage_npz(path, target, index, kind):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    key = list(arrays)[index]
    if kind != "doubled":
        np.savez(target, **changed(kind, key, arrays))
        return
    shutil.copy(path, target)
    with zipfile.ZipFile(target, "a") as archive:
        content = archive.read(f"{key}.npy")
        archive.writestr(zipfile.ZipInfo(f"{key}.npy"), content)


def damage_safetensors(path, target, index, kind):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    del header["__metadata__"]
    key = list(header)[index]
    begin, end = header[key]["data_offsets"]
    if kind in ("doubled", "shape", "missing"):
        entry = json.dumps({key: header[key]})[1:-1]
        if kind == "shape":
            header[key]["shape"] = [*header[key]["shape"], 1]
        if kind == "missing":
            del header[key]
        text = json.dumps(header)
        text = f"{{{entry}, {text[1:]}" if kind == "doubled" else text
    else:
        text = json.dumps(header)
        rest = rest[:begin] + np.float32([np.nan]).tobytes() + rest[begin + 4 :]
    target.write_bytes(len(text).to_bytes(8, "little") + text.encode() + rest)


def damage_h5(path, target, index, kind):
    shutil.copy(path, target)
    with h5py.File(target, "r+") as file:
        places = []
        file.visititems(
            lambda name, item: places.append(name) if isinstance(item, h5py.Dataset) else None
        )
        place = places[index]
        array = file[place][()]
        if kind == "doubled":
            file[f"{place}_1"] = file[place]
            return
        del file[place]
        if kind != "missing":
            file[place] = changed(kind, place, {place: array})[place]


def damage_keras(path, target, index, kind):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = target.with_suffix(".inner.h5")
    weights.write_bytes(members["model.weights.h5"])
    damage_h5(weights, target.with_suffix(".changed.h5"), index, kind)
    members["model.weights.h5"] = target.with_suffix(".changed.h5").read_bytes()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


DAMAGES = dict(zip(ENDINGS, (damage_npz, damage_safetensors, damage_keras, damage_h5), strict=True))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "ending"),
    [
        *(("vit", ending) for ending in ENDINGS),
        ("bit", ".weights.h5"),
        *(
            pytest.param(name, ending, marks=pytest.mark.slow)
            for name, ending in itertools.product(("hybrid", "bit"), ENDINGS)
        ),
    ],
)
def test_damage_to_any_one_array_changes_no_variable(name, ending, tmp_path):
    path = save(filled(tiny(name)), tmp_path / f"good{ending}")
    model = filled(tiny(name), seed=1)
    before = bits(model)
    target = tmp_path / f"bad{ending}"
    for index in range(len(model.weights)):
        for kind in ("missing", "shape", "doubled", "nan"):
            DAMAGES[ending](path, target, index, kind)
            with pytest.raises(CheckpointError):
                keras_vit.load_weights(model, target)
            assert bits(model) == before, (index, kind)


@pytest.mark.parametrize("stop", [MemoryError, KeyboardInterrupt])
def test_what_stops_the_assignment_midway_undoes_it(stop, tmp_path, monkeypatch):
    path = save(filled(tiny("vit")), tmp_path / "model.npz")
    model = filled(tiny("vit"), seed=1)
    before, calls = bits(model), itertools.count()

    def tensor(array):
        if next(calls) == 7:
            raise stop
        return array

    monkeypatch.setattr(loading.memory, "tensor", tensor)
    with pytest.raises(stop):
        keras_vit.load_weights(model, path)
    assert bits(model) == before


def test_renamed_layers_of_the_same_shapes_are_refused(tmp_path):
    path = save(filled(tiny("vit", depth=2)), tmp_path / "model.weights.h5")
    with h5py.File(path, "r+") as file:
        file["layers/encoder_block/vars"].attrs["name"] = "encoderblock_7"
    with pytest.raises(CheckpointError, match=r"encoderblock_0/norm_1/gamma \(8,\) is missing"):
        keras_vit.load_weights(tiny("vit", depth=2), path)
    with h5py.File(path, "r+") as file:
        file["layers/encoder_block/vars"].attrs["name"] = "encoderblock_1"
    with pytest.raises(CheckpointError, match="which is there twice"):
        keras_vit.load_weights(tiny("vit", depth=2), path)
    with h5py.File(path, "r+") as file:
        del file["layers/encoder_block/vars"].attrs["name"]
    with pytest.raises(CheckpointError, match="is not where Keras puts"):
        keras_vit.load_weights(tiny("vit", depth=2), path)


def test_numbers_that_differ_without_any_array_are_refused(tmp_path):
    path = save(tiny("vit", gelu="exact", layer_norm_epsilon=1e-5), tmp_path / "model.keras")
    with pytest.raises(CheckpointError) as caught:
        keras_vit.load_weights(tiny("vit"), path)
    assert "`gelu` is 'exact' in the file, 'tanh' here" in str(caught.value)
    assert len(caught.value.problems) == 3
    wide = save(tiny("vit", image_size=(8, 32)), tmp_path / "wide.keras")
    with pytest.raises(CheckpointError, match=r"a grid of \(1, 4\), expected \(2, 2\)"):
        keras_vit.load_weights(tiny("vit"), wide)


def test_what_is_no_model_of_ours_is_refused():
    with pytest.raises(TypeError, match="must be a model of keras_vit"):
        keras_vit.load_weights(keras.Sequential(), "x.npz")


# ---- every official variant into every other one -------------------------------------------------

MANIFESTS = pathlib.Path(__file__).parents[1] / "reference/official_manifests.json.gz"


def stored_variants():
    """Name -> what is read off the names and shapes of official files."""
    for name, facts in json.loads(gzip.decompress(MANIFESTS.read_bytes())).items():
        shapes = {key: tuple(shape) for key, shape in facts["parameters"].items()}
        yield name, described(matching.match_file(name, FORMATS["vit_jax"], shapes))


def described(match):
    """(`Architecture`, variable path -> shape) of a file."""
    return match.architecture, variables_of(match)


def wanted_variant(name):
    """What the model is that `create_model` makes under the official name."""
    preset, _, kind = name.partition("@")
    config = get_preset(preset)
    changes = {}
    if kind:
        changes = {"num_classes": 21843, "representation_size": config.hidden_size}
    config = replace_fields(config, changes)
    return describe(config), variable_shapes(config)


def assert_explained(stored, wanted):
    """Both variants are named where one's file does not fit the other."""
    for (file_name, theirs), (model_name, ours) in itertools.product(stored, wanted):
        if file_name == model_name:
            loading.check_fits(file_name, theirs, ours)
            continue
        with pytest.raises(CheckpointError) as caught:
            loading.check_fits(file_name, theirs, ours)
        names = re.fullmatch(r"the file is of (.+), the model is (.+)", caught.value.problems[0])
        assert names[1] != names[2]
        for given, found in zip((file_name, model_name), names.groups(), strict=True):
            assert found.startswith(given.partition("@")[0].replace("_", "/") + " (")
            assert ("pre_logits" in found) == ("pre_logits" in given)


def test_every_official_variant_into_every_other_is_explained_by_name():
    stored = list(stored_variants())
    assert len(stored) == 32
    assert_explained(stored, [(name, wanted_variant(name)) for name, _ in stored])


def from_own_table(name):
    """What is read off the names and shapes that a preset's own format gives."""
    architecture = describe(PRESETS[name])
    format_ = format_for(architecture)
    shapes = {format_.prefixes[0] + e.theirs: e.file_shape for e in entries(format_, architecture)}
    return described(matching.match_file(name, format_, shapes))


@pytest.mark.parametrize(
    "names",
    [
        [name for name in PRESETS if "x1" in name or "x4" in name],
        pytest.param(list(PRESETS), marks=pytest.mark.slow),
    ],
    ids=["bit", "all"],
)
def test_every_preset_into_every_other_is_explained_by_name(names):
    configs = [(name, PRESETS[name]) for name in names]
    wanted = [(name, (describe(config), variable_shapes(config))) for name, config in configs]
    assert_explained([(name, from_own_table(name)) for name in names], wanted)


# ---- head, representation layer, positions: the table of docs/checkpoints.md ---------------------

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs/checkpoints.md"


def table_of(heading):
    """Rows below a heading of docs/checkpoints.md as lists of cells."""
    text = DOCUMENT.read_text().partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.fixture(scope="module")
def head_files(tmp_path_factory):
    """(pre_logits, square, token) -> file with five classes."""
    folder, files = tmp_path_factory.mktemp("heads"), {}
    for pre_logits, square, token in itertools.product((True, False), repeat=3):
        changes = {
            "representation_size": 6 if pre_logits else None,
            "image_size": (16, 16) if square else (8, 24),
            "class_token": token,
            "pooling": "token" if token else "mean",
        }
        path = folder / f"{pre_logits}-{square}-{token}.npz"
        files[pre_logits, square, token] = save(filled(tiny("vit", **changes)), path)
    return files


def test_load_weights_does_what_the_table_says(head_files):
    rows = table_of("Heads and positions: load_weights")
    combinations = list(itertools.product(("yes", "no"), ("yes", "no"), ("yes", "no")))
    assert [tuple(row[:3]) for row in rows] == combinations
    for (same_pre_logits, same_classes, same_pooling), outcome in zip(
        combinations, [row[3] for row in rows], strict=True
    ):
        for pre_logits, square, token in itertools.product((True, False), repeat=3):
            has_pre_logits = pre_logits == (same_pre_logits == "yes")
            has_token = token == (same_pooling == "yes")
            model = tiny(
                "vit",
                representation_size=6 if has_pre_logits else None,
                num_classes=5 if same_classes == "yes" else 7,
                image_size=(16, 16) if square else (8, 24),
                class_token=has_token,
                pooling="token" if has_token else "mean",
            )
            path, before = head_files[pre_logits, square, token], bits(model)
            if outcome == "loads":
                keras_vit.load_weights(model, path)
                assert bits(model) == bits(
                    keras_vit.from_pretrained(path, image_size=model.config.image_size)
                )
            else:
                with pytest.raises(
                    CheckpointError, match=re.escape(outcome.removeprefix("error: "))
                ):
                    keras_vit.load_weights(model, path)
                assert bits(model) == before


def test_from_pretrained_does_what_the_table_says(head_files):
    rows = table_of("Heads and positions: from_pretrained")
    combinations = list(
        itertools.product(("yes", "no"), ("none", "number"), ("none", "same", "other"))
    )
    assert [tuple(row[:3]) for row in rows] == combinations
    sizes = {True: {"none": None, "same": (16, 16), "other": (24, 24)}}
    sizes[False] = {"none": None, "same": (8, 24), "other": (16, 24)}
    for square, classes, size, head, positions in rows:
        is_square = square == "yes"
        for pre_logits, token in itertools.product((True, False), repeat=2):
            path = head_files[pre_logits, is_square, token]
            arguments = {
                "num_classes": None if classes == "none" else 7,
                "image_size": sizes[is_square][size],
            }
            if positions.startswith("error"):
                with pytest.raises(CheckpointError, match=positions.removeprefix("error: ")):
                    keras_vit.from_pretrained(path, **arguments)
                continue
            model = keras_vit.from_pretrained(path, **arguments)
            with np.load(path) as file:
                stored = {key: file[key] for key in file.files}
            new_head = head == "zero, without pre_logits"
            assert model.config.num_classes == (7 if new_head else 5)
            kept = None if new_head or not pre_logits else 6
            assert model.config.representation_size == kept
            kernel = model.get_layer("head").get_weights()[0]
            assert not kernel.any() if new_head else (kernel == stored["head/kernel"]).all()
            (found,) = model.get_layer("posembed_input").get_weights()
            original = stored["Transformer/posembed_input/pos_embedding"]
            assert (found.shape == original.shape) == (positions == "as they are")
            if positions == "as they are":
                np.testing.assert_array_equal(found, original)
            assert model.config.class_token == token
