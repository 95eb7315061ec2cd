import signal

import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.cli.main import main


@pytest.fixture(scope="session", autouse=True)
def _interrupts_reach_children():
    """A shell's background job ignores Ctrl-C, and so would the commands that the tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=3, image_size=16, depth=1, class_names=("a", "ö", "c")
    )
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(1).normal(0.0, 0.3, kernel.shape))
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return str(path)


@pytest.fixture(scope="session")
def image_file(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "a.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    return str(path)


@pytest.fixture
def keras_vit_command(capsys):
    """Runs the command in this process: arguments -> (exit code, stdout, stderr)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
