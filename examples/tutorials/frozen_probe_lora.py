# %% [markdown]
# # Frozen, probed, adapted or trained whole
#
# Four ways from a pre-trained model to a task of your own: a linear classifier on its frozen
# features, a new head alone, low-rank adapters (LoRA), and all weights. Here on a small set, 536 of
# scikit-learn's digits from 5 to 9, with the model that comes with the package, which has seen
# clothes only.

# %%
# %matplotlib inline
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import math
import pathlib
import tempfile

import matplotlib.pyplot as plt

import keras_vit
from keras_vit.evaluators import LinearProbe
from keras_vit.training.tuning import set_tune

SOURCE, DATASET = "fashion_mnist/ViT-mini_4", "digits/downstream"
work = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# **Frozen.** The model sees each picture once; what is trained is a linear classifier on the
# vectors that its head reads. The rate is chosen on the validation split.

# %%
base = keras_vit.from_pretrained(SOURCE)
probe = LinearProbe(DATASET, steps=500, batch_size=128).run(base)
{name: round(float(value), 3) for name, value in probe.items()}

# %% [markdown]
# **The other three** are one call each: `tune` says what is trained. The fewer weights move, the
# higher is the rate that they bear. (`keras-vit finetune --sweep` tries several.)

# %%
WAYS = {"head": 1e-2, "lora:4": 4e-3, "all": 1e-3}
results = {}
for tune, rate in WAYS.items():
    results[tune] = keras_vit.finetune(
        SOURCE,
        DATASET,
        work / tune.replace(":", "_"),
        recipe="digits_finetune",
        tune=tune,
        learning_rate=rate,
        image_size=28,
        steps=150,
        augmentation="none",
        progress=False,
    )
{tune: round(result.metrics["test"]["accuracy"], 3) for tune, result in results.items()}

# %% [markdown]
# What each of them trains, and so what memory the optimizer needs and what one more task takes to
# store:


# %%
def num_trained(tune):
    model = keras_vit.from_pretrained(SOURCE, num_classes=5)
    set_tune(model, tune)
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


trained = {tune: num_trained(tune) for tune in WAYS}
trained

# %%
figure, axes = plt.subplots(figsize=(5, 3))
axes.axhline(probe["accuracy"], color="gray", linestyle="--", label="linear probe")
axes.plot(
    list(trained.values()),
    [result.metrics["test"]["accuracy"] for result in results.values()],
    "o",
)
for tune, result in results.items():
    place = (trained[tune], result.metrics["test"]["accuracy"])
    axes.annotate(tune, place, textcoords="offset points", xytext=(6, -12))
axes.set(xscale="log", xlabel="parameters trained", ylabel="accuracy on 181 test images")
axes.margins(x=0.15, y=0.15)
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# A run with LoRA writes an ordinary model, the product merged into its kernels, and beside it the
# adapter and the head alone. The base is stored once, and each task is a small file:

# %%
files = results["lora:4"].files
{name: files[name].stat().st_size for name in ("model.keras", "adapter_model.safetensors")}

# %%
from keras_vit.zoo.adapters import load_adapter

model = keras_vit.from_pretrained(SOURCE, num_classes=5)
load_adapter(model, work / "lora_4")
round(keras_vit.evaluate(model, DATASET)["accuracy"], 3)  # as above

# %% [markdown]
# One run of each, with one seed: an example of how to compare, not a comparison.
# [Fine-tuning](../fine_tuning.md) has a table with three seeds on Fashion-MNIST.
