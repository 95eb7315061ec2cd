"""Ctrl-C at any moment ends the command in order, also while libraries are being imported."""

import _thread
import contextlib
import os
import signal
import sys
import threading

from keras_vit.cli import streams
from keras_vit.cli.errors import INTERRUPTED

_RETRY_SECONDS = 0.05


@contextlib.contextmanager
def delivered_in_order():
    """Raises KeyboardInterrupt where it ends the command, and nowhere else.

    During an import it waits until that is done: an exception out of the initialisation of an
    extension module crashes some of them (jaxlib, which TensorFlow imports, with a segmentation
    fault).  Another Ctrl-C ends such a process at once.  Where Python would drop the exception, in
    callbacks and finalizers, it is raised again.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    handler = _Handler()
    unraisable_hook = sys.unraisablehook
    signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = handler.unraisable
    try:
        yield
    finally:
        sys.unraisablehook = unraisable_hook
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Handler:
    def __init__(self):
        self._waiting = False

    def __call__(self, signal_number, frame):
        if not _is_importing(frame):
            signal.default_int_handler(signal_number, frame)
        if self._waiting:
            streams.say("interrupted")
            os._exit(INTERRUPTED)
        self._waiting = True
        self._retry()

    def unraisable(self, unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._retry()
        else:
            sys.__unraisablehook__(unraisable)

    def _retry(self):
        def interrupt():
            self._waiting = False
            _thread.interrupt_main()

        timer = threading.Timer(_RETRY_SECONDS, interrupt)
        timer.daemon = True
        timer.start()


def _is_importing(frame):
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
