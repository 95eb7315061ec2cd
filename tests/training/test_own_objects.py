"""Trainings with losses, optimizers, objectives, evaluators and callbacks of the user's."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.images.operations import Flip
from keras_vit.evaluators.base import Every
from keras_vit.train_step import TrainableModel
from keras_vit.training.callbacks import StopAfter
from keras_vit.training.recipe import Recipe
from keras_vit.training.run import finetune, pretrain
from keras_vit.training.sweep import sweep
from tests import tiny

RECIPE = Recipe(steps=4, batch_size=8, report_steps=2, learning_rate=0.1, global_clipnorm=None)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (22, 8, 8, 3), np.uint8)
LABELS = np.arange(22) % 3


class Norm:
    """An evaluator: the sum of the absolute weights."""

    name = "norm"

    def run(self, model):
        return {"weights": sum(float(np.abs(w).sum()) for w in model.get_weights())}


class Rotation:
    """An objective: which of four quarter turns an image has."""

    def build(self, model, info):
        outputs = keras.layers.Dense(4, name="turns")(model.get_layer("pre_logits").output)
        self.model = model
        return TrainableModel(model.inputs, outputs)

    def targets(self, image, label, seed):
        turns = tf.random.stateless_uniform((), seed, 0, 4, tf.int32)
        return tf.image.rot90(image, turns), turns

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def finish(self, model):
        return self.model

    def get_config(self):
        return {}


def own_objects(**changes):
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 4)
    return {
        "optimizer": keras.optimizers.AdamW(schedule, global_clipnorm=1.0),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
        "augmentation": (Flip(),),
        "progress": False,
        **changes,
    }


def rows_of(result):
    with open(result.files["history.csv"], newline="") as file:
        return list(csv.DictReader(file))


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def kill_at(monkeypatch):
    def arrange(step):
        original = StopAfter.on_train_batch_end

        def end(self, batch, logs=None):
            original(self, batch, logs)
            if self.step == step:
                monkeypatch.setattr(StopAfter, "on_train_batch_end", original)
                raise Killed

        monkeypatch.setattr(StopAfter, "on_train_batch_end", end)

    return arrange


def test_finetune_with_own_objects_resumes_with_the_same_bits(source, tmp_path, kill_at):
    def train(workdir, **changes):
        options = own_objects(checkpoint_steps=1, evaluators=[Norm()], **changes)
        return finetune(source, (IMAGES, LABELS), workdir, recipe=RECIPE, **options)

    expected = train(tmp_path / "a")
    rows = rows_of(expected)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(
        [float(keras.optimizers.schedules.CosineDecay(1e-2, 4)(step)) for step in (1, 3)]
    )
    assert float(rows[1]["norm/weights"]) == expected.metrics["norm"]["weights"]
    assert set(expected.metrics["train"]) == {"loss", "top2"}
    recipe = json.loads(expected.files["recipe.json"].read_text())
    assert recipe["optimizer"]["config"]["global_clipnorm"] == 1.0
    kill_at(4)
    with pytest.raises(Killed):
        train(tmp_path / "b")
    with pytest.raises(FileExistsError, match="`recipe.optimizer.config.weight_decay` was 0.004"):
        train(tmp_path / "b", optimizer=keras.optimizers.AdamW(1e-2, weight_decay=0.1))
    with pytest.raises(FileExistsError, match="`data.train` was "):
        finetune(source, (255 - IMAGES, LABELS), tmp_path / "b", recipe=RECIPE, **own_objects())
    received = train(tmp_path / "b")
    for name in ("history.csv", "recipe.json", "checkpoint.npz"):
        assert received.files[name].read_bytes() == expected.files[name].read_bytes()


def test_recipe_may_hold_a_list_of_objects(source, tmp_path):
    metrics = [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    recipe = dataclasses.replace(RECIPE, metrics=metrics, learning_rates=(0.1,))
    data = {"train": (IMAGES, LABELS), "validation": (IMAGES[:5], LABELS[:5])}
    result = sweep(source, data, tmp_path / "run", recipe=recipe, progress=False)
    assert set(result.final.metrics["train"]) == {"loss", "top2"}


def test_run_refuses_to_go_on_from_other_weights(source, tmp_path, kill_at):
    options = own_objects(checkpoint_steps=1)
    path = tmp_path / "model.keras"
    path.write_bytes(source.read_bytes())
    kill_at(3)
    with pytest.raises(Killed):
        finetune(path, (IMAGES, LABELS), tmp_path / "run", recipe=RECIPE, **options)
    model = keras.saving.load_model(source)
    model.get_layer("encoder_norm").set_weights([np.full(16, 2.0), np.zeros(16)])
    model.save(path)
    with pytest.raises(FileExistsError, match="`weights` was "):
        finetune(path, (IMAGES, LABELS), tmp_path / "run", recipe=RECIPE, **options)


def test_own_objective_decides_head_targets_and_what_is_written(tmp_path, kill_at):
    def train(workdir):
        return pretrain(
            {"train": (IMAGES, LABELS), "validation": (IMAGES[:5], LABELS[:5])},
            workdir,
            recipe=RECIPE,
            objective=Rotation(),
            checkpoint_steps=1,
            progress=False,
            **tiny.RECIPE,
        )

    expected = train(tmp_path / "a")
    assert set(rows_of(expected)[0]) == {
        *("step", "learning_rate", "loss", "accuracy", "gradient_norm")
    }
    assert "validation" not in expected.metrics
    assert [layer.name for layer in expected.model.layers][-1] == "head"
    kill_at(4)
    with pytest.raises(Killed):
        train(tmp_path / "b")
    received = train(tmp_path / "b")
    for name in ("history.csv", "checkpoint.npz"):
        assert received.files[name].read_bytes() == expected.files[name].read_bytes()


def test_callbacks_and_evaluators_of_a_run_have_their_cadence(source, tmp_path):
    seen = []
    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
        keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=100.0),
    ]
    data = {"train": (IMAGES, LABELS), "validation": (IMAGES, LABELS)}
    result = finetune(
        source,
        data,
        tmp_path / "run",
        recipe=RECIPE,
        steps=8,
        callbacks=callbacks,
        evaluators=[Every(steps=4, evaluator=Norm())],
        progress=False,
    )
    # The first report is the best; the second stops the training.
    assert result.metrics["steps"] == 4
    assert [set(logs) for logs in seen] == [
        {*("loss", "accuracy", "gradient_norm", "val_loss", "val_accuracy"), *names}
        for names in (
            ("validation/loss", "validation/accuracy"),
            ("validation/loss", "validation/accuracy", "norm/weights"),
        )
    ]
    assert [row["norm/weights"] == "" for row in rows_of(result)] == [True, False]
    assert result.metrics["validation"]["loss"] == seen[1]["val_loss"]


def test_sweep_maximises_what_an_evaluator_measures(source, tmp_path):
    data = {"train": (IMAGES, LABELS)}
    options = {"recipe": RECIPE, "learning_rates": (1e-9, 0.5), "progress": False}
    result = sweep(
        *(source, data, tmp_path / "run"),
        metric="norm/weights",
        evaluators=[Norm()],
        **options,
    )
    best = max(result.candidates, key=lambda row: row["norm/weights"])
    assert result.learning_rate == best["learning_rate"]
    (tmp_path / "run" / "model.keras").unlink()
    changed = {"train": (255 - IMAGES, LABELS)}
    with pytest.raises(FileExistsError, match="holds a run with another train data"):
        sweep(
            *(source, changed, tmp_path / "run"),
            metric="norm/weights",
            evaluators=[Norm()],
            **options,
        )
    other = Norm()
    other.name = "other"
    with pytest.raises(ValueError, match="must be one of 'other': none in .*learning_rate_1e-09"):
        sweep(
            *(source, data, tmp_path / "run"),
            metric="other/weights",
            evaluators=[other],
            **options,
        )
    with pytest.raises(ValueError, match="`metric` must be NAME/KEY, the name one of validation"):
        sweep(source, data, tmp_path / "other", metric="norm/weights", **options)
    with pytest.raises(ValueError, match="whose optimizer is a name"):
        sweep(source, data, tmp_path / "other", **options, optimizer=keras.optimizers.SGD(0.1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"evaluators": [object()]}, TypeError, r"a `name` and a method `run\(model\)`"),
        ({"loss": 3}, ValueError, "`loss` must be one of .* or a Keras loss. Received: 3"),
        ({"objective": object()}, ValueError, "an object of the protocol `Objective`"),
        ({"optimizer": keras.optimizers.SGD}, ValueError, "or a Keras optimizer. Received: <class"),
        ({"metrics": [3]}, ValueError, "a list of Keras metrics, or none"),
    ],
)
def test_objects_of_another_shape_are_refused(options, error, message, source, tmp_path):
    with pytest.raises(error, match=message):
        finetune(source, (IMAGES, LABELS), tmp_path / "run", recipe=RECIPE, **options)
    assert not list(tmp_path.iterdir())


def test_stream_that_is_not_the_same_each_time_is_trained_and_not_resumed(
    source, tmp_path, kill_at
):
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).shuffle(22)
    kill_at(3)
    options = {"recipe": RECIPE, "progress": False, "checkpoint_steps": 1}
    with pytest.raises(Killed):
        finetune(source, data, tmp_path / "run", **options)
    with pytest.raises((ValueError, FileExistsError), match="cannot be resumed|`data.train` was"):
        finetune(source, data, tmp_path / "run", **options)
