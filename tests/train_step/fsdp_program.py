"""A test of its own process: runs under `fsdp` on devices that the host is forced to have.

    KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=4 \
        python fsdp_program.py FOLDER

A run on four devices, the same killed and resumed on four, and killed and resumed on one.
"""

import pathlib
import shutil
import sys

import jax
import keras
import numpy as np

import keras_vit
from keras_vit.distribution import fully_sharded
from keras_vit.distribution.strategy import place

RECIPE = {
    "objective": "supervised",
    "optimizer": "sgd",
    "momentum_dtype": "float32",
    "learning_rate": 0.01,
    "ema": 0.5,
    "steps": 6,
    "epochs": None,
    "warmup_steps": 1,
    "batch_size": 8,
    "report_steps": 2,
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_heads": 2,
    "depth": 1,
}


class Stop(keras.callbacks.Callback):
    """Stands for a process that is killed after four steps."""

    count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == 4:
            raise InterruptedError


def main(folder):
    fully_sharded.MIN_SPLIT_VALUES = 64  # the models here are small
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.normal(labels[:, None, None, None], 1.0, (64, 8, 8, 3)).astype(np.float32)

    def train(name, strategy="fsdp", **options):
        return keras_vit.pretrain(
            {"train": (images, labels)},
            folder / name,
            recipe="digits_pretrain",
            strategy=strategy,
            progress=False,
            **RECIPE,
            **options,
        )

    whole = train("whole")
    for name in ("killed", "moved"):
        try:
            train(name, checkpoint_steps=2, callbacks=[Stop()])
        except InterruptedError:
            continue
        raise AssertionError("it was not stopped")
    shutil.copytree(folder / "moved", folder / "copy")
    resumed, moved = train("killed", checkpoint_steps=2), train("moved", None, checkpoint_steps=2)
    weights = whole.model.get_weights()
    for a, b in zip(weights, resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(weights, moved.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)

    with place("fsdp").scope():
        model = keras_vit.create_model(
            "ViT-Ti/16", depth=1, hidden_size=16, mlp_dim=32, num_heads=2, image_size=32
        )
    held = sum(v.value.addressable_shards[0].data.nbytes for v in model.weights)
    share = held / sum(v.value.nbytes for v in model.weights)
    assert jax.device_count() == 4
    assert share < 0.3, share
    print(f"a device holds {share:.3f} of the weights")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
