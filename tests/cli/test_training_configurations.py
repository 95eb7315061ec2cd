"""A configuration that makes no sense ends the command before any work, and is named."""

import dataclasses
import random
import time

import pytest

from keras_vit.training.recipe import (
    DECAYED,
    DECAYS,
    DTYPES,
    LOSSES,
    MOMENTUM_DTYPES,
    OPTIMIZERS,
    POSITION_EMBEDDINGS,
    POSITION_LOCATIONS,
    RESIZE_RULES,
    Recipe,
)
from keras_vit.training.recipe_overrides import parse_overrides
from keras_vit.training.recipe_table import list_recipes

NUM_CONFIGURATIONS = 1000
SEED = 0
FIELDS = [field.name for field in dataclasses.fields(Recipe)]
KINDS = {field.name: str(field.type) for field in dataclasses.fields(Recipe)}
CHOICES = {
    "optimizer": OPTIMIZERS,
    "momentum_dtype": MOMENTUM_DTYPES,
    "decay": DECAYS,
    "weight_decay_on": DECAYED,
    "loss": LOSSES,
    "resize": RESIZE_RULES,
    "position_embedding": POSITION_EMBEDDINGS,
    "position_location": POSITION_LOCATIONS,
    "dtype": DTYPES,
}
# What no value of the field may be.
OUT_OF_RANGE = {
    "batch_size": ["0", "-8"],
    "learning_rate": ["0", "-0.1", "nan", "inf"],
    "warmup_steps": ["-1"],
    "label_smoothing": ["1", "-0.1"],
    "dropout": ["1.5", "-1"],
    "stochastic_depth": ["1"],
    "ema": ["1", "-0.5"],
    "global_clipnorm": ["0", "inf"],
    "report_steps": ["0"],
    "seed": ["-1", "4294967296"],
    "image_size": ["0", "16,0"],
    "steps": ["0", "-5"],
    "accumulation_steps": ["0"],
    "hidden_size": ["0"],
    "patch_size": ["0"],
    "num_heads": ["-2"],
}
# Several fields that do not go together, and the one that is named.
IMPOSSIBLE = [
    ({"batch_size": "12", "accumulation_steps": "5"}, "accumulation_steps"),
    ({"steps": "10", "warmup_steps": "10"}, "warmup_steps"),
    ({"steps": "10", "epochs": "3"}, "epochs"),
    ({"boundaries": "3,7"}, "boundaries"),
    ({"decay": "staircase"}, "boundaries"),
    ({"image_size": "17"}, "image_size"),
    ({"hidden_size": "17", "num_heads": "4"}, "num_heads"),
]


def misspelled(name, rng):
    """The name with one letter left out, twice there, or another's place."""
    i = rng.randrange(len(name) - 1)
    return rng.choice(
        [name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:], name[:i] + "q" + name[i + 1 :]]
    )


def bad_configuration(rng):
    """`(assignments, what the message must name)`."""
    kind = rng.choice(["field", "type", "range", "choice", "impossible", "syntax", "twice"])
    if kind == "field":
        field = rng.choice(FIELDS)
        wrong = misspelled(field, rng)
        while wrong in FIELDS:
            wrong = misspelled(field, rng)
        return [f"{wrong}=1"], wrong
    if kind == "type":
        field = rng.choice([f for f, t in KINDS.items() if t.startswith(("int", "float", "bool"))])
        return [f"{field}={rng.choice(['many', '1.5.2', '', '1e', 'twelve'])}"], field
    if kind == "range":
        field = rng.choice(sorted(OUT_OF_RANGE))
        return [f"{field}={rng.choice(OUT_OF_RANGE[field])}"], field
    if kind == "choice":
        field = rng.choice(sorted(CHOICES))
        return [f"{field}={misspelled(rng.choice(CHOICES[field]), rng)}q"], field
    if kind == "impossible":
        fields, named = rng.choice(IMPOSSIBLE)
        return [f"{field}={value}" for field, value in fields.items()], named
    if kind == "syntax":
        return [rng.choice(FIELDS)], "FIELD=VALUE"
    return ["learning_rate=0.1", "learning_rate=0.2"], "learning_rate"


@pytest.fixture
def quick_data(digits_dir):
    return [f"--data_dir={digits_dir}", "--dataset=digits/upstream"]


def test_bad_configurations_end_the_command_before_any_work(
    keras_vit_command, quick_data, tmp_path
):
    rng = random.Random(SEED)
    workdir = tmp_path / "run"
    slowest = 0.0
    for number in range(NUM_CONFIGURATIONS):
        assignments, named = bad_configuration(rng)
        case = f"configuration {number}: {assignments}"
        flags = [f"--set={assignment}" for assignment in assignments]
        start = time.process_time()
        code, out, err = keras_vit_command("pretrain", f"--workdir={workdir}", *quick_data, *flags)
        slowest = max(slowest, time.process_time() - start)
        assert (code, out) == (2, ""), f"{case}: {code} {err}"
        assert named in err, f"{case}: {err}"
        assert err.count("\n") == 1, case
        assert not workdir.exists(), case
    assert slowest < 1.0


def test_misspelled_fields_are_told_the_close_ones():
    rng = random.Random(SEED)
    for field in FIELDS:
        wrong = misspelled(field, rng)
        if wrong not in FIELDS:
            with pytest.raises(ValueError, match=f"Close: .*{field}"):
                parse_overrides([f"{wrong}=1"])


def test_misspelled_flags_and_recipes_are_told_the_close_ones(keras_vit_command, tmp_path):
    for flag in ("--checkpoint_step=3", "--workdr=x", "--recip=digits_pretrain"):
        code, _, err = keras_vit_command("pretrain", f"--workdir={tmp_path / 'w'}", flag)
        assert code == 2
        assert "did you mean" in err
    rng = random.Random(SEED)
    for row in list_recipes():
        name = row if isinstance(row, str) else row["name"]
        wrong = misspelled(name, rng)
        code, _, err = keras_vit_command(
            "pretrain", f"--workdir={tmp_path / 'w'}", f"--recipe={wrong}"
        )
        assert code == 2, err
        assert wrong in err
    assert not list(tmp_path.iterdir())
