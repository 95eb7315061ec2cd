"""Fine-tunings that the official JAX code ran, step by step (tests/reference/vit_jax/finetune*)."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.distribution.strategy import mirrored_strategy
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import make_optimizer, make_schedule
from keras_vit.training.recipe import Recipe

ROOT = pathlib.Path(__file__).parents[2]

# Of losses and gradient norms, relative, and of parameters, relative to the largest change.  The
# reference rounds its momentum to bfloat16, where one other rounding of float32 may flip a bit.
TOLERANCES = {"finetune": (1e-4, 2e-3), "finetune_float32": (1e-5, 1e-4)}


class Steps(keras.callbacks.Callback):
    """The logs of each step."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append({name: float(value) for name, value in logs.items()})


def parameters(model, path):
    """The model's weights under the official names."""
    keras_vit.save_pretrained(model, path)
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("name", TOLERANCES)
def test_finetuning_repeats_the_official_one(name, tmp_path):
    check_finetuning(name, tmp_path)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize(
    "name", ["finetune_float32", pytest.param("finetune", marks=pytest.mark.slow)]
)
def test_finetuning_on_two_replicas_repeats_the_official_one(name, tmp_path):
    with mirrored_strategy().scope():
        check_finetuning(name, tmp_path)


@pytest.mark.slow
@pytest.mark.tensorflow_only
def test_finetuning_on_two_workers_repeats_the_official_one(tmp_path):
    program = (
        "import pathlib, sys; from keras_vit.distribution.strategy import place; "
        "placement = place('multiworker'); "
        "from tests.training import test_official_finetuning as official\n"
        "with placement.scope():\n"
        "    for name in official.TOLERANCES:\n"
        "        folder = pathlib.Path(sys.argv[1], f'{name}-{placement.workers.index}')\n"
        "        folder.mkdir()\n"
        "        official.check_finetuning(name, folder)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "tools/launch_local.py", "--workers=2", "--", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert len(list(tmp_path.glob("*/end.npz"))) == 2 * len(TOLERANCES)


def check_finetuning(name, tmp_path):
    """Trains in the strategy of the scope, and compares every step with the official one's."""
    loss_tolerance, parameter_tolerance = TOLERANCES[name]
    folder = ROOT / "tests" / "reference" / "vit_jax"
    facts = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.ref.npz") as file:
        reference = {key: file[key] for key in file.files}
    recipe = Recipe(
        steps=facts["steps"],
        batch_size=facts["batch"],
        accumulation_steps=facts["accum_steps"],
        optimizer="sgd",
        momentum_dtype=facts["accumulator_dtype"],
        learning_rate=facts["base_lr"],
        decay=facts["decay"],
        warmup_steps=facts["warmup_steps"],
        global_clipnorm=facts["clip_norm"],
    )
    schedule = make_schedule(recipe, recipe.steps)
    rates = [float(schedule(step)) for step in range(recipe.steps)]
    np.testing.assert_allclose(rates, reference["learning_rates"], rtol=1e-6)

    model = keras_vit.from_pretrained(
        folder / facts["pretrained"],
        num_classes=facts["num_classes"],
        image_size=tuple(facts["image_size"]),
    )
    start = parameters(model, tmp_path / "start.npz")
    assert {f"start/{key}" for key in start} == {k for k in reference if k.startswith("start/")}
    for key, value in start.items():
        np.testing.assert_array_equal(value, reference[f"start/{key}"])

    model.compile(
        make_optimizer(recipe, recipe.steps, model.trainable_variables),
        SoftmaxCrossentropy(),
        accumulation_steps=recipe.accumulation_steps,
    )
    batches = tf.data.Dataset.from_tensor_slices((reference["images"], reference["labels"]))
    steps = Steps()
    # An epoch is one step, so that its loss is that of the step.
    model.fit(batches, epochs=recipe.steps, steps_per_epoch=1, callbacks=[steps], verbose=0)
    for log, expected in (("loss", "losses"), ("gradient_norm", "grad_norms")):
        received = [logs[log] for logs in steps.logs]
        np.testing.assert_allclose(received, reference[expected], rtol=loss_tolerance)

    end = parameters(model, tmp_path / "end.npz")
    changes = {key: reference[f"end/{key}"] - value for key, value in start.items()}
    largest = max(np.abs(change).max() for change in changes.values())
    for key, value in end.items():
        error = np.abs(value - reference[f"end/{key}"]).max()
        assert error <= parameter_tolerance * largest, f"{key}: {error / largest:.1e}"
