# %% [markdown]
# # Learning without labels
#
# A masked autoencoder sees a quarter of each picture's patches and predicts the others. It needs no
# labels, so that all pictures count; then a few labels are enough for a classifier. Here on
# scikit-learn's digits, at a size for two cores and a minute.

# %%
# %matplotlib inline
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import csv
import pathlib
import tempfile

import matplotlib.pyplot as plt

import keras_vit

work = pathlib.Path(tempfile.mkdtemp())
pretrained = keras_vit.pretrain(
    "digits/upstream",
    work / "mae",
    recipe="digits_mae",
    steps=200,
    report_steps=20,
    progress=False,
)
rows = list(csv.DictReader((work / "mae" / "history.csv").open()))
figure, axes = plt.subplots(figsize=(5, 3))
axes.plot([int(row["step"]) for row in rows], [float(row["loss"]) for row in rows])
axes.set(xlabel="step", ylabel="mean squared error of a hidden pixel")
plt.show()

# %% [markdown]
# A loss of 1 is that of predicting each patch's mean. What is written is the encoder alone:

# %%
encoder = keras_vit.from_pretrained(work / "mae")
encoder.config.num_classes, encoder.count_params()

# %% [markdown]
# Fine-tuning gives it a head. With 20 labels of a class, beside the same model from random weights:

# %%
options = {"recipe": "digits_finetune", "shots": 20, "steps": 100, "progress": False}
tuned = keras_vit.finetune(work / "mae", "digits/downstream", work / "tuned", **options)
type(encoder)(encoder.config).save(work / "random.keras")
scratch = keras_vit.finetune(
    work / "random.keras", "digits/downstream", work / "scratch", **options
)
{
    "pre-trained": round(tuned.metrics["test"]["accuracy"], 3),
    "from scratch": round(scratch.metrics["test"]["accuracy"], 3),
}

# %% [markdown]
# One run of each, with one seed: too little to compare by. [Learn without
# labels](../self_supervision.md) has the fields, and what several seeds came to.
