import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import pipeline
from keras_vit.training import run_folder
from keras_vit.training.recipe import Recipe
from keras_vit.training.run import pretrain
from keras_vit.training.sweep import sweep

TINY = Recipe(
    steps=3,
    batch_size=16,
    learning_rate=0.5,
    # A rate of nearly 0 leaves the head at zero; another one does not.
    learning_rates=(1e-9, 0.1),
    augmentation="shift",
    image_size=8,
    report_steps=3,
)
MODEL = {"model": "ViT-Ti/16", "patch_size": 4, "hidden_size": 16, "mlp_dim": 32, "depth": 1}


@pytest.fixture(scope="module")
def whole_data(digits_dir):
    return pipeline.resolve("digits/downstream", digits_dir)


@pytest.fixture(scope="module")
def data(whole_data):
    sizes = {name: size for name, size in whole_data.split_sizes.items() if name != "trainval"}
    return dataclasses.replace(whole_data, split_sizes=sizes)


@pytest.fixture(scope="module")
def source(digits_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("source")
    upstream = pipeline.resolve("digits/upstream", digits_dir)
    pretrain(upstream, workdir, recipe=TINY, num_heads=2, progress=False, **MODEL)
    return workdir


@pytest.fixture(scope="module")
def swept(source, data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "run"
    return sweep(source, data, workdir, recipe=TINY, progress=False)


def test_sweep_takes_the_best_rate_on_the_validation_split(swept):
    low, high = swept.candidates
    assert (low["learning_rate"], high["learning_rate"]) == (1e-9, 0.1)
    best = max(swept.candidates, key=lambda row: row["accuracy"])
    assert swept.learning_rate == best["learning_rate"]
    for row in swept.candidates:
        metrics = json.loads(
            (swept.final.workdir / "sweep")
            .joinpath(f"learning_rate_{row['learning_rate']:g}", "metrics.json")
            .read_text()
        )
        assert metrics["validation"]["accuracy"] == row["accuracy"]
        assert metrics["recipe"]["learning_rate"] == row["learning_rate"]


def test_sweep_without_trainval_keeps_the_best_candidate(swept):
    table = json.loads((swept.final.workdir / "sweep.json").read_text())
    assert table["chosen"] == swept.learning_rate
    assert table["final_split"] == "train"
    assert set(swept.final.files) == set(run_folder.FILES)
    candidate = swept.final.workdir / "sweep" / f"learning_rate_{swept.learning_rate:g}"
    for name in run_folder.FILES:
        assert swept.final.files[name].read_bytes() == (candidate / name).read_bytes()


def test_sweep_trains_finally_on_both_splits_where_there_is_one(source, whole_data, tmp_path):
    result = sweep(source, whole_data, tmp_path / "run", recipe=TINY, progress=False)
    metrics = result.final.metrics
    assert metrics["train_split"] == "trainval"
    assert metrics["num_train_examples"] == whole_data.num_examples("trainval")
    assert "validation" not in metrics
    assert metrics["recipe"]["learning_rate"] == result.learning_rate
    assert metrics["test"]["count"] == whole_data.num_examples("test")


def test_sweep_that_was_stopped_keeps_what_is_finished(swept, source, data):
    workdir = swept.final.workdir
    (workdir / run_folder.MODEL).unlink()
    kept = workdir / "sweep" / "learning_rate_1e-09" / run_folder.MODEL
    before = kept.stat().st_mtime_ns
    (workdir / "sweep" / "learning_rate_0.1" / run_folder.MODEL).unlink()
    again = sweep(source, data, workdir, recipe=TINY, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert again.candidates == swept.candidates
    expected = [keras.ops.convert_to_numpy(v) for v in swept.final.model.trainable_variables]
    for value, weight in zip(again.final.model.trainable_variables, expected, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(value), weight)


def test_sweep_refuses_the_candidates_of_another_recipe(swept, source, data):
    (swept.final.workdir / run_folder.MODEL).unlink(missing_ok=True)
    with pytest.raises(FileExistsError, match="_1e-09 holds a run with another recipe"):
        sweep(source, data, swept.final.workdir, recipe=TINY, steps=2, progress=False)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("bit_hyperrule", "needs a recipe with `learning_rates`. Received: bit_hyperrule"),
        ("digits_few_shot", "needs a recipe with `learning_rates`. Received: none"),
    ],
)
def test_sweep_without_a_grid_is_refused(recipe, message, source, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep(source, data, tmp_path, recipe=recipe)


def test_sweep_without_a_validation_split_is_refused(source, data, tmp_path):
    info = dataclasses.replace(data, split_sizes={"train": 10, "test": 10})
    with pytest.raises(ValueError, match=r"validation split. Received: .* \['test', 'train'\]"):
        keras_vit.sweep(source, info, tmp_path, recipe=TINY)
    assert not list(tmp_path.iterdir())
