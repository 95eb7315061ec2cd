"""`keras-vit recipes`: what `--recipe` understands."""

import json

from absl import flags

from keras_vit.cli import output
from keras_vit.cli.errors import UsageError
from keras_vit.names import did_you_mean
from keras_vit.training.recipe_rules import RULES
from keras_vit.training.recipe_table import RECIPES, list_recipes

SUMMARY = "list the recipes that pretrain and finetune follow"
USAGE = "keras-vit recipes [FLAGS] [PATTERN]"

_COLUMNS = ("model", "dataset", "optimizer", "learning_rate", "decay", "batch_size", "image_size")


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_boolean(
        "json", False, "print one JSON object a line, with all fields", flag_values=flag_values
    )


def run(flag_values, arguments):
    """Prints one line for each recipe that the pattern matches."""
    if len(arguments) > 1:
        raise UsageError(f"recipes takes one pattern. Received: {' '.join(arguments)}")
    pattern = arguments[0] if arguments else "*"
    names = list_recipes(pattern)
    if not names:
        raise UsageError(f"no recipe matches {pattern!r}; {did_you_mean(pattern, list_recipes())}")
    if flag_values.json:
        for name in names:
            print(json.dumps({"name": name, **_recipe(name).describe()}))
        return
    output.print_table([_row(name) for name in names])


def _recipe(name):
    # A rule is shown as it is for a data set of middle size.
    return RULES[name](50_000) if name in RULES else RECIPES[name]


def _row(name):
    recipe = _recipe(name)
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
    values = {column: getattr(recipe, column) for column in _COLUMNS}
    if name in RULES:
        length = "by the data set"
        values["image_size"] = None
    elif values["image_size"]:
        values["image_size"] = values["image_size"][0]
    return {"name": name, **values, "length": length, "source": recipe.source}
