import logging

import keras
import numpy as np
import pytest

from keras_vit.errors import TrainingError
from keras_vit.training.callbacks import Progress, RequireFiniteLoss, StopAfter


def fit(callbacks, targets=None, epochs=2):
    """Ten steps an epoch of a linear model."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.ones((10, 2), "float32")
    y = np.zeros((10, 1), "float32") if targets is None else targets
    model.fit(x, y, batch_size=1, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


@pytest.mark.parametrize("total_steps", [1, 10, 13])
def test_stop_after_ends_at_the_step(total_steps):
    assert fit([StopAfter(total_steps)]) == total_steps


def test_require_finite_loss_names_the_third_such_step_in_a_row_and_its_examples():
    targets = np.zeros((10, 1), "float32")
    targets[6] = np.inf
    # Keras's own loss of the logs is a mean: not finite from the seventh step of an epoch on.
    with pytest.raises(
        TrainingError, match="finite at step 9: loss (inf|nan), with the image 8; .*last of 3"
    ):
        fit([RequireFiniteLoss(describe_examples=lambda step: f"the image {step}")], targets)
    assert fit([RequireFiniteLoss()]) == 20


def test_progress_without_terminal_logs_a_line_an_epoch(capsys, caplog):
    logging.getLogger("absl").addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger="absl"):
        fit([Progress(20, "training")])
    logging.getLogger("absl").removeHandler(caplog.handler)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("training: step 10/20: loss ") for line in lines)
    assert any(line.startswith("training: step 20/20: loss ") for line in lines)
    assert capsys.readouterr().out == ""
