"""Ctrl-C and SIGTERM at any moment end the command in order, also during imports."""

import _thread
import contextlib
import os
import signal
import sys
import threading

from keras_vit.cli import native_words, streams
from keras_vit.cli.errors import INTERRUPTED, TERMINATED

_RETRY_SECONDS = 0.05
# What has another handler is left to that.
_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextlib.contextmanager
def delivered_in_order():
    """Raises KeyboardInterrupt, or SystemExit after SIGTERM, where it ends the command.

    During an import it waits until that is done: an exception out of the initialisation of an
    extension module crashes some of them (jaxlib, which TensorFlow imports, with a segmentation
    fault).  Another Ctrl-C ends such a process at once.  Where Python would drop the exception, in
    callbacks and finalizers, it is raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler()
    unraisable_hook = sys.unraisablehook
    ours = [number for number, usual in _USUAL.items() if signal.getsignal(number) == usual]
    for number in ours:
        signal.signal(number, handler)
    sys.unraisablehook = handler.unraisable
    try:
        yield
    finally:
        sys.unraisablehook = unraisable_hook
        for number in ours:
            signal.signal(number, _USUAL[number])


class _Handler:
    def __init__(self):
        self._waiting = False

    def __call__(self, signal_number, frame):
        if not _is_importing(frame):
            if signal_number == signal.SIGTERM:
                raise SystemExit(TERMINATED)
            signal.default_int_handler(signal_number, frame)
        if self._waiting:
            streams.say("interrupted")
            native_words.say_farewell()
            os._exit(TERMINATED if signal_number == signal.SIGTERM else INTERRUPTED)
        self._waiting = True
        self._retry(signal_number)

    def unraisable(self, unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._retry(signal.SIGINT)
        elif issubclass(unraisable.exc_type, SystemExit):
            self._retry(signal.SIGTERM)
        else:
            sys.__unraisablehook__(unraisable)

    def _retry(self, signal_number):
        def interrupt():
            self._waiting = False
            _thread.interrupt_main(signal_number)

        timer = threading.Timer(_RETRY_SECONDS, interrupt)
        timer.daemon = True
        timer.start()


def _is_importing(frame):
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
