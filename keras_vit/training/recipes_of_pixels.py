"""The recipes of segmentation: one row each, its source above it.

Imports nothing heavy (see `keras_vit.training.recipe_table`).
"""

from keras_vit.training.recipe import Recipe

# rstrudel/segmenter config.yml: ADE20K 64 epochs of 20,210 images, batch 8, SGD 0.001 without
# weight decay.  There the rate falls as (1 - t)^0.9 to 1e-5; here as a line.
_SEGMENTER = {
    "source": "Segmenter, ADE20K (arXiv:2105.05633)",
    "objective": "segmentation",
    "batch_size": 8,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "decay": "linear",
    "global_clipnorm": None,
    "stochastic_depth": 0.1,
    "image_size": 512,
    "resize": "short_side",
    "resize_to": 512,
    "epochs": 64,
    "report_steps": 2500,
}

RECIPES = {
    "segmenter_linear": Recipe(**_SEGMENTER, decoder="linear"),
    "segmenter_mask": Recipe(**_SEGMENTER, decoder="mask", decoder_dropout=0.1),
    # What `--task=segmentation` takes where no recipe is named.
    "segmentation": Recipe(
        source="ours, for a few hundred pictures and a small model",
        objective="segmentation",
        decoder="linear",
        epochs=30,
        batch_size=16,
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=0.05,
        weight_decay_on="kernels",
        decay="cosine",
        resize="short_side",
        report_steps=100,
    ),
}
