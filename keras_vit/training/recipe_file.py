"""Recipes in files: a run's own `recipe.json`, or a Python file with recipes in it.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

import dataclasses
import json
import pathlib
import runpy

from keras_vit.training.recipe import Recipe
from keras_vit.training.recipe_overrides import check_field


def find_recipe(text):
    """A recipe of a file, or the text itself where it names none.

    Args:
        text: A name of `keras_vit.list_recipes()`, the path of a JSON file with the fields of a
            recipe, or that of a Python file, which is run: `FILE.py` with one `Recipe` in it, or
            `FILE.py:NAME`.

    Returns:
        A `Recipe`, or `text`.

    Raises:
        ValueError: For a file without a recipe, with several and none named, or with objects that
            JSON does not hold.
        OSError: For a file that cannot be read.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        path, name = text, ""
    if path.endswith(".json"):
        return _read_json(pathlib.Path(path))
    return _run_python(pathlib.Path(path), name) if path.endswith(".py") else text


def _read_json(path):
    try:
        fields = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"a recipe must be a JSON object. Received: {path}: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"a recipe must be a JSON object. Received: {path}")
    for field, value in fields.items():
        check_field(field)
        if isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(part, dict) for part in value)
        ):
            raise ValueError(
                f"a recipe in JSON holds names and numbers. Received: an object as `{field}` in "
                f"{path}; write the recipe into a Python file"
            )
    return Recipe(**fields)


def _run_python(path, name):
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    values = runpy.run_path(str(path))
    recipes = {key: value for key, value in values.items() if isinstance(value, Recipe)}
    if name:
        recipes = {key: value for key, value in recipes.items() if key == name}
    if len(recipes) != 1:
        raise ValueError(
            f"a file must have one recipe, or its name after a colon. Received: {path} with "
            f"{', '.join(recipes) or 'none'}" + (f" of the name {name!r}" if name else "")
        )
    (recipe,) = recipes.values()
    return dataclasses.replace(recipe)
