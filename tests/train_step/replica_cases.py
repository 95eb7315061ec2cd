"""What is trained on one device and on several, and must come to the same.

Used in this process, in two worker processes, and on forced host devices of the JAX backend.
"""

import keras
import numpy as np

from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import SGD, AdamW
from keras_vit.training.schedules import WarmupDecay
from keras_vit.training.tuning import merge_lora, rate_factors, set_tune
from tests.tiny import make_model

# float32 sums in another order, over ten steps.
WEIGHTS = 1e-6
# The rate, 0.03, times a trace of 1 whose last bit of 8 is rounded in the other direction.
BFLOAT16 = 0.03 * 2**-8
# Of the optimizer's moments, which are up to ten gradients, and of logits.
OTHERS = 1e-5
# Sums of exact float32 losses in another order; accuracies are exact.
LOGS = 1e-5

STEPS = 10
# Adam divides by the root of tiny gradients, such as those of the keys' biases, that are zero but
# for rounding; a larger epsilon keeps the comparison to what is not.
EPSILON = 1e-3


def clipped(**options):
    return SGD(0.03, **options)


def decayed(**options):
    schedule = WarmupDecay(0.02, STEPS, warmup_steps=3)
    return AdamW(schedule, weight_decay=0.1, epsilon=EPSILON, **options)


def of_keras(**options):
    return keras.optimizers.SGD(0.03, momentum=0.9, **options)


# name -> (optimizer, arguments of `compile`, (number of examples, batch size))
WHOLE = (STEPS * 8, 8)
CASES = {
    "plain": (clipped, {}, {}, WHOLE),
    "global_clipnorm": (clipped, {"global_clipnorm": 0.5}, {}, WHOLE),
    "clipnorm": (clipped, {"clipnorm": 0.1}, {}, WHOLE),
    "clipvalue": (clipped, {"clipvalue": 0.01}, {}, WHOLE),
    "keras_global_clipnorm": (of_keras, {"global_clipnorm": 0.5}, {}, WHOLE),
    "keras_clipnorm": (of_keras, {"clipnorm": 0.1}, {}, WHOLE),
    "keras_clipvalue": (of_keras, {"clipvalue": 0.01}, {}, WHOLE),
    "bfloat16_momentum": (clipped, {"momentum_dtype": "bfloat16"}, {}, WHOLE),
    "decay_and_schedule": (decayed, {}, {}, WHOLE),
    "ema": (clipped, {"use_ema": True, "ema_momentum": 0.9}, {}, WHOLE),
    "accumulation": (clipped, {"global_clipnorm": 0.5}, {"accumulation_steps": 2}, WHOLE),
    "steps_per_execution": (clipped, {}, {"steps_per_execution": 3}, WHOLE),
    "partial_last_batch": (clipped, {"global_clipnorm": 0.5}, {}, (STEPS * 8 - 5, 8)),
    "uneven_batches": (clipped, {}, {}, (STEPS * 5, 5)),
    # An example that is not finite, of which one replica has the gradient and all refuse the step.
    "refused_step": (clipped, {"global_clipnorm": 0.5}, {}, WHOLE),
    "all": (
        decayed,
        {"global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.9},
        {"accumulation_steps": 2, "steps_per_execution": 4},
        WHOLE,
    ),
    "mixed_bfloat16": (clipped, {}, {}, WHOLE),
    "dropout": (clipped, {}, {}, WHOLE),
    "lora_and_layer_decay": (decayed, {"global_clipnorm": 0.5}, {}, WHOLE),
}
# name -> `(tune, layer_decay)` of the cases that do not train everything at one rate
TUNED = {"lora_and_layer_decay": ("lora:2", 0.5)}
# name -> configuration of the model, where it is not the default one
CONFIGS = {
    "mixed_bfloat16": {"dtype": "mixed_bfloat16"},
    "dropout": {"dropout": 0.5, "attention_dropout": 0.2, "stochastic_depth": 0.5},
}
# Replicas draw masks of their own, JAX's devices parts of those of one device.
OWN_MASKS = ("dropout",)


def examples(number):
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (number, 8, 8, 3)).astype("float32")
    return images, rng.integers(0, 3, number)


def run(name, held_out=13, **arguments):
    """Trains, evaluates and predicts.

    Args:
        name: of `CASES`.
        held_out: on how many examples it is evaluated, in batches of 4; of the 13, the last batch
            has one, and a replica none.
        **arguments: of `compile`, beyond those of the case.

    Returns:
        `(history, results, weights, others)`: dicts of what `fit` and `evaluate` gave, and of
        arrays: the trained weights; the optimizer's state and predictions.
    """
    make_optimizer, settings, case_arguments, (number, batch_size) = CASES[name]
    images, labels = examples(number)
    if name == "refused_step":
        images[3 * batch_size] = np.nan
    model = make_model(**CONFIGS.get(name, {}))
    if name in TUNED:
        tune, layer_decay = TUNED[name]
        set_tune(model, tune)
        settings = {**settings, "rate_factors": rate_factors(model, layer_decay)}
    model.compile(
        make_optimizer(**settings),
        SoftmaxCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        **{**case_arguments, **arguments},
    )
    history = model.fit(images, labels, batch_size=batch_size, shuffle=False, verbose=0).history
    if name == "refused_step":
        # The mean of the losses leaves out the bad replica's part of the step, here all of it.
        del history["loss"]
    options = {"batch_size": 4, "verbose": 0}
    results = model.evaluate(images[:held_out], labels[:held_out], return_dict=True, **options)
    others = {"predictions": model.predict(images[:held_out], **options)}
    # Keras counts the optimizers of a process in their names, not in ours.
    prefix = "" if isinstance(model.optimizer, SGD | AdamW) else f"{model.optimizer.name}/"
    others |= {
        variable.path.removeprefix(prefix): variable.numpy()
        for variable in model.optimizer.variables
    }
    weights = {variable.path: variable.numpy() for variable in model.trainable_variables}
    if name in TUNED:
        merged = merge_lora(model).predict(images[:held_out], **options)
        np.testing.assert_allclose(merged, others["predictions"], atol=WEIGHTS)
    return history, results, weights, others


def assert_same(received, expected, name):
    """Raises AssertionError where two results of `run` differ by more than rounding."""
    if name == "mixed_bfloat16":
        assert_within_rounding(received, expected, run(name, accumulation_steps=2))
        return
    weights = BFLOAT16 if name == "bfloat16_momentum" else WEIGHTS
    for logs, expected_logs in zip(received[:2], expected[:2], strict=True):
        assert set(logs) == set(expected_logs)
        for log, values in expected_logs.items():
            tolerance = 0 if log == "accuracy" else LOGS
            np.testing.assert_allclose(logs[log], values, rtol=tolerance, err_msg=log)
    for arrays, expected_arrays, tolerance in zip(
        received[2:], expected[2:], (weights, OTHERS), strict=True
    ):
        assert arrays.keys() == expected_arrays.keys()
        for path, array in expected_arrays.items():
            # Moments and norms are larger than 1: relative to their largest value.
            largest = np.abs(array.astype("float32")).max()
            allowed = tolerance * max(1.0, largest) if arrays is received[3] else tolerance
            if name == "bfloat16_momentum" and path.endswith("_momentum"):
                allowed = max(allowed, 2**-7 * largest)
            difference = np.abs(arrays[path].astype("float32") - array.astype("float32")).max()
            assert difference <= allowed, f"{name}, {path}: {difference:.1e}"


def assert_within_rounding(received, expected, control):
    """Whether replicas differ from one device no more than one device does in micro-batches.

    Both round other parts of the sums over the batch to bfloat16's 8 bits than one device does in
    one piece.  The control's weights differ by 1.4 x 2^-8 of the largest change of a weight.
    """
    for log in ("loss", "gradient_norm"):
        np.testing.assert_allclose(received[0][log], expected[0][log], rtol=2**-8, err_msg=log)

    def distance(weights):
        return max(np.abs(weights[path] - array).max() for path, array in expected[2].items())

    assert distance(received[2]) <= 2 * distance(control[2])
