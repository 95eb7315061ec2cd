"""SIGTERM and Ctrl-C during a training: noted at once, acted upon where the state is whole."""

import inspect
import signal
import threading

from keras_vit.distribution.workers import of_all

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalWatch:
    """Notes the signals that end a training, for as long as `model.fit` runs.

    A second one ends the process without waiting.  What was there before handles them again after
    `remove`, and also if `fit` was left by an exception, of which no callback is told.

    Args:
        model: whose `fit` it is.
        act_now: called with no arguments as soon as a signal is noted; it may raise.
    """

    def __init__(self, model, act_now):
        self.received = None
        self._fit = inspect.unwrap(type(model).fit).__code__
        self._act_now = act_now
        self._before = {}

    def install(self):
        """Does nothing outside the main thread, the only one in which Python allows it."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            # Left there by a `fit` that failed.
            stale = getattr(signal.getsignal(number), "__self__", None)
            if isinstance(stale, SignalWatch):
                stale.remove()
            # A shell's background job ignores Ctrl-C, and goes on to do so.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    @property
    def is_installed(self):
        return bool(self._before)

    def remove(self):
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        self._before = {}

    def leave(self, with_all=False):
        """Ends the process as the signal that was received means it.

        Args:
            with_all: whether all workers do so now.

        Raises:
            SystemExit: with 143 after SIGTERM.
            KeyboardInterrupt: after SIGINT.
        """
        self.remove()
        if self.received == signal.SIGTERM:
            error = SystemExit(128 + signal.SIGTERM)
        else:
            error = KeyboardInterrupt()
        raise of_all(error) if with_all else error

    def _handle(self, number, frame):
        codes = list(_codes(frame))
        if self._fit not in codes:
            self.remove()
            signal.raise_signal(number)
            return
        if self.received is not None:
            self.leave()
        self.received = signal.Signals(number)
        # An exception in the middle of an import would leave half a module behind.
        if not any(code.co_filename.startswith("<frozen importlib") for code in codes):
            self._act_now()


def _codes(frame):
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def take_back_sigterm():
    """Installs the handler of SIGTERM again that Python believes in.

    Several workers' TensorFlow or JAX has put its own in that place, which notes that the machine
    will be taken away, and leaves the process as it is.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
