"""stdout and stderr: what people and programs read, without what libraries say to themselves."""

import contextlib
import faulthandler
import logging
import os
import sys
import warnings

from absl import logging as absl_logging

from keras_vit.cli import native_words
from keras_vit.cli.errors import PACKAGE_FOLDER, CommandError
from keras_vit.untrusted import printable

_STDERR = 2
_MAX_MESSAGE = 8_000


def check():
    """Makes both streams fit for any text.

    Raises:
        CommandError: if stdout is closed: the next file that is opened would get its number, and
            what is printed.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise CommandError("standard output is closed; redirect it to /dev/null instead")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name need not be valid text
            stream.reconfigure(errors="backslashreplace")


def say(message):
    """Writes one line to stderr, whatever names of files and classes are in it."""
    with contextlib.suppress(OSError):
        print(f"keras-vit: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(message):
    """A message in one line that a terminal only prints, cut where it is very long."""
    return printable(" ".join(str(message).split()), _MAX_MESSAGE)


def abandon_broken_stdout():
    """Lets the interpreter shut down without a word about output that nobody can read."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def quiet_libraries(debug):
    """Keeps other libraries' notes off stderr; those of keras_vit come with the command's name.

    Args:
        debug: lets everything pass.
    """
    if debug:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_python(), _quiet_native_code():
        yield


@contextlib.contextmanager
def _quiet_python():
    # By way of absl: a logger of that name made before absl is imported would not find its callers.
    absl_logger = absl_logging.get_absl_logger()
    tensorflow_logger = logging.getLogger("tensorflow")
    tensorflow_level = tensorflow_logger.level
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("keras-vit: %(message)s"))
    absl_logger.addFilter(_is_ours)
    absl_logger.addHandler(handler)
    propagates, absl_logger.propagate = absl_logger.propagate, False
    tensorflow_logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        absl_logger.removeFilter(_is_ours)
        absl_logger.removeHandler(handler)
        absl_logger.propagate = propagates
        tensorflow_logger.setLevel(tensorflow_level)


class _ToStderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is at that moment."""

    def format(self, record):
        return one_line(super().format(record))

    def emit(self, record):
        self.stream = sys.stderr
        super().emit(record)


def _is_ours(record):
    return record.pathname.startswith(PACKAGE_FOLDER)


@contextlib.contextmanager
def _quiet_native_code():
    """Python keeps the terminal, and native code, which writes to the descriptor, loses it.

    TensorFlow logs to it while it is imported, whatever TF_CPP_MIN_LOG_LEVEL is.  A crash of native
    code still shows, as Python's own report and with its last words (`native_words`).  One of
    several processes of JAX keeps it: that is where JAX says why it ends the process when another
    one is lost.
    """
    is_jax = os.environ.get("KERAS_BACKEND") == "jax"
    is_one_of_several = is_jax and os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1") != "1"
    if is_one_of_several or not _is_descriptor_2(sys.stderr):
        yield
        return
    python_stderr = sys.stderr
    python_stderr.flush()
    terminal = os.dup(_STDERR)
    sys.stderr = open(  # noqa: SIM115
        terminal, "w", encoding=python_stderr.encoding, errors="backslashreplace", buffering=1
    )
    stack = contextlib.ExitStack()
    try:
        descriptor = stack.enter_context(_sink())
        os.dup2(descriptor, _STDERR)
        faulthandler.enable(sys.stderr)
        yield
    finally:
        faulthandler.disable()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os.dup2(terminal, _STDERR)
        with contextlib.suppress(OSError):
            sys.stderr.close()
        sys.stderr = python_stderr
        stack.close()


@contextlib.contextmanager
def _sink():
    """A descriptor that takes what native code writes, and keeps the end of it where it can."""
    if os.name == "posix":
        with native_words.kept_words() as descriptor:
            yield descriptor
    else:
        with open(os.devnull, "wb") as nowhere:
            yield nowhere.fileno()


def _is_descriptor_2(stream):
    try:
        return stream.fileno() == _STDERR
    except (OSError, ValueError, AttributeError):
        return False
