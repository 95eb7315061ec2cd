"""`keras-vit`: finds the subcommand, parses its flags, and gives every outcome its exit code.

Imports nothing but the standard library and absl.flags, so that help and wrong flags are answered
at once.  A subcommand is a module with

    SUMMARY: str                                       one line
    USAGE: str                                         "keras-vit NAME ..."
    define_flags(flag_values: absl.flags.FlagValues)   its flags
    run(flags, arguments: list[str]) -> int | None     the work; None is success

which imports the heavy libraries inside `run`, and raises `UsageError`, `CommandError`, or lets the
library's own errors pass (`keras_vit.cli.errors` decides what they mean).
"""

import importlib
import os
import sys
import traceback

from keras_vit.cli import errors, flags, interrupts, streams
from keras_vit.cli.errors import CommandError, UsageError
from keras_vit.names import did_you_mean
from keras_vit.version import __version__

BACKENDS = ("tensorflow", "jax", "torch")
COMMANDS = {
    "pretrain": "keras_vit.cli.pretrain",
    "finetune": "keras_vit.cli.finetune",
    "evaluate": "keras_vit.cli.evaluate",
    "calibrate": "keras_vit.cli.calibrate",
    "probe": "keras_vit.cli.probe",
    "reproduce": "keras_vit.cli.reproduce",
    "predict": "keras_vit.cli.predict",
    "features": "keras_vit.cli.features",
    "export": "keras_vit.cli.export",
    "convert": "keras_vit.cli.convert",
    "inspect": "keras_vit.cli.inspect",
    "models": "keras_vit.cli.models",
    "validate": "keras_vit.cli.validate",
    "benchmark": "keras_vit.cli.benchmark",
    "recipes": "keras_vit.cli.recipes",
    "datasets": "keras_vit.cli.datasets",
}


def main(argv=None):
    """Runs the command.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code, see `keras_vit.cli.errors`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        streams.check()
        with streams.quiet_libraries(debug), interrupts.delivered_in_order():
            code = _dispatch(arguments)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, message = errors.exit_code_and_message(error)
        if message:
            streams.say(message if code == errors.INTERRUPTED else f"error: {message}")
        streams.abandon_broken_stdout()
    return errors.SUCCESS if code is None else code


def _dispatch(arguments):
    arguments = _without_leading_debug(arguments)
    if not arguments:
        raise UsageError(f"a command is needed, one of {', '.join(COMMANDS)}; see keras-vit --help")
    name, *arguments = arguments
    if name in ("--help", "-h", "-help", "help"):
        print(_overview())
        return errors.SUCCESS
    if name == "--version":
        print(f"keras-vit {__version__}")
        return errors.SUCCESS
    if name.startswith("-"):
        raise UsageError(f"flags come after the command. Received: {name}; see keras-vit --help")
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}; {did_you_mean(name, COMMANDS)}")
    command = importlib.import_module(COMMANDS[name])
    flag_values = flags.make_flag_values(command)
    if flags.wants_help(arguments):
        print(flags.help_text(command, flag_values))
        return errors.SUCCESS
    parsed = flags.parse(flag_values, arguments, name)
    _check_backend()
    return command.run(flag_values, parsed)


def _without_leading_debug(arguments):
    return _without_leading_debug(arguments[1:]) if arguments[:1] == ["--debug"] else arguments


def _check_backend():
    backend = os.environ.get("KERAS_BACKEND", "")
    if backend and backend not in BACKENDS:
        raise CommandError(
            f"the environment's KERAS_BACKEND must be one of {', '.join(BACKENDS)}. Received: "
            f"{backend!r}; unset it for tensorflow"
        )


def _overview():
    width = max(map(len, COMMANDS))
    lines = ["usage: keras-vit COMMAND [FLAGS] [ARGUMENTS]", "", "commands:"]
    for name, module in COMMANDS.items():
        lines.append(f"  {name:{width}}  {importlib.import_module(module).SUMMARY}")
    lines += ["", "keras-vit COMMAND --help shows the flags of a command; --version the version."]
    return "\n".join(lines)
