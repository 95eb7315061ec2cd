"""Ctrl-C waits for an import, and is not lost where Python drops exceptions."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
sys.argv = ["keras-vit"]
from keras_vit.cli.interrupts import delivered_in_order
try:
    with delivered_in_order():
        {body}
        time.sleep(5)
except (KeyboardInterrupt, SystemExit):
    sys.exit("slow" not in sys.modules or not sys.modules["slow"].DONE)
sys.exit(2)
"""
SLOW = (
    "import time\nDONE = False\nend = time.time() + 1\nwhile time.time() < end: time.sleep(0.01)\n"
)

IN_IMPORT = """threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        import slow"""
IN_FINALIZER = """import slow
        class Finalized:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000): pass
        Finalized()"""


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("body", "slow"), [(IN_IMPORT, SLOW), (IN_FINALIZER, "")])
def test_interrupt_waits_for_the_import_and_is_not_lost(body, slow, signal, tmp_path):
    (tmp_path / "slow.py").write_text(f"{slow}DONE = True\n")
    program = PROGRAM.format(body=body.replace("SIGINT", signal))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(filter(None, sys.path))}"},
    )
    assert (done.returncode, done.stderr) == (0, "")
