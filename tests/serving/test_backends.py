"""Exports from another backend, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

_PROGRAM = """
import json, sys
import numpy as np
import keras_vit
from keras_vit.serving.export import export_with_report
from keras_vit.serving.options import ServingOptions

model = keras_vit.create_model("ViT-Ti/16", num_classes=4, image_size=32, depth=1)
kernel = model.get_layer("head").kernel
kernel.assign(np.random.default_rng(1).normal(0.0, 0.3, kernel.shape))
options = ServingOptions(attention=True, on_bad_image="mark", **json.loads(sys.argv[2]))
print(json.dumps(export_with_report(model, sys.argv[1], options)[1].differences))
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}])
def test_export_from_jax_gives_its_numbers_with_tensorflow_alone(tmp_path, options):
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), json.dumps(options)],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert set(differences) == {
        *("attention/attention", "features/features", "images/scores"),
        *("serving_default/scores", "tensors/logits"),
    }
    assert max(differences.values()) <= (5e-2 if options else 1e-5)
