"""What reaches stderr."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("backend", "number", "is_heard"), [("jax", "2", True), ("tensorflow", "2", False)]
)
def test_native_code_is_heard_where_it_says_that_another_process_is_lost(backend, number, is_heard):
    program = (
        "import os, sys\n"
        "from keras_vit.cli import streams\n"
        "with streams.quiet_libraries(debug=False):\n"
        "    os.write(2, b'from native code')\n"
        "    print('python', file=sys.stderr)\n"
    )
    variables = {"KERAS_BACKEND": backend, "KERAS_DISTRIBUTION_NUM_PROCESSES": number}
    result = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, stderr=subprocess.PIPE
    )
    assert (b"from native code" in result.stderr) is is_heard
    assert result.stderr.endswith(b"python\n")
