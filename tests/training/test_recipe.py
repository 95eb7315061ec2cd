import dataclasses

import pytest

from keras_vit.models import VisionTransformerConfig
from keras_vit.models.fields import names_of
from keras_vit.training.recipe import ARCHITECTURE_FIELDS, Recipe
from keras_vit.training.recipe_overrides import parse_overrides
from keras_vit.training.recipe_table import RECIPES, get_recipe


def test_recipe_values_become_their_fields_types():
    recipe = Recipe(steps=5, learning_rate=1, image_size=24, global_clipnorm=None)
    assert recipe.learning_rate == 1.0
    assert isinstance(recipe.learning_rate, float)
    assert recipe.image_size == (24, 24)
    assert Recipe(steps=5, image_size=[24, 32]).image_size == (24, 32)


def test_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe(steps=5).steps = 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either `steps` or `epochs`. Received: steps=None, epochs=None"),
        ({"steps": 5, "epochs": 2}, "either `steps` or `epochs`"),
        ({"steps": 0}, "`steps` must be positive. Received: 0"),
        ({"steps": 5.0}, "`steps` must be an integer or none. Received: 5.0"),
        ({"steps": True}, "`steps` must be an integer or none. Received: True"),
        ({"steps": 5, "learning_rate": "0.1"}, "`learning_rate` must be a number. Received: '0.1'"),
        ({"steps": 5, "learning_rate": float("nan")}, "`learning_rate` must be a number"),
        ({"steps": 5, "batch_size": None}, "`batch_size` must be an integer. Received: None"),
        ({"steps": 5, "optimizer": "adam"}, "`optimizer` must be one of .*adamw"),
        ({"steps": 5, "decay": "cos"}, "`decay` must be one of"),
        ({"steps": 5, "loss": "hinge"}, "`loss` must be one of"),
        ({"steps": 5, "dtype": "float8"}, "`dtype` must be one of"),
        ({"steps": 5, "dropout": 1.0}, r"`dropout` must be in \[0, 1\). Received: 1.0"),
        ({"steps": 5, "weight_decay": -0.1}, "`weight_decay` must be at least 0"),
        ({"steps": 5, "global_clipnorm": 0}, "`global_clipnorm` must be positive, or none"),
        ({"steps": 5, "seed": 2**31}, "`seed` must be in"),
        ({"steps": 5, "image_size": (1, 2, 3)}, r"`image_size` must be \(height, width\)"),
        ({"steps": 5, "image_size": 0}, "`image_size` must be positive"),
        ({"steps": 5, "class_token": 1}, "`class_token` must be true or false or none"),
        ({"steps": 5, "accumulation_steps": 3}, "multiple of `accumulation_steps`. .* 512 and 3"),
        ({"steps": 5, "decay": "staircase"}, "`boundaries` must be given for the staircase"),
        ({"steps": 5, "boundaries": (1,)}, "`boundaries` must be given for the staircase"),
        ({"steps": 5, "decay": "staircase", "boundaries": (2, 1)}, "`boundaries` must be rising"),
        ({"steps": 5, "learning_rates": ()}, "`learning_rates` must be positive"),
        ({"steps": 5, "learning_rates": 0.1}, "`learning_rates` must be numbers or none"),
        ({"steps": 5, "ema": 1.0}, r"`ema` must be in \[0, 1\)"),
        ({"steps": 5, "momentum_dtype": "float16"}, "`momentum_dtype` must be one of"),
        ({"steps": 5, "warmup_steps": 5}, "`warmup_steps` must be less than `steps`"),
    ],
)
def test_recipe_bad_value_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_num_steps_counts_whole_batches():
    assert Recipe(epochs=3, batch_size=64).num_steps(1000) == 46
    assert Recipe(epochs=0.5, batch_size=10).num_steps(100) == 5
    assert Recipe(steps=7).num_steps(1) == 7


def test_num_steps_refuses_an_empty_training():
    with pytest.raises(ValueError, match="must have examples. Received: 0"):
        Recipe(steps=7).num_steps(0)
    with pytest.raises(ValueError, match="1 epochs of 63 examples .* are 0 steps"):
        Recipe(epochs=1, batch_size=64).num_steps(63)
    with pytest.raises(ValueError, match="are 1 steps, and `warmup_steps` must be less"):
        Recipe(epochs=1, batch_size=64, warmup_steps=1).num_steps(64)


def test_get_recipe_overrides_fields():
    recipe = get_recipe("digits_pretrain", learning_rate=0.5)
    assert recipe == dataclasses.replace(RECIPES["digits_pretrain"], learning_rate=0.5)
    assert get_recipe(recipe) is not recipe
    assert get_recipe(recipe) == recipe
    assert get_recipe(recipe, epochs=2).steps is None
    assert get_recipe("digits_pretrain", steps=90).steps == 90


def test_get_recipe_unknown_name_lists_close_ones():
    with pytest.raises(ValueError, match="no recipe 'digits_pretain'. Close: digits_pretrain"):
        get_recipe("digits_pretain")
    with pytest.raises(ValueError, match="no field 'learning_rat'. Close: learning_rate"):
        get_recipe("digits_pretrain", learning_rat=1.0)


def test_architecture_and_rates_hold_what_is_set():
    recipe = Recipe(steps=1, dropout=0.1, depth=3, class_token=False)
    assert recipe.rates() == {"dropout": 0.1}
    assert recipe.architecture() == {"depth": 3, "class_token": False}
    assert set(ARCHITECTURE_FIELDS) < {field.name for field in dataclasses.fields(Recipe)}
    # What the configuration's fields say of themselves; `recipe` must not import models.
    names = set(names_of(VisionTransformerConfig, "in_recipe")) - {"representation_size"}
    assert set(ARCHITECTURE_FIELDS) == names | {"representation_layer"}


def test_none_is_a_kind_of_positions_and_elsewhere_no_value():
    fields = parse_overrides(["position_embedding=none", "position_location=none"])
    assert fields == {"position_embedding": "none", "position_location": None}
    assert Recipe(steps=1, **fields).architecture() == {"position_embedding": "none"}


def test_parse_overrides_takes_the_fields_types():
    assert parse_overrides(
        [
            "learning_rate=1e-3",
            "steps=20",
            "epochs=none",
            "image_size=24",
            "decay=linear",
            "class_token=False",
        ]
    ) == {
        "learning_rate": 0.001,
        "steps": 20,
        "epochs": None,
        "image_size": (24, 24),
        "decay": "linear",
        "class_token": False,
    }
    assert parse_overrides(["learning_rates=0.1,0.3"]) == {"learning_rates": (0.1, 0.3)}
    assert parse_overrides(["image_size=24, 32"]) == {"image_size": (24, 32)}
    assert parse_overrides([]) == {}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "set as FIELD=VALUE. Received: 'steps'"),
        ("stepz=3", "no field 'stepz'. Close: steps"),
        ("steps=3.5", "`steps` must be an integer or none. Received: '3.5'"),
        ("learning_rate=fast", "`learning_rate` must be a number. Received: 'fast'"),
        ("batch_size=none", "`batch_size` must be an integer. Received: 'none'"),
        ("class_token=1", "`class_token` must be true or false or none. Received: '1'"),
        ("image_size=1,2,3", "`image_size` must be"),
    ],
)
def test_parse_overrides_bad_text_is_refused(assignment, message):
    with pytest.raises(ValueError, match=message):
        parse_overrides([assignment])


def test_parse_overrides_refuses_a_field_twice():
    with pytest.raises(ValueError, match="set once. Received: `steps` twice"):
        parse_overrides(["steps=3", "steps=4"])
