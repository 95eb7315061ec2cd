"""The flags of one subcommand, on absl, in a `FlagValues` of its own.

Never absl's global FLAGS: the libraries that a subcommand imports define theirs there.
"""

import re
import textwrap

from absl import flags

from keras_vit.cli.errors import UsageError
from keras_vit.names import did_you_mean

_HELP_WIDTH = 96
_HELP_INDENT = 8
_REQUIRED = re.compile(r"Flag (--\S+) must have a value other than None")
_ILL_TYPED = (
    (r"invalid literal for int\(\).*", "an integer is expected"),
    (r"could not convert string to float.*", "a number is expected"),
    (r"Non-boolean argument to boolean flag.*", "true or false is expected"),
)
_VALUE_NAMES = {
    "int": "INTEGER",
    "float": "NUMBER",
    "string": "TEXT",
    "comma separated list of strings": "A,B,...",
    "multi string": "TEXT",
}


def make_flag_values(command):
    """Returns the unparsed flags of a subcommand.

    Args:
        command: a module with the subcommand protocol of `keras_vit.cli.main`.
    """
    flag_values = flags.FlagValues()
    flag_values.set_gnu_getopt(True)
    command.define_flags(flag_values)
    flags.DEFINE_boolean("debug", False, "show the traceback of an error", flag_values=flag_values)
    flags.DEFINE_boolean("help", False, "show this help", short_name="h", flag_values=flag_values)
    return flag_values


def wants_help(arguments):
    """Whether help is asked for; it is given even where other flags are wrong or missing."""
    before_paths = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(argument in ("--help", "-h", "-help") for argument in before_paths)


def parse(flag_values, arguments, name):
    """Parses the flags in place.

    Args:
        flag_values: from `make_flag_values`.
        arguments: what follows the subcommand's name.  `--batch-size` is read as `--batch_size`.
        name: of the subcommand, for messages.

    Returns:
        The arguments that are no flags.

    Raises:
        UsageError: for an unknown flag, an ill-typed value or a missing required flag.
    """
    try:
        return flag_values([name, *(_underscored(a, flag_values) for a in arguments)])[1:]
    except flags.UnrecognizedFlagError as error:
        known = [f"--{flag}" for flag in flag_values]
        raise UsageError(
            f"{name} has no flag --{error.flagname}; {did_you_mean(f'--{error.flagname}', known)}"
        ) from error
    except (flags.Error, ValueError) as error:
        missing = _REQUIRED.search(str(error))
        message = f"{name} needs {missing.group(1)}" if missing else str(error)
        for pattern, rule in _ILL_TYPED:
            message = re.sub(pattern, rule, message)
        raise UsageError(f"{message}; see `keras-vit {name} --help`") from error


def _underscored(argument, flag_values):
    flag, equals, value = argument.partition("=")
    underscored = flag[2:].replace("-", "_")
    if flag.startswith("--") and flag[2:] not in flag_values and underscored in flag_values:
        return f"--{underscored}{equals}{value}"
    return argument


def help_text(command, flag_values):
    """Usage, summary, and every flag with its type, default and meaning."""
    lines = [f"usage: {command.USAGE}", "", command.SUMMARY, "", "flags:"]
    # A short name is a second entry of the same flag.
    for flag in dict.fromkeys(flag_values[name] for name in flag_values):
        lines += _flag_lines(flag)
    return "\n".join(lines)


def _flag_lines(flag):
    short = f" (-{flag.short_name})" if flag.short_name else ""
    if flag.boolean:
        head = f"  --[no]{flag.name}" if flag.default else f"  --{flag.name}"
    elif getattr(flag.parser, "enum_values", None):
        head = f"  --{flag.name}={'|'.join(map(str, flag.parser.enum_values))}"
    else:
        head = f"  --{flag.name}={_VALUE_NAMES.get(flag.flag_type(), flag.flag_type().upper())}"
    # absl writes the choices of an enum before its meaning; they are in the head already.
    meaning = re.sub(r"^<[^>]*>: ", "", flag.help)
    default = "" if flag.default in (None, False) else f" (default: {flag.default})"
    indent = " " * _HELP_INDENT
    wrapped = textwrap.wrap(
        meaning + default, _HELP_WIDTH, initial_indent=indent, subsequent_indent=indent
    )
    return [head + short, *wrapped]
