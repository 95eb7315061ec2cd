"""The table against numbers computed by hand from the sources that its rows name."""

import math

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data.images.augmentation_presets import AUGMENTATIONS, BY_TASK
from keras_vit.models.presets import list_models
from keras_vit.training.losses import LOSSES
from keras_vit.training.optimizers import make_optimizer, make_schedule
from keras_vit.training.recipe_rules import bit_hyperrule, default_recipe, own_pictures
from keras_vit.training.recipe_table import RECIPES, get_recipe, list_recipes

# Training examples, without the official minival; JFT-300M as in section 4.1 of the paper.
SIZES = {
    None: 303_000_000,
    "imagenet21k": 12_746_269,
    "imagenet2012": 1_268_355,
    "cifar10": 49_000,
    "cifar100": 49_000,
    "oxford_iiit_pet": 3312,
    "vtab/cifar100": 800,
}
# float32 schedules.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_what_there_is(name):
    recipe = RECIPES[name]
    assert recipe.source
    assert recipe.augmentation in (*AUGMENTATIONS, BY_TASK)
    assert recipe.model is None or recipe.model in list_models()
    num_examples = SIZES.get(recipe.dataset, 10_000)
    assert recipe.num_steps(num_examples) > recipe.warmup_steps
    assert make_schedule(recipe, recipe.num_steps(num_examples))(recipe.warmup_steps) > 0


@pytest.mark.parametrize(
    ("name", "model", "epochs", "rate", "decay", "weight_decay", "dropout"),
    [
        # Table 3, row by row.
        ("table3_jft_b", "ViT-B/16", 7, 8e-4, "linear", 0.1, 0.0),
        ("table3_jft_l32", "ViT-L/32", 7, 6e-4, "linear", 0.1, 0.0),
        ("table3_jft_l16", "ViT-L/16", 14, 4e-4, "linear", 0.1, 0.0),
        ("table3_jft_h14", "ViT-H/14", 14, 3e-4, "linear", 0.1, 0.0),
        ("table3_jft_r50", "BiT-R50x1", 7, 1e-3, "linear", 0.1, None),
        ("table3_jft_r101", "BiT-R101x1", 7, 8e-4, "linear", 0.1, None),
        ("table3_jft_r152", "BiT-R152x1", 7, 6e-4, "linear", 0.1, None),
        ("table3_jft_r50_b", "R50+ViT-B/16", 7, 8e-4, "linear", 0.1, 0.0),
        ("table3_jft_r50_l32", "R50+ViT-L/32", 7, 2e-4, "linear", 0.1, 0.0),
        ("table3_jft_r50_l16", "R50+ViT-L/16", 14, 4e-4, "linear", 0.1, 0.0),
        ("table3_imagenet21k_b", "ViT-B/16", 90, 1e-3, "linear", 0.03, 0.1),
        ("table3_imagenet21k_l", "ViT-L/16", 90, 1e-3, "linear", 0.03, 0.1),
        ("table3_imagenet", "ViT-B/16", 300, 3e-3, "cosine", 0.3, 0.1),
    ],
)
def test_table3_rows(name, model, epochs, rate, decay, weight_decay, dropout):
    recipe = RECIPES[name]
    assert (recipe.model, recipe.epochs, recipe.learning_rate) == (model, epochs, rate)
    assert (recipe.decay, recipe.weight_decay, recipe.dropout) == (decay, weight_decay, dropout)
    assert (recipe.batch_size, recipe.warmup_steps) == (4096, 10_000)
    assert (recipe.optimizer, recipe.image_size) == ("adamw", (224, 224))
    assert recipe.weight_decay_on == "all"
    # "Additionally ... gradient clipping at global norm 1 when training on ImageNet."
    assert recipe.global_clipnorm == (1.0 if name == "table3_imagenet" else None)
    assert (recipe.loss, recipe.head_bias) == ("sigmoid", -10.0)


@pytest.mark.parametrize(
    ("name", "steps", "rates", "image_size"),
    [
        ("table4_imagenet", 20_000, (0.003, 0.01, 0.03, 0.06), 384),
        ("table4_cifar", 10_000, (0.001, 0.003, 0.01, 0.03), 384),
        ("table4_pets_flowers", 500, (0.001, 0.003, 0.01, 0.03), 384),
        ("table4_vtab", 2500, (0.01,), 384),
        ("table2_imagenet_l16", 20_000, (0.003, 0.01, 0.03, 0.06), 512),
        ("table2_imagenet_h14", 20_000, (0.003, 0.01, 0.03, 0.06), 518),
    ],
)
def test_table4_rows(name, steps, rates, image_size):
    recipe = RECIPES[name]
    assert (recipe.steps, recipe.learning_rates) == (steps, rates)
    assert recipe.learning_rate in rates
    assert recipe.image_size == (image_size, image_size)
    assert (recipe.optimizer, recipe.decay, recipe.batch_size) == ("sgd", "cosine", 512)
    assert (recipe.weight_decay, recipe.global_clipnorm) == (0.0, 1.0)
    # Polyak averaging is for the numbers of Table 2.
    assert recipe.ema == (0.9999 if name.startswith("table2") else None)


def test_vit_jax_rows_are_the_official_configuration():
    for dataset, steps in (("imagenet2012", 20_000), ("cifar10", 10_000), ("cifar100", 10_000)):
        recipe = RECIPES[f"vit_jax_{dataset}"]
        assert (recipe.dataset, recipe.steps, recipe.warmup_steps) == (dataset, steps, 500)
        assert (recipe.accumulation_steps, recipe.momentum_dtype) == (8, "bfloat16")
        assert (recipe.learning_rate, recipe.global_clipnorm) == (0.03, 1.0)
    recipe = RECIPES["vit_jax_augreg"]
    assert (recipe.steps, recipe.warmup_steps, recipe.dropout) == (500, 100, 0.0)


@pytest.mark.parametrize(
    ("name", "step", "rate"),
    [
        # Linear: 1e-5 + (8e-4 - 1e-5)(1 - p), T = floor(7 x 303e6 / 4096) = 517,822.
        ("table3_jft_b", 0, 0.0),
        ("table3_jft_b", 5000, 4e-4),
        ("table3_jft_b", 10_000, 8e-4),
        ("table3_jft_b", 517_822, 1e-5),
        ("table3_jft_b", 10_000 + 507_822 // 2, (8e-4 + 1e-5) / 2),
        # Cosine: T = floor(300 x 1,268,355 / 4096) = 92,896, a quarter of the way down.
        (
            "table3_imagenet",
            10_000 + 82_896 // 4,
            3e-3 * 0.5 * (1 + math.cos(math.pi / 4)),
        ),
        ("table4_cifar", 250, 0.005),
        ("table4_cifar", 5250, 0.005),
        ("vit_s16_i1k", 10_000, 1e-3),
        # T = floor(90 x 1,268,355 / 1024) = 111,476.
        ("vit_s16_i1k", 10_000 + 101_476 // 2, 5e-4),
    ],
)
def test_schedule_has_the_rate_of_the_formula(name, step, rate):
    recipe = RECIPES[name]
    schedule = make_schedule(recipe, recipe.num_steps(SIZES[recipe.dataset]))
    # Steps are whole: half a step of 1e5 is 5e-6 of the way.
    assert float(schedule(step)) == pytest.approx(rate, rel=2e-5, abs=1e-12)


def test_table3_decays_all_and_big_vision_kernels():
    # One update with gradients of zero shows the decay alone.
    def decayed(name):
        recipe = get_recipe(name, warmup_steps=0, epochs=None, steps=10)
        model = keras_vit.create_model("ViT-Ti/16", num_classes=3, image_size=32, depth=1)
        variables = model.trainable_variables
        for variable in variables:
            variable.assign(keras.ops.ones(variable.shape))
        optimizer = make_optimizer(recipe, 10, variables)
        optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
        return {v.path: 1 - keras.ops.convert_to_numpy(v.value).mean() for v in variables}

    everywhere = decayed("table3_imagenet")
    np.testing.assert_allclose(list(everywhere.values()), 3e-3 * 0.3, rtol=1e-3)
    # big_vision: 1e-4 times the schedule, which starts at 1, of `.*/kernel`.
    kernels = decayed("vit_s16_i1k")
    assert {path for path, share in kernels.items() if share > 0} == {
        path for path in kernels if path.endswith("kernel")
    }
    np.testing.assert_allclose([s for s in kernels.values() if s > 0], 1e-4, rtol=1e-3)


def test_imagenet_from_scratch_has_the_summed_sigmoid_loss():
    recipe = RECIPES["table3_imagenet"]
    loss = LOSSES[recipe.loss](label_smoothing=recipe.label_smoothing)
    # All logits are the head's bias of -10, as at the first step; label smoothing 1e-4:
    # the right class log(1 + e^10), the 999 others log(1 + e^-10), and 1e-4 of each logit.
    right, wrong = math.log1p(math.exp(10)), math.log1p(math.exp(-10))
    expected = (1 - 1e-4) * right + 1e-4 * wrong + 999 * ((1 - 1e-4) * wrong + 1e-4 * right)
    logits = np.full((2, 1000), recipe.head_bias, "float32")
    value = float(loss(np.array([3, 4]), logits))
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("num_examples", "boundaries", "steps", "mixup"),
    [
        (19_999, (200, 300, 400), 500, False),
        (20_000, (3000, 6000, 9000), 10_000, True),
        (499_999, (3000, 6000, 9000), 10_000, True),
        (500_000, (6000, 12_000, 18_000), 20_000, True),
    ],
)
def test_bit_hyperrule_follows_the_size_of_the_data_set(num_examples, boundaries, steps, mixup):
    recipe = bit_hyperrule(num_examples)
    assert (recipe.boundaries, recipe.steps) == (boundaries, steps)
    assert recipe.augmentation.endswith("_mixup") == mixup
    assert recipe.augmentation in AUGMENTATIONS
    schedule = make_schedule(recipe, recipe.steps)
    warmup = recipe.warmup_steps
    assert float(schedule(warmup // 2)) == pytest.approx(0.0015, rel=TOLERANCE)
    for n, boundary in enumerate(boundaries):
        assert float(schedule(boundary)) == pytest.approx(0.003 / 10**n, rel=1e-5)
        assert float(schedule(boundary + 1)) == pytest.approx(0.003 / 10 ** (n + 1), rel=1e-5)


def test_bit_hyperrule_small_images_stay_small():
    assert bit_hyperrule(50_000, (32, 32)).image_size == (128, 128)
    assert bit_hyperrule(50_000, (96, 96)).image_size == (480, 480)
    assert bit_hyperrule(50_000).image_size == (480, 480)


def test_get_recipe_of_a_rule_needs_the_data_set():
    assert "bit_hyperrule" in list_recipes("bit*")
    assert get_recipe("bit_hyperrule", num_examples=1000, learning_rate=0.01).learning_rate == 0.01
    with pytest.raises(ValueError, match="depends on the data set: give `num_examples`"):
        get_recipe("bit_hyperrule")


@pytest.mark.parametrize("has_accelerator", [False, True])
@pytest.mark.parametrize("num_examples", [1, 7, 60, 320, 30_000, 2_000_000])
def test_own_pictures_is_a_training_for_any_number_of_them(num_examples, has_accelerator):
    recipe = own_pictures(num_examples, has_accelerator=has_accelerator)
    assert recipe.batch_size <= num_examples
    assert 50 <= recipe.num_steps(num_examples) <= (20_000 if has_accelerator else 1_000)
    assert f"for {num_examples} pictures on a" in recipe.source


def test_a_finetuning_without_a_recipe_goes_by_the_data():
    assert default_recipe("photos/") == default_recipe("digits_of_mine") == "own_pictures"
    assert default_recipe(None) == default_recipe("digits/downstream:1.0.0") == "digits_finetune"
