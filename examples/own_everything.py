"""Fine-tunes on data, with objects, of one's own: 10 bands of 64 pixels, a few seconds on a CPU."""

import sys

import keras
import numpy as np
import tensorflow as tf

import keras_vit

rng = np.random.default_rng(0)
labels = rng.integers(0, 4, 96)
images = rng.normal(size=(96, 64, 64, 10)).astype("float32") + labels[:, None, None, None] / 2
data = tf.data.Dataset.from_tensor_slices((images, labels))  # floats go into the model as they are


class MeanConfidence:
    """An evaluator: any object with a name and `run`."""

    name = "confidence"

    def run(self, model):
        probabilities = keras.ops.softmax(model.predict(images[80:], verbose=0))
        return {"mean": float(keras.ops.mean(keras.ops.max(probabilities, axis=-1)))}


workdir = sys.argv[1]
size = {"image_size": 64, "patch_size": 16, "hidden_size": 32, "mlp_dim": 64, "depth": 2}
model = keras_vit.create_model("ViT-Ti/16", num_classes=4, in_channels=10, num_heads=2, **size)
model.save(f"{workdir}/own.keras")
result = keras_vit.finetune(
    f"{workdir}/own.keras",
    {"train": data.take(80), "validation": data.skip(80)},
    f"{workdir}/run",
    recipe=keras_vit.training.recipe.Recipe(steps=20, batch_size=16, report_steps=10),
    optimizer=keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, 20)),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=print)],
    evaluators=[MeanConfidence()],
)
print(result.metrics["validation"], result.metrics["confidence"])
