"""`keras-vit pretrain`: a model from random weights."""

from keras_vit.cli import training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "train a model from random weights by a recipe"
USAGE = "keras-vit pretrain --dataset=NAME --workdir=DIR [FLAGS]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    training_flags.define(flag_values, recipe="digits_pretrain")


def run(flag_values, arguments):
    """Trains, and prints the metrics and where the run is."""
    if arguments:
        raise UsageError(f"pretrain takes flags only. Received: {' '.join(arguments)}")
    keywords = training_flags.arguments(flag_values)

    from absl import logging

    from keras_vit.training.run import pretrain

    logging.set_verbosity(logging.INFO)
    keywords["strategy"] = training_flags.placement(flag_values)
    result = pretrain(flag_values.dataset, flag_values.workdir, **keywords)
    dataset = result.metrics["dataset"]
    training_flags.print_result(f"pre-trained on {dataset}", result, flag_values.json)
