#!/usr/bin/env bash
# Builds the wheel, installs it alone into a folder, and does there what needs no extra: import,
# `keras-vit models`, a model that is made, saved and converted, and the model in it.
#
#   bash tools/check_wheel.sh PYTHON     an interpreter that has the dependencies
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(command -v "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"
cp -r setup.cfg pyproject.toml README.md LICENSE keras_vit "$work/source"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/dist" \
  "$work/source"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/site" \
  "$work"/dist/*.whl

export PYTHONPATH="$work/site" TF_CPP_MIN_LOG_LEVEL=3
examples=$PWD/examples
cd "$work"
"$python" - <<'PYTHON'
import pathlib
import sys

import keras_vit

installed = pathlib.Path(keras_vit.__file__)
if installed.parents[1].name != "site":
    sys.exit(f"{installed} is not the wheel's")
model = keras_vit.create_model("ViT-mini/4", image_size=28, num_classes=10)
keras_vit.save_pretrained(model, "model.npz")
keras_vit.from_pretrained("fashion_mnist/ViT-mini_4")
PYTHON
"$python" -m keras_vit models 'ViT-B*'
"$python" -m keras_vit models --checkpoints 'sam/*'
"$python" -m keras_vit convert model.npz out.npz --format=vit_jax
# Into a file first: `grep -q` leaves a pipe at the first match, and the writer would fail.
"$python" -m keras_vit predict --model=fashion_mnist/ViT-mini_4 --top_k=1 "$examples/fashion_mnist" \
  > answers.txt
grep -q "Ankle boot" answers.txt
echo "the wheel works: $(basename "$work"/dist/*.whl)"
