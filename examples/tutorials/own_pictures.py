# %% [markdown]
# # Your own pictures, from a folder to a server
#
# A folder with one folder for each class is all that is needed. Here it is made of scikit-learn's
# handwritten digits; put yours in its place.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import tempfile

from PIL import Image
from sklearn.datasets import load_digits

import keras_vit

work = pathlib.Path(tempfile.mkdtemp())
photos = work / "photos"
images, labels = load_digits(return_X_y=True)
for number, (pixels, label) in enumerate(zip(images[:400], labels[:400], strict=True)):
    folder = photos / ["zero", "one", "two", "three", "four"][label % 5]
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray((pixels.reshape(8, 8) * 15.9).astype("uint8"))
    picture.resize((28, 28), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
sorted(path.name for path in photos.iterdir())

# %% [markdown]
# Digits 5 to 9 lie in the folders of 0 to 4, so that a class has two shapes: a line in pixel space
# does not tell them apart.
#
# `finetune` makes a split of the pictures' contents, loads a model and trains it. The model here is
# the one that comes with the package, a ViT-mini/4 that knows Fashion-MNIST; `augreg/Ti_16` or any
# other name of `keras-vit models --checkpoints` is downloaded once.

# %%
result = keras_vit.finetune(
    "fashion_mnist/ViT-mini_4",
    photos,
    work / "run",
    steps=150,
    batch_size=64,
    learning_rate=0.03,
    augmentation="none",
    progress=False,
)
{name: round(value, 3) for name, value in result.metrics["test"].items()}

# %% [markdown]
# The run's folder holds the model, the recipe, the metrics and which picture is in which split. A
# run that is interrupted resumes when the same call is made again, to the same bits.

# %%
sorted(path.name for path in (work / "run").iterdir() if not path.name.startswith("."))

# %% [markdown]
# Ask it about pictures:

# %%
model = keras_vit.from_pretrained(work / "run")
for answer in keras_vit.predict(model, [photos / "two" / "2.png", photos / "one" / "6.png"]):
    best = answer.predictions[0]
    print(pathlib.Path(answer.path).relative_to(photos), best.class_name, f"{best.probability:.1%}")

# %% [markdown]
# A SavedModel takes the bytes of JPEG and PNG files and answers with classes; the export compares
# it with the model before it is there. TensorFlow Serving takes the folder as it is: `docker run -p
# 8501:8501 -v $PWD/serving/digits:/models/digits -e MODEL_NAME=digits tensorflow/serving`.

# %%
import tensorflow as tf

version = keras_vit.export(model, work / "serving" / "digits")
served = tf.saved_model.load(str(version)).signatures["serving_default"]
picture = (photos / "two" / "2.png").read_bytes()
(name,) = served.structured_input_signature[1]
{key: value.numpy().tolist() for key, value in served(**{name: tf.constant([picture])}).items()}
