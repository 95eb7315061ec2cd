"""When native code ends the process its last words are shown; else they are noise and gone."""

import signal
import subprocess
import sys

import pytest

CHILD = """
import os, signal, sys
sys.argv = ["keras-vit"]  # as the command, without TensorFlow
from keras_vit.cli import streams
with streams.quiet_libraries(False):
    os.write(2, b"noise\\n" * 20_000)
    os.write(2, b"terminate called after throwing 'std::bad_alloc' \\x1b[2J\\n")
    {ending}
print("done")
"""


def run(ending):
    return subprocess.run(
        [sys.executable, "-c", CHILD.format(ending=ending)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_words_of_a_process_that_ends_well_are_gone():
    done = run("pass")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os._exit(127)", 127),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_words_of_a_process_that_dies_are_shown_in_one_line(ending, code):
    done = run(ending)
    assert done.returncode == code
    line = next(line for line in done.stderr.splitlines() if line.startswith("keras-vit: error:"))
    assert line.endswith("terminate called after throwing 'std::bad_alloc' [2J")
    assert line.isprintable()
