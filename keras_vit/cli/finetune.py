"""`keras-vit finetune`: a pre-trained model on another data set."""

import os
import pathlib
import re

from absl import flags

from keras_vit.cli import output, training_flags
from keras_vit.cli.errors import UsageError
from keras_vit.training.recipe_rules import default_recipe

SUMMARY = "train a pre-trained model on another data set, at another resolution if asked to"
USAGE = "keras-vit finetune --dataset=NAME [--model=SOURCE] [--workdir=DIR] [FLAGS]"

# Whether there is an accelerator -> the checkpoint that is taken where none is named.
MODELS = {True: "imagenet21k/ViT-B_16", False: "augreg/Ti_16"}


def define_flags(flag_values):
    """Defines the flags of this command."""
    training_flags.define_model(
        flag_values,
        f"; without, {MODELS[True]} on an accelerator and {MODELS[False]} on a processor",
    )
    training_flags.define(flag_values, recipe=None, workdir="runs/NAME-OF-THE-DATA-SET")
    flags.DEFINE_integer(
        "image_size",
        None,
        "height and width in pixels, instead of the recipe's; positions are interpolated",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "tune",
        None,
        "what is trained, instead of the recipe's: all, head, last:N blocks, norms, bias, or lora:R"
        " (adapters of rank R, of which the run has a file for PEFT too)",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "layer_decay",
        None,
        "factor of the learning rate from each block to the one before it, instead of the "
        "recipe's, 0.75 for example",
        lower_bound=0.0,
        upper_bound=1.0,
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
    for field in ("image_size", "tune", "layer_decay"):
        if flag_values[field].value is None:
            continue
        if field in keywords:
            raise UsageError(f"finetune takes --{field} or --set={field}=..., not both")
        keywords[field] = flag_values[field].value

    from absl import logging

    logging.set_verbosity(logging.INFO)
    keywords["strategy"] = training_flags.placement(flag_values)
    dataset = flag_values.dataset or "the data set of the recipe"
    model = flag_values.model or _default_model()
    title = f"fine-tuned {model} on {dataset}"
    sources = (model, flag_values.dataset, _workdir(flag_values))
    if not flag_values.sweep:
        from keras_vit.training.run import finetune

        training_flags.print_result(title, finetune(*sources, **keywords), flag_values.json)
        return

    from keras_vit.training.sweep import sweep

    for flag in ("shots", "train_split"):
        if flag_values[flag].present:
            raise UsageError(f"finetune takes --sweep or --{flag}, not both")
        del keywords[flag]
    for name in ("report", "tensorboard", "measure_input_wait"):
        del keywords[name]
    keywords["recipe"] = keywords["recipe"] or default_recipe(
        flag_values.dataset, keywords.get("objective")
    )
    result = sweep(*sources, **keywords)
    if not flag_values.json:
        output.print_table(
            [
                {**row, "chosen": "*" * (row["learning_rate"] == result.learning_rate)}
                for row in result.candidates
            ]
        )
    training_flags.print_result(title, result.final, flag_values.json)


def _default_model():
    from absl import logging

    from keras_vit.distribution.strategy import has_accelerator

    model = MODELS[has_accelerator()]
    logging.info("no --model: %s is taken", model)
    return model


def _workdir(flag_values):
    """That of the flag, or `runs/` and the data set's name."""
    if flag_values.workdir is not None:
        return flag_values.workdir
    if not flag_values.dataset:
        raise UsageError("finetune needs --workdir or --dataset")
    name = pathlib.PurePath(os.path.abspath(flag_values.dataset)).stem
    return os.path.join("runs", re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run")
