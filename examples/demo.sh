#!/usr/bin/env bash
# The whole story on real images, from a fresh checkout:
#
#   bash examples/demo.sh [flags of digits.py; paths are relative to the repository]
#
# PYTHON names the interpreter that makes the virtual environment .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if [[ ! -x .venv/bin/python ]]; then
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "demo.sh: Python 3.11 or newer is needed; set PYTHON to its path" >&2
    exit 1
  fi
  echo "Making the virtual environment .venv ..."
  "$python" -m venv .venv
fi
installed=.venv/keras_vit_installed
if [[ ! $installed -nt setup.cfg ]]; then
  echo "Installing keras_vit and what it needs, TensorFlow among them (a few minutes) ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
  touch "$installed"
fi
exec .venv/bin/python examples/digits.py "$@"
