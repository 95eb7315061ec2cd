import csv
import dataclasses
import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data import pipeline
from keras_vit.errors import BadDataError, TrainingError
from keras_vit.training import callbacks, run_folder
from keras_vit.training.recipe import Recipe
from keras_vit.training.run import finetune, pretrain
from tests import tiny

TINY = Recipe(
    steps=5,
    batch_size=16,
    learning_rate=3e-3,
    warmup_steps=1,
    global_clipnorm=None,
    dropout=0.1,
    augmentation="shift",
    report_steps=2,
    **tiny.RECIPE,
)


@pytest.fixture(scope="module")
def upstream(digits_dir):
    return pipeline.resolve("digits/upstream", digits_dir)


@pytest.fixture(scope="module")
def downstream(digits_dir):
    return pipeline.resolve("digits/downstream", digits_dir)


@pytest.fixture(scope="module")
def pretrained(upstream, tmp_path_factory):
    return pretrain(upstream, tmp_path_factory.mktemp("runs") / "pretrain", recipe=TINY)


def weights(model):
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in model.weights}


def test_pretrain_writes_the_files_of_a_run(pretrained, upstream):
    assert set(pretrained.files) == set(run_folder.FILES)
    assert {path.name for path in pretrained.workdir.iterdir()} == {
        *run_folder.FILES,
        run_folder.MARKER,
    }
    recipe = json.loads(pretrained.files["recipe.json"].read_text())
    assert Recipe(**recipe) == TINY
    metrics = json.loads(pretrained.files["metrics.json"].read_text())
    assert metrics == json.loads(json.dumps(pretrained.metrics))
    assert metrics["steps"] == 5
    assert metrics["dataset"] == "digits/upstream"
    for split in ("validation", "test"):
        assert metrics[split]["count"] == upstream.num_examples(split)
    assert metrics["seconds"] > 0
    assert metrics["images_per_second"] > 0


def test_pretrain_history_has_a_row_for_each_report(pretrained):
    with open(pretrained.files["history.csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 5]
    # The rates of the last updates before: t = 1, 3 and 4 of W = 1, T = 5.
    expected = 3e-3 * 0.5 * (1 + np.cos(np.pi * np.array([0, 2, 3]) / 4))
    np.testing.assert_allclose([float(row["learning_rate"]) for row in rows], expected, rtol=1e-5)
    assert float(rows[-1]["val_loss"]) == pretrained.metrics["validation"]["loss"]
    assert float(rows[-1]["val_accuracy"]) == pretrained.metrics["validation"]["accuracy"]


def test_pretrain_files_hold_the_trained_weights(pretrained):
    expected = weights(pretrained.model)
    assert np.abs(expected["head/kernel"]).max() > 0
    for source in (pretrained.workdir, pretrained.files["checkpoint.npz"]):
        model = keras_vit.from_pretrained(source)
        received = weights(model)
        for path in expected:
            if "seed_generator" not in path:
                np.testing.assert_array_equal(received[path], expected[path])
    assert keras_vit.from_pretrained(pretrained.workdir).class_names == tuple("01234")


def test_pretrained_model_file_has_no_optimizer(pretrained):
    assert not pretrained.model.compiled
    assert not keras.saving.load_model(pretrained.files["model.keras"]).compiled
    with zipfile.ZipFile(pretrained.files["model.keras"]) as archive:
        weights_file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    assert "layers" in weights_file
    assert "optimizer" not in weights_file


def test_pretrain_is_a_function_of_the_recipe(pretrained, upstream, tmp_path):
    again = pretrain(upstream, tmp_path, recipe=TINY, progress=False)
    assert again.metrics["test"] == pretrained.metrics["test"]
    expected = weights(pretrained.model)
    for path, received in weights(again.model).items():
        np.testing.assert_array_equal(received, expected[path])


def test_pretrain_with_another_seed_starts_elsewhere(pretrained, upstream, tmp_path):
    model = keras_vit.create_model("ViT-Ti/16", num_classes=5, image_size=8, **TINY.architecture())
    result = pretrain(upstream, tmp_path, recipe=TINY, model=model, seed=1, shots=1, steps=2)
    assert result.model is model
    assert result.metrics["num_train_examples"] == 5
    assert result.metrics["test"]["loss"] != pretrained.metrics["test"]["loss"]


def test_finetune_at_a_higher_resolution_interpolates_the_positions(
    pretrained, downstream, tmp_path
):
    result = finetune(
        pretrained.workdir,
        downstream,
        tmp_path / "run",
        recipe=dataclasses.replace(TINY, image_size=None, warmup_steps=0, learning_rate=1e-9),
        image_size=12,
        shots=3,
    )
    assert result.model.config.image_size == (12, 12)
    assert result.model.class_names == tuple("56789")
    assert result.metrics["num_train_examples"] == 15
    assert result.metrics["source"] == str(pretrained.workdir)
    expected = weights(keras_vit.from_pretrained(pretrained.workdir, num_classes=5, image_size=12))
    received = weights(result.model)
    # A rate of nearly 0 leaves the weights that the fine-tuning started from.
    assert received["posembed_input/embedding"].shape == (1, 10, 16)
    for path in expected:
        if "seed_generator" not in path:
            np.testing.assert_allclose(received[path], expected[path], atol=1e-6)
    assert np.abs(received["head/kernel"]).max() < 1e-6


def test_pretrain_with_a_loss_that_is_not_finite_writes_nothing(upstream, tmp_path):
    with pytest.raises(
        TrainingError, match="not finite at step 4: gradient_norm inf, with .*nothing was written"
    ):
        pretrain(
            upstream,
            tmp_path / "run",
            recipe=TINY,
            optimizer="sgd",
            learning_rate=1e30,
            warmup_steps=0,
        )
    assert not list(tmp_path.iterdir())


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def kill_at(monkeypatch):
    """Makes the next run end at a step."""

    def arrange(step):
        original = callbacks.StopAfter.on_train_batch_end

        def end(self, batch, logs=None):
            original(self, batch, logs)
            if self.step == step:
                monkeypatch.setattr(callbacks.StopAfter, "on_train_batch_end", original)
                raise Killed

        monkeypatch.setattr(callbacks.StopAfter, "on_train_batch_end", end)

    return arrange


def test_pretrain_given_again_goes_on_and_ends_with_the_same_bits(
    pretrained, upstream, tmp_path, kill_at
):
    kill_at(4)
    with pytest.raises(Killed):
        pretrain(upstream, tmp_path, recipe=TINY, checkpoint_steps=1)
    states = {"step_00000003.npz", "step_00000002.npz"}
    assert {path.name for path in tmp_path.iterdir()} == {run_folder.STATE, run_folder.MARKER}
    assert {path.name for path in (tmp_path / run_folder.STATE).iterdir()} == states | {
        run_folder.MARKER
    }
    result = pretrain(upstream, tmp_path, recipe=TINY)
    assert {path.name for path in tmp_path.iterdir()} == {*run_folder.FILES, run_folder.MARKER}
    for name in ("history.csv", "recipe.json", "checkpoint.npz"):
        assert result.files[name].read_bytes() == pretrained.files[name].read_bytes()
    expected = weights(pretrained.model)
    for path, received in weights(result.model).items():
        np.testing.assert_array_equal(received, expected[path])
    times = {"seconds", "images_per_second", "waiting_share"}
    assert {k: v for k, v in result.metrics.items() if k not in times} == {
        k: v for k, v in pretrained.metrics.items() if k not in times
    }


def test_pretrain_that_was_stopped_refuses_to_go_on_as_another(upstream, tmp_path, kill_at):
    kill_at(3)
    with pytest.raises(Killed):
        pretrain(upstream, tmp_path, recipe=TINY)
    before = (tmp_path / run_folder.STATE / "step_00000002.npz").read_bytes()
    with pytest.raises(FileExistsError, match="`recipe.learning_rate` was 0.003 and is 0.1"):
        pretrain(upstream, tmp_path, recipe=TINY, learning_rate=0.1)
    assert (tmp_path / run_folder.STATE / "step_00000002.npz").read_bytes() == before
    kill_at(1)
    with pytest.raises(Killed):
        pretrain(upstream, tmp_path, recipe=TINY, learning_rate=0.1, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_pretrain_refuses_a_finished_run(pretrained, upstream):
    before = pretrained.files["model.keras"].read_bytes()
    with pytest.raises(FileExistsError, match="holds a finished run"):
        pretrain(upstream, pretrained.workdir, recipe=TINY)
    assert pretrained.files["model.keras"].read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"steps": None}, "either `steps` or `epochs`"),
        ({"epochs": 0.01}, "are 0 steps"),
        ({"stepz": 3}, "no field 'stepz'. Close: steps"),
        ({"augmentation": "shfit"}, "did you mean 'shift'"),
        ({"recipe": "digits_finetune"}, "must name its `model`"),
        ({"model": "ViT-Ti/61"}, "ViT-Ti/16"),
        ({"shots": 1000}, "`shots` must be at most"),
    ],
)
def test_pretrain_bad_argument_is_refused_before_the_work(overrides, message, upstream, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain(upstream, tmp_path / "run", **{"recipe": TINY, **overrides})
    assert not list(tmp_path.iterdir())


def test_pretrain_refuses_a_model_of_other_classes_or_size(
    pretrained, upstream, downstream, tmp_path
):
    with pytest.raises(ValueError, match="class 0 is '0' in the model and '5' in the data set"):
        pretrain(downstream, tmp_path, recipe=TINY, model=pretrained.model)
    with pytest.raises(ValueError, match=r"recipe's size \(16, 16\). Received: one for \(8, 8\)"):
        pretrain(upstream, tmp_path, recipe=TINY, model=pretrained.model, image_size=16)
    with pytest.raises(TypeError, match="must be a model of keras_vit. Received: Sequential"):
        pretrain(downstream, tmp_path, recipe=TINY, model=keras.Sequential())


def test_pretrain_refuses_an_empty_data_set(upstream, tmp_path):
    empty = dataclasses.replace(upstream, split_sizes={"train": 0})
    with pytest.raises(ValueError, match="must have examples. Received: 0"):
        pretrain(empty, tmp_path / "run", recipe=TINY)


def test_finetune_refuses_another_architecture(pretrained, downstream, tmp_path):
    with pytest.raises(ValueError, match="architecture from the file .* Received: depth"):
        finetune(pretrained.workdir, downstream, tmp_path, recipe=TINY, depth=2)


def test_finetune_of_a_missing_file_is_an_error(downstream, tmp_path):
    with pytest.raises(keras_vit.CheckpointError, match="there is no such file"):
        finetune(tmp_path / "no.keras", downstream, tmp_path / "run", recipe=TINY)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder_with_a_bad_image(tmp_path):
    """Three classes of six grey images in three splits, one of them damaged."""
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for name in "abc":
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for k in range(6):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                (place / f"{k}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (tmp_path / "data" / "train" / "b" / "3.png").write_bytes(b"<html>")
    return tmp_path / "data"


def test_pretrain_stops_at_a_bad_image_by_name(folder_with_a_bad_image, tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError, match="train/b/3.png: .*looks like HTML"):
        pretrain(str(folder_with_a_bad_image), tmp_path / "run", recipe=TINY, progress=False)
    assert not (tmp_path / "run").exists()


def test_pretrain_leaves_out_bad_images_under_a_limit(folder_with_a_bad_image, tmp_path):
    options = {"recipe": TINY, "progress": False}
    with pytest.raises(BadDataError, match="1 of 18 entries .* 'train' are bad and 0.01 of them"):
        pretrain(str(folder_with_a_bad_image), tmp_path / "run", max_bad_fraction=0.01, **options)
    result = pretrain(
        str(folder_with_a_bad_image), tmp_path / "run", max_bad_fraction=0.1, **options
    )
    assert result.metrics["num_skipped"] == 1
    assert result.metrics["num_train_examples"] == 17
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["path"].endswith("train/b/3.png")
