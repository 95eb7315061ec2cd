"""Files as they lie in people's folders: decoded like Pillow, or refused with one reason."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import keras_vit
from keras_vit.data import integrity, pipeline
from keras_vit.inference.predict import SavedModelClassifier, predict
from tests.data import real_life

RULE = keras_vit.Preprocessing(image_size=(16, 16), orientation="exif")


@pytest.fixture(name="folder")
def folder_fixture(tmp_path, encode):
    """A data set of one class, with hidden files that are skipped."""
    good, bad = real_life.write(tmp_path / "train" / "pictures", encode)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    return tmp_path, good, bad


def test_each_good_file_has_pillows_pixels_and_each_bad_one_its_reason(folder):
    root, good, bad = folder
    assert len(good) + len(bad) >= 60
    info, entries = integrity.resolve_without_bad(root, max_bad_fraction=0.9)
    reasons = {entry.path.rpartition("/")[2]: entry.reason for entry in entries}
    assert set(reasons) == set(bad)
    for name, (_, expected) in bad.items():
        assert expected in reasons[name], name
    batches = pipeline.evaluation_dataset(info, "train", RULE, batch_size=len(good))
    ((pixels, _, mask),) = batches
    assert mask.numpy().sum() == len(good)
    for path, ours in zip(info.source.paths("train"), pixels.numpy(), strict=True):
        data = good[path.rpartition("/")[2]]
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        expected = keras_vit.preprocess(np.asarray(image), RULE)
        np.testing.assert_array_equal(ours, expected, err_msg=path)
        np.testing.assert_array_equal(keras_vit.preprocess(path, RULE), expected)


def test_predict_gives_the_same_reasons_as_validate(folder):
    root, good, bad = folder
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=2, image_size=16, hidden_size=16, num_heads=2, depth=1
    )
    model.preprocessing = RULE
    files = sorted((root / "train" / "pictures").glob("[!._]*"))
    answers = {a.path.rpartition("/")[2]: a for a in predict(model, files)}
    assert len(answers) == len(good) + len(bad)
    _, entries = integrity.check(root)
    for entry in entries:
        name = entry.path.rpartition("/")[2]
        assert answers.pop(name).error == entry.reason, name
    assert all(answer.error is None for answer in answers.values())


def test_training_stops_at_each_bad_file_with_its_name(folder):
    root, good, bad = folder
    pictures = root / "train" / "pictures"
    for name in bad:
        if name != "moving.webp":
            (pictures / name).unlink()
    info = pipeline.resolve(root)
    with pytest.raises(tf.errors.InvalidArgumentError, match="moving.webp: animated WebP"):
        pipeline.training_dataset(info, "train", RULE, batch_size=4, seed=0)


@pytest.mark.parametrize("kind", ["keras", pytest.param("saved_model", marks=pytest.mark.slow)])
def test_a_folder_in_folders_has_a_row_for_each_file(folder, kind, tmp_path_factory):
    root, good, bad = folder
    inner = root / "2024" / "märz"
    (root / "train" / "pictures").rename(root / "pictures")
    inner.mkdir(parents=True)
    for k, name in enumerate(sorted(good | bad)):
        if k % 2:
            (root / "pictures" / name).rename(inner / name)
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=2, image_size=16, hidden_size=16, num_heads=2, depth=1
    )
    model.preprocessing = RULE
    if kind == "saved_model":
        exported = tmp_path_factory.mktemp("export")
        keras_vit.export(model, exported)
        model = SavedModelClassifier(exported)
    answers = {a.path.rpartition("/")[2]: a.error for a in predict(model, [root])}
    # What is neither named like an image nor begins like one is no image.
    others = {"film.mp4", "letter.pdf", "sound.wav"}
    assert set(answers) == (set(good) | set(bad)) - others
    assert {name for name, error in answers.items() if error is None} == set(good)
    for name, error in answers.items():
        assert name in good or bad[name][1] in error, name
