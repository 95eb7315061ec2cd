"""The preprocessing that is shipped beside ONNX and LiteRT files, beside that of evaluation."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit.data.images.preprocess import evaluation_image
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.serving import numpy_preprocess
from keras_vit.serving.onnx_litert import export_onnx

SIZES = [(37, 53), (24, 24), (16, 90), (90, 7), (200, 301)]
# (interpolation, antialias) -> the largest difference in units of `value_range` and `std`: sums of
# many pixels are rounded in another order.
METHODS = {
    ("bilinear", False): 2e-6,
    ("bicubic", False): 4e-6,
    ("bilinear", True): 2e-5,
    ("bicubic", True): 2e-5,
    ("area", False): 2e-5,
}
RULES = {
    "squash": {},
    "short_side": {"resize": "short_side", "resize_to": (28, 28)},
    "crop": {"resize_to": (30, 40), "value_range": (0, 1), "mean": (0.5, 0.4, 0.3)}
    | {"std": (0.2, 0.3, 0.4)},
    "grey": {"channels": 1},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_pixels_are_those_of_evaluation(method, rule):
    interpolation, antialias = method
    rule = Preprocessing(
        image_size=(24, 20), interpolation=interpolation, antialias=antialias, **RULES[rule]
    )
    stated = json.loads(json.dumps(vars(rule)))
    rng = np.random.default_rng(0)
    for size, channels in itertools.product(SIZES, (1, 3)):
        pixels = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
        received = numpy_preprocess.preprocess(pixels, stated)
        assert received.dtype == np.float32
        expected = evaluation_image(pixels, rule).numpy()
        np.testing.assert_allclose(received, expected, rtol=0, atol=METHODS[method])


def test_other_channels_are_an_error():
    with pytest.raises(ValueError, match=r"must be \(H, W, 1\), .* Received: \(4, 4, 2\)"):
        numpy_preprocess.preprocess(np.zeros((4, 4, 2), np.uint8), {"image_size": [4, 4]})


PROGRAM = """
import json, runpy, sys
sys.modules["tensorflow"] = sys.modules["keras"] = sys.modules["keras_vit"] = None
import numpy as np, onnxruntime
from PIL import Image

preprocess = runpy.run_path("vit.onnx.preprocess.py")["preprocess"]
rule = json.loads(open("vit.onnx.json").read())["preprocessing"]
pixels = np.asarray(Image.open("photo.png").convert("RGB"))
session = onnxruntime.InferenceSession("vit.onnx")
(logits,) = session.run(["logits"], {"tensors": preprocess(pixels, rule)[np.newaxis]})
print(json.dumps(logits[0].astype(float).tolist()))
"""


@pytest.mark.tensorflow_only
def test_an_exported_file_answers_without_the_package(tmp_path):
    pytest.importorskip("tf2onnx")
    model = keras_vit.from_pretrained("fashion_mnist/ViT-mini_4")
    export_onnx(model, tmp_path / "vit.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    images = keras_vit.preprocess([pixels], model.preprocessing)
    expected = model.predict_on_batch(images)[0]
    np.testing.assert_allclose(json.loads(answer.stdout), expected, rtol=0, atol=1e-5)
