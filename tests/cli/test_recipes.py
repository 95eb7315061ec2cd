import json

from keras_vit.training.recipe_table import RECIPES, list_recipes


def test_recipes_lists_every_name(keras_vit_command):
    code, out, err = keras_vit_command("recipes")
    assert (code, err) == (0, "")
    header, *rows = out.splitlines()
    assert header.split()[:3] == ["name", "model", "dataset"]
    assert [row.split()[0] for row in rows] == list_recipes()


def test_recipes_as_json_has_every_field(keras_vit_command):
    code, out, _ = keras_vit_command("recipes", "--json", "table4_*")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["name"] for row in rows] == list_recipes("table4_*")
    assert rows[0]["learning_rates"] == list(RECIPES["table4_imagenet"].learning_rates)


def test_recipes_unknown_pattern_names_close_ones(keras_vit_command):
    code, out, err = keras_vit_command("recipes", "table4_cifra")
    assert (code, out) == (2, "")
    assert "did you mean table4_cifar" in err
