#!/usr/bin/env bash
# Runs the tutorials and writes them with their outputs: pages in docs/tutorials, with their pictures,
# and notebooks in build/tutorials.
#
#   pip install jupytext nbconvert ipykernel
#   bash tools/tutorials.sh [NAME ...]      all of examples/tutorials, or those named
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- $(basename -s .py examples/tutorials/*.py)
notebooks=build/tutorials
mkdir -p "$notebooks"
export TF_CPP_MIN_LOG_LEVEL=3
for name in "$@"; do
  jupytext --quiet --to ipynb --output "$notebooks/$name.ipynb" "examples/tutorials/$name.py"
  jupyter nbconvert --log-level=ERROR --to notebook --execute --inplace "$notebooks/$name.ipynb"
  # What is said on stderr, such as TensorFlow's greetings, is no part of a page.
  python - "$notebooks/$name.ipynb" <<'PYTHON'
import sys

import nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
for cell in notebook.cells:
    if cell.cell_type == "code":
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
nbformat.write(notebook, sys.argv[1])
PYTHON
  jupyter nbconvert --log-level=ERROR --to markdown --output-dir docs/tutorials "$notebooks/$name.ipynb"
done
