# %% [markdown]
# # The paper's Table 5, tiny
#
# Every table and figure of the paper is a program: what would run, a tiny form that runs in a
# minute, and the real one. First the plan of the real one:

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import tempfile

import keras_vit

print(keras_vit.reproduce("table5", models=["ViT-B/16"], plan=True))

# %% [markdown]
# The tiny form has the same runs with small models on the digits. Its numbers say that the program
# works; they have nothing to do with the paper's, which stand beside them.

# %%
work = pathlib.Path(tempfile.mkdtemp())
result = keras_vit.reproduce(
    "table5", models=["ViT-B/16"], scale="tiny", workdir=work, progress=False
)
print(result)

# %% [markdown]
# Each run has a folder of its own. A run that is finished is not repeated, one that was stopped is
# resumed, and the table is written as text, CSV, JSON and a page:

# %%
sorted(path.name for path in work.iterdir())
