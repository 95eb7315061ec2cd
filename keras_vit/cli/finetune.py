"""`keras-vit finetune`: a pre-trained model on another data set."""

from absl import flags

from keras_vit.cli import output, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "train a pre-trained model on another data set, at another resolution if asked to"
USAGE = "keras-vit finetune --model=SOURCE --dataset=NAME --workdir=DIR [FLAGS]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "model",
        None,
        "a .keras file, an official checkpoint, the folder of a training run, or a name of "
        "`keras-vit models --checkpoints`",
        required=True,
        flag_values=flag_values,
    )
    training_flags.define(flag_values, recipe="digits_finetune")
    flags.DEFINE_integer(
        "image_size",
        None,
        "height and width in pixels, instead of the recipe's; positions are interpolated",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "sweep",
        False,
        "train with each of the recipe's `learning_rates`, and finally with the one that is best "
        "on the validation split",
        flag_values=flag_values,
    )


def run(flag_values, arguments):
    """Trains, and prints the metrics and where the run is."""
    if arguments:
        raise UsageError(f"finetune takes flags only. Received: {' '.join(arguments)}")
    keywords = training_flags.arguments(flag_values)
    if flag_values.image_size is not None:
        if "image_size" in keywords:
            raise UsageError("finetune takes --image_size or --set=image_size=..., not both")
        keywords["image_size"] = flag_values.image_size

    from absl import logging

    logging.set_verbosity(logging.INFO)
    keywords["strategy"] = training_flags.placement(flag_values)
    dataset = flag_values.dataset or "the data set of the recipe"
    title = f"fine-tuned {flag_values.model} on {dataset}"
    sources = (flag_values.model, flag_values.dataset, flag_values.workdir)
    if not flag_values.sweep:
        from keras_vit.training.run import finetune

        training_flags.print_result(title, finetune(*sources, **keywords), flag_values.json)
        return

    from keras_vit.training.sweep import sweep

    for flag in ("shots", "train_split"):
        if flag_values[flag].present:
            raise UsageError(f"finetune takes --sweep or --{flag}, not both")
        del keywords[flag]
    result = sweep(*sources, **keywords)
    if not flag_values.json:
        output.print_table(
            [
                {**row, "chosen": "*" * (row["learning_rate"] == result.learning_rate)}
                for row in result.candidates
            ]
        )
    training_flags.print_result(title, result.final, flag_values.json)
