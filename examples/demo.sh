#!/usr/bin/env bash
# The whole story on real images, from a fresh checkout: bash examples/demo.sh [flags of digits.py]
set -euo pipefail
start_folder=$PWD
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "demo.sh: Python 3.11 or newer is needed; set PYTHON to its path" >&2
  exit 1
fi
if [[ ! -x .venv/bin/python ]]; then
  echo "Creating the virtual environment .venv ..."
  "$python" -m venv .venv
fi
if ! .venv/bin/python -c 'import importlib.metadata as m; m.version("keras-vit"); m.version("keras-cv")' 2>/dev/null; then
  echo "Installing keras_vit and what it needs, TensorFlow among them (some minutes) ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
fi
exec .venv/bin/python examples/digits.py "$@"
