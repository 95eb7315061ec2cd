#!/usr/bin/env bash
# Installs what the tests need into a virtual environment of its own and runs them:
# all on the TensorFlow backend, and what does not need TensorFlow on the JAX backend.
#
#   bash tools/test.sh             the whole suite but for the tests marked slow
#   bash tools/test.sh --nightly   the slow ones as well
#
# VENV names another environment (default: .venv-test); PYTHON the interpreter that makes it.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv-test}
marker="not slow"
[ "${1:-}" = "--nightly" ] && marker="slow or not slow"

if [ ! -x "$venv/bin/python" ]; then
  echo "making the virtual environment $venv"
  "${PYTHON:-python3}" -m venv "$venv"
fi
echo "installing keras_vit and what its tests need (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[test]'

export TF_CPP_MIN_LOG_LEVEL=3
# Two at once, since each keeps about one core busy: the JAX backend and then a part of the tests on
# TensorFlow; and the rest of these.
part="tests/analysis tests/checkpoints tests/data tests/evaluators tests/layers tests/models tests/paper"
{
  status=0
  echo "JAX backend:"
  # Small models are compiled for longer than they compute.
  XLA_FLAGS=--xla_backend_optimization_level=0 KERAS_BACKEND=jax "$venv/bin/python" -m pytest -q -m "$marker" -p no:cacheprovider \
    tests/layers tests/models tests/checkpoints/formats tests/train_step tests/zoo/test_loading.py \
    tests/distribution/test_{jax_processes,strategy}.py \
    tests/training/test_{losses,not_finite,official_finetuning,optimizers}.py \
    tests/training/test_{recipe_table,schedules}.py \
    tests/training/objectives/test_segmentation.py::test_a_killed_run_ends_with_the_same_bits || status=$?
  echo "TensorFlow backend, $part:"
  KERAS_BACKEND=tensorflow "$venv/bin/python" -m pytest -q -m "$marker" -p no:cacheprovider \
    --durations=15 $part || status=$?
  exit $status
} > "$venv/background.log" 2>&1 &
background=$!
status=0
echo "TensorFlow backend, but for $part:"
KERAS_BACKEND=tensorflow "$venv/bin/python" -m pytest -q -m "$marker" --durations=15 tests \
  ${part//tests/--ignore=tests} || status=$?
wait $background || status=$?
cat "$venv/background.log"
exit $status
