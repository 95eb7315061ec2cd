# %% [markdown]
# # What does it look at?
#
# Section 4.5 of the paper asks what a Vision Transformer has learned: its filters, its positions,
# how far its heads look, and where. The model is the one that comes with the package.

# %%
# %matplotlib inline
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib

import matplotlib.pyplot as plt
import numpy as np

import keras_vit
from keras_vit import analysis
from keras_vit.analysis import plots

model = keras_vit.from_pretrained("fashion_mnist/ViT-mini_4")
folder = next(
    path / "examples" / "fashion_mnist"
    for path in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents)
    if (path / "examples" / "fashion_mnist").is_dir()
)
pictures = sorted(folder.glob("*.png"))
images = np.stack([keras_vit.preprocess(path, model) for path in pictures])
[model.class_names[k] for k in np.argmax(model.predict(images, verbose=0), axis=-1)]

# %% [markdown]
# Principal components of the embedding filters, and how alike the position embeddings are (Figure
# 7, left and middle):

# %%
plots.filters_figure(analysis.embedding_filters(model))

# %%
plots.positions_figure(analysis.position_similarity(model))

# %% [markdown]
# How far each head looks on average, in pixels, by block (Figure 7, right):

# %%
distances = analysis.attention_distance(model, images)
plots.distance_figure(distances)

# %% [markdown]
# Where the model looks, by attention rollout (Figure 6), and which part of the picture speaks for
# its class, by Grad-CAM:

# %%
rollout = analysis.attention_rollout(model, images)
cam = analysis.grad_cam(model, images)
pixels = analysis.pictures.to_pixels(images, model.preprocessing)
figure, axes = plt.subplots(3, len(pictures), figsize=(12, 4))
for column, path in enumerate(pictures):
    for row, shown in enumerate((pixels[column], rollout[column], cam[column])):
        axes[row, column].imshow(shown)
        axes[row, column].axis("off")
    axes[0, column].set_title(path.stem, fontsize=8)
plt.show()

# %% [markdown]
# How alike the blocks' representations are (linear CKA):

# %%
plots.similarity_figure(analysis.representation_similarity(model, images=images))

# %% [markdown]
# All of it as one page: `keras-vit inspect MODEL --images FOLDER --output report.html`.
