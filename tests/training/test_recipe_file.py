import json

import pytest

from keras_vit.training.recipe import Recipe
from keras_vit.training.recipe_file import find_recipe
from keras_vit.training.recipe_table import get_recipe

RECIPES = """
from keras_vit.training.recipe import Recipe

short = Recipe(steps=2, learning_rate=0.5)
{more}
"""


def test_a_run_s_own_recipe_is_read_back(tmp_path):
    recipe = Recipe(steps=3, image_size=(8, 12), learning_rates=(0.1, 0.2))
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.describe()))
    assert find_recipe(str(tmp_path / "recipe.json")) == recipe
    assert get_recipe(tmp_path / "recipe.json", steps=4).steps == 4


def test_a_python_file_has_one_recipe_or_names_it(tmp_path):
    path = tmp_path / "recipes.py"
    path.write_text(RECIPES.format(more=""))
    assert find_recipe(str(path)) == Recipe(steps=2, learning_rate=0.5)
    path.write_text(RECIPES.format(more="long = Recipe(steps=20)"))
    assert find_recipe(f"{path}:long") == Recipe(steps=20)
    assert get_recipe(f"{path}:long", seed=1) == Recipe(steps=20, seed=1)
    with pytest.raises(ValueError, match="one recipe, or its name .* with short, long"):
        find_recipe(str(path))
    with pytest.raises(ValueError, match="with none of the name 'other'"):
        find_recipe(f"{path}:other")


def test_names_stay_names():
    assert find_recipe("digits_pretrain") == "digits_pretrain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be a JSON object"),
        ("{", "must be a JSON object. Received: .*recipe.json: "),
        ('{"steps": 1, "loss": {"class": "a.B"}}', "an object as `loss`"),
        ('{"stepz": 1}', "no field 'stepz'. Close: steps"),
        ('{"steps": "1"}', "`steps` must be an integer"),
    ],
)
def test_bad_json_is_refused(text, message, tmp_path):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_recipe(str(tmp_path / "recipe.json"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.py"):
        find_recipe(str(tmp_path / "no.py"))
