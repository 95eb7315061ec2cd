"""`keras-vit reproduce`: a table or figure of the paper, planned, run and compared."""

import pathlib

from absl import flags

from keras_vit.cli import output, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "do the experiment behind a table or figure of the paper, and compare the numbers"
USAGE = "keras-vit reproduce TABLE_OR_FIGURE (--plan | --workdir=DIR) [FLAGS]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_list(
        "models",
        None,
        "the rows: names of the paper such as ViT-B/16, and sources of models of your own "
        "(default: all of the paper's)",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "plan",
        False,
        "say what would run: models, files to fetch, data sets, steps, exaFLOPs, hours, disk",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "teraflops",
        100.0,
        "what the hours of the plan are for, 10^12 operations a second",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "scale",
        "full",
        ["full", "small", "tiny"],
        "tiny does the same runs with tiny models on the digits, in minutes; small does those of "
        "table8, figure8, figure9 and figure13 with small models on Fashion-MNIST, three seeds",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the runs and of results.txt, .csv, .json and .html; what is finished in it is "
        "not repeated",
        flag_values=flag_values,
    )
    training_flags.define_data(flag_values)
    flags.DEFINE_boolean("json", False, "print the results as JSON", flag_values=flag_values)


def run(flag_values, arguments):
    """Prints the plan, or does the runs and prints the table."""
    if len(arguments) != 1:
        raise UsageError(
            f"reproduce takes one table or figure. Received: {' '.join(arguments) or 'none'}; "
            "table2, table5 to table9, figure3 to figure5, figure8, figure9, figure13 or vtab"
        )
    if not flag_values.plan and flag_values.workdir is None:
        raise UsageError("reproduce needs --workdir, or --plan to do nothing yet")
    if flag_values.workdir is not None:
        output.check_writable_folder(flag_values.workdir)

    from absl import logging

    from keras_vit.paper.reproduce import reproduce

    logging.set_verbosity(logging.INFO)
    result = reproduce(
        arguments[0],
        models=flag_values.models,
        plan=flag_values.plan,
        scale=flag_values.scale,
        workdir=flag_values.workdir,
        teraflops=flag_values.teraflops,
        data_dir=flag_values.data_dir,
        download=flag_values.download,
    )
    if flag_values.json and not flag_values.plan:
        print(result.to_json())
        return
    print(result)
    if not flag_values.plan:
        print(f"written to {pathlib.Path(flag_values.workdir) / 'results.{txt,csv,json,html}'}")
