"""What an export has to show before it is published: the model's numbers, without Keras."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.images.decode import decode_image
from keras_vit.data.images.preprocess import evaluation_image
from keras_vit.errors import ExportError
from keras_vit.models.classifier import preprocessing_of
from keras_vit.serving.forward import FEATURES_LAYER, has_features, last_encoder_block

_PROGRAM = pathlib.Path(__file__).with_name("standalone.py")
_SECONDS = 3600

# Largest difference between an export's outputs and the model's, relative to the largest output.
# float32: other fusions of the same operations, and XLA's other order of sums.  The half formats
# keep 8 and 11 bits, and other fusions round in other places.  int8: half a step of 127 in each
# weight, which a network of random weights adds up to about 2 %.
TOLERANCES = {"float32": 1e-5, "jit": 3e-5, "bfloat16": 5e-2, "float16": 4e-3, "int8": 1e-1}

# (height, width, channels) of the images that an export is checked on.
_SAMPLE_SIZES = ((48, 64, 3), (64, 48, 3), (33, 57, 1))


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What was seen of an export.

    Args:
        differences: for each signature and output, the largest difference relative to the largest
            output of the model.
        seconds: for each batch size, the median time of `serving_default` on this machine's CPU, on
            JPEGs of 480 x 640.
    """

    differences: dict
    seconds: dict


def tolerance(model, options):
    """The entry of `TOLERANCES` that holds for a model exported with these options."""
    kinds = [getattr(model, "compute_dtype", "float32"), options.dtype, options.quantization]
    kinds.append("jit" if options.jit else None)
    return max(TOLERANCES[kind] for kind in kinds if kind is not None)


def sample_images():
    """Encoded images of several sizes, and pixels (1, H, W, 3), the same at each call."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, size, dtype=np.uint8) for size in _SAMPLE_SIZES]
    encoded = [tf.io.encode_jpeg(pixels[0], quality=95).numpy()]
    encoded += [tf.io.encode_png(image).numpy() for image in pixels[1:]]
    return encoded, pixels[1][np.newaxis]


def check_saved_model(folder, model, options):
    """Runs a SavedModel in a process with TensorFlow alone and compares it with the model.

    The process also sends what must be refused, and fails if it is accepted or ends the process.
    Both sides compute on the CPU, so that what a GPU rounds is no difference between them.

    Args:
        folder: of the SavedModel.
        model: what it was made from.
        options: the `ServingOptions` that it was made with.

    Returns:
        `CheckReport`.

    Raises:
        ExportError: for a difference above `TOLERANCES`, or anything else that is wrong.
    """
    encoded, images = sample_images()
    with tempfile.TemporaryDirectory() as scratch:
        cases = pathlib.Path(scratch, "cases.npz")
        np.savez(cases, **_cases(model, encoded, images, options))
        report = _run(folder, cases)
    if report["problems"]:
        raise ExportError(f"nothing was published: the export's {'; '.join(report['problems'])}")
    allowed, differences = tolerance(model, options), {}
    for name, (difference, scale) in report["differences"].items():
        if not difference <= allowed * scale:
            raise ExportError(
                f"the export does not reproduce the model, nothing was published: {name} differs "
                f"by {difference:.3g}, and {allowed:.0e} of the largest, {scale:.3g}, is allowed"
            )
        differences[name] = difference / scale if scale else 0.0
    return CheckReport(differences, {int(k): v for k, v in report["seconds"].items()})


def _cases(model, encoded, images, options):
    prepared = [evaluation_image(decode_image(e), preprocessing_of(model)) for e in encoded]
    tensors = tf.stack(prepared).numpy()
    # In batches of the same size, by which the libraries below choose their kernels: a BiT-R50x1
    # differs by 3e-5 between batches of 1 and of 8.
    expected = reference_outputs(model, tensors, options.attention)
    image = evaluation_image(images[0], preprocessing_of(model))[tf.newaxis].numpy()
    cases = {f"image_{i}": np.frombuffer(data, np.uint8) for i, data in enumerate(encoded)}
    cases |= {
        "images": images,
        "tensors": tensors,
        "expected/serving_default/scores": expected["logits"],
        "expected/tensors/logits": expected["logits"],
        "expected/images/scores": reference_outputs(model, image)["logits"],
    }
    for name in expected.keys() - {"logits"}:
        cases[f"expected/{name}/{name}"] = expected[name]
    return cases


def reference_outputs(model, tensors, attention=False):
    """What the model itself says, float32 arrays: `logits`, and `features` if it has them.

    Args:
        model: functional `keras.Model`.
        tensors: float32 (B, h, w, 3).
        attention: whether `attention` of the last encoder block is wanted, too.
    """
    outputs = {"logits": model.outputs[0]}
    if has_features(model):
        outputs["features"] = model.get_layer(FEATURES_LAYER).output
    if attention:
        block = last_encoder_block(model)
        outputs["tokens"] = block.input
    with keras.device("cpu:0"):
        # Compiled as a whole, as the export is: one operation after the other, a BiT-R50x1 differs
        # by 1.1e-5 from the same operations fused.
        values = keras.Model(model.input, outputs).predict_on_batch(tensors)
        if attention:
            values["attention"] = block.attention_probabilities(values.pop("tokens"))
    return {
        name: keras.ops.convert_to_numpy(value).astype(np.float32) for name, value in values.items()
    }


def _run(folder, cases):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    failed = "nothing was published: the export does not run in a process with TensorFlow alone"
    try:
        done = subprocess.run(
            [sys.executable, str(_PROGRAM), str(folder), str(cases)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env=environment,
            check=False,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise ExportError(f"{failed}, which was not done after {_SECONDS} s") from None
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ExportError(f"{failed}, which ended with {done.returncode}: {last}") from None
