"""How every way out of the command becomes an exit code and one line on stderr.

`exit_code_and_message` is the one place where this is decided; docs/cli.md shows it as a table.
"""

import dis
import os
import pathlib
import re
import sys

SUCCESS = 0
FAILURE = 1  # foreseen: files, folders, checkpoints, images, permissions, memory
USAGE = 2  # what was asked for makes no sense: flags, names, values
FAULT = 70  # ours (EX_SOFTWARE of sysexits.h)
INTERRUPTED = 130  # 128 + SIGINT
CLOSED_STDOUT = 141  # 128 + SIGPIPE
TERMINATED = 143  # 128 + SIGTERM

_JAX_ERRORS = ("XlaRuntimeError", "JaxRuntimeError")
PACKAGE_FOLDER = str(pathlib.Path(__file__).resolve().parents[1]) + os.sep
_FAILED_ASSERTION = re.compile(r"""assertion failed: \[(?:b?['"])?(.*?)['"]?\]\s*(?:\n|$)""", re.S)


class UsageError(Exception):
    """The command line itself is wrong; says what to do instead."""


class CommandError(Exception):
    """Something outside the program keeps the command from its work; says what."""


def raised_by_us(error):
    """Whether a `raise` statement of keras_vit raised `error`.

    The library raises ValueError and TypeError with words for users.  The same classes out of other
    libraries, or out of an operation such as unpacking, are mistakes that no user can mend.
    """
    innermost = error.__traceback__
    if innermost is None:
        return False
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code
    operation = dis.opname[code.co_code[innermost.tb_lasti]]
    return code.co_filename.startswith(PACKAGE_FOLDER) and operation == "RAISE_VARARGS"


def _os_error_message(error):
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _tensorflow_failure(error):
    """What the outside world did to an operation of TensorFlow, or None."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return None
    if raised_by_us(error):
        return error.message
    # A `tf.debugging.Assert` of the pipelines and signatures: its text names the file.
    if isinstance(error, tensorflow.errors.InvalidArgumentError):
        assertion = _FAILED_ASSERTION.search(error.message)
        return assertion.group(1) if assertion else None
    foreseen = (
        tensorflow.errors.NotFoundError,
        tensorflow.errors.PermissionDeniedError,
        tensorflow.errors.ResourceExhaustedError,
        tensorflow.errors.DataLossError,
    )
    return error.message if isinstance(error, foreseen) else None


def exit_code_and_message(error):
    """Decides what an exception means for the user.

    Args:
        error: any exception that reached the command.

    Returns:
        (exit code, what to say on stderr); the message is empty where nothing is to be said.
    """
    if isinstance(error, BrokenPipeError):
        return CLOSED_STDOUT, ""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, UsageError):
        return USAGE, str(error)
    if isinstance(error, CommandError):
        return FAILURE, str(error)
    if isinstance(error, OSError):
        return FAILURE, _os_error_message(error)
    if isinstance(error, MemoryError):
        return FAILURE, f"out of memory: {error}" if str(error) else "out of memory"
    if isinstance(error, RecursionError):
        return FAILURE, "a file or a folder is nested too deep; move it out of that many folders"
    if type(error).__name__ in _JAX_ERRORS and "RESOURCE_EXHAUSTED" in str(error):
        return FAILURE, f"out of memory: {error}"
    if isinstance(error, ValueError | TypeError | RuntimeError | ImportError) and raised_by_us(
        error
    ):
        # Plain ones are about an argument; a class of its own (CheckpointError) is about a file.
        return USAGE if type(error) in (ValueError, TypeError) else FAILURE, str(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("keras_vit"):
        return FAILURE, f"the Python package {error.name!r} is needed and not installed"
    message = _tensorflow_failure(error)
    if message is not None:
        return FAILURE, message
    description = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    advice = "a bug in keras-vit, please report it; --debug shows where"
    return FAULT, f"unexpected {description} ({advice})"
