"""`keras-vit finetune`: a pre-trained model on another data set."""

from absl import flags

from keras_vit.cli import training_flags
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

    from keras_vit.training.run import finetune

    logging.set_verbosity(logging.INFO)
    result = finetune(flag_values.model, flag_values.dataset, flag_values.workdir, **keywords)
    training_flags.print_result(
        f"fine-tuned {flag_values.model} on {flag_values.dataset}", result, flag_values.json
    )
