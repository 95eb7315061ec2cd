"""Every field of a fine-tuning on two replicas: the weights of one device, to 1e-6."""

import numpy as np
import pytest

import keras_vit
from keras_vit.training.recipe import Recipe
from tests.train_step.replica_cases import WEIGHTS
from tests.training.objectives.test_tasks import BRIGHTNESS, HOT, IMAGES

pytestmark = pytest.mark.tensorflow_only

CLASSES = np.arange(30) % 7 % 3  # rare ones among them
LABELS = {"supervised": CLASSES, "multilabel": HOT.astype(int), "regression": BRIGHTNESS}
RECIPE = Recipe(steps=4, batch_size=6, report_steps=2, optimizer="sgd", decay="constant")
# What no loss depends on: softmax(q (k + b)) = softmax(q k).  Its gradient is rounding alone, which
# Adam makes whole steps of.
WITHOUT_GRADIENT = "attention/key_bias"
CASES = {
    "multilabel": {"objective": "multilabel"},
    "regression": {"objective": "regression"},
    "regression_mae": {"objective": "regression", "loss": "mae"},
    "regression_huber": {"objective": "regression", "loss": "huber"},
    "distillation": {"objective": "distillation", "distillation": "soft"},
    "distillation_hard": {"objective": "distillation", "distillation": "hard"},
    "class_weights": {"class_weights": "balanced"},
    "sampling": {"sampling": "balanced"},
    "best": {"monitor": "validation/accuracy", "patience": 1},
    "tune_head": {"tune": "head"},
    "tune_last": {"tune": "last:1"},
    "tune_norms": {"tune": "norms"},
    "tune_bias": {"tune": "bias"},
    "tune_lora": {"tune": "lora:2", "lora_alpha": 4.0, "lora_targets": ("query", "mlp")},
    "layer_decay": {"layer_decay": 0.5, "head_rate_factor": 3.0},
    "weight_decay_on": {"weight_decay": 0.1, "weight_decay_on": "kernels"},
}
# Of each kind of loss, of sampling and of tuning.
QUICK = ("multilabel", "regression", "distillation", "class_weights", "tune_lora", "layer_decay")


def train(source, workdir, **options):
    objective = options.get("objective", "supervised")
    labels = LABELS.get(objective, CLASSES)
    data = {
        name: (IMAGES[part], labels[part])
        for name, part in (("train", slice(18)), ("validation", slice(18, 24)))
    }
    if objective == "distillation":
        options = {"teacher": source, **options}
    return keras_vit.finetune(source, data, workdir, recipe=RECIPE, progress=False, **options)


def assert_alike(source, tmp_path, ignored=(), **options):
    one, two = (
        train(source, tmp_path / strategy, strategy=strategy, **options)
        for strategy in ("cpu", "mirrored")
    )
    assert (one.metrics["num_replicas"], two.metrics["num_replicas"]) == (1, 2)
    start = {v.path: np.array(v) for v in keras_vit.from_pretrained(source).weights}
    moved = 0
    for expected, received in zip(one.model.weights, two.model.weights, strict=True):
        path, expected, received = expected.path, np.array(expected), np.array(received)
        if path.endswith(ignored):
            continue
        # The head of a regression has the values' own units, here thousands.
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(received / scale, expected / scale, atol=WEIGHTS, err_msg=path)
        moved = max(moved, np.abs(expected - start[path]).max() if path in start else 0)
    assert moved > 100 * WEIGHTS
    return one, two


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_two_replicas_come_to_the_weights_of_one_device(source, tmp_path, name):
    assert_alike(source, tmp_path, learning_rate=0.05, **CASES[name])


@pytest.mark.parametrize(
    "objective", ["multilabel", pytest.param("regression", marks=pytest.mark.slow)]
)
def test_adam_differs_where_there_is_no_gradient_and_nowhere_else(source, tmp_path, objective):
    options = {"objective": objective, "optimizer": "adamw", "learning_rate": 0.01}
    one, two = assert_alike(source, tmp_path, ignored=(WITHOUT_GRADIENT,), **options)
    biases = [
        next(np.array(v) for v in run.model.weights if v.path.endswith(WITHOUT_GRADIENT))
        for run in (one, two)
    ]
    # Steps of up to the rate each, from gradients of rounding errors.
    assert 1e-5 < np.abs(biases[0]).max() < 4 * 0.01
    images = IMAGES.astype("float32") / 127.5 - 1
    outputs = [run.model.predict_on_batch(images) for run in (one, two)]
    scale = np.abs(outputs[0]).max(0)
    np.testing.assert_allclose(outputs[1] / scale, outputs[0] / scale, atol=2 * WEIGHTS)
