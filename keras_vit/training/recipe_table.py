"""The recipes that have a name: one row each, its source above it.

Imports nothing heavy, so that the command's help can list them.
"""

import dataclasses
import difflib
import fnmatch
import os

from keras_vit.training.recipe import Recipe
from keras_vit.training.recipe_file import find_recipe
from keras_vit.training.recipe_overrides import check_field
from keras_vit.training.recipe_rules import LOW_RATES, RULES
from keras_vit.training.recipes_of_pixels import RECIPES as OF_PIXELS
from keras_vit.training.recipes_without_labels import RECIPES as WITHOUT_LABELS

# The ViT of the digits: the paper's, with small sizes, mean pooling and no class token.
_DIGITS_MODEL = {
    "model": "ViT-Ti/16",
    "patch_size": 4,
    "hidden_size": 64,
    "mlp_dim": 128,
    "num_heads": 4,
    "depth": 3,
    "class_token": False,
    "pooling": "mean",
}
# What the digits' recipes share; chosen on the validation splits.
_DIGITS = {
    "source": "ours, for two CPU cores",
    "batch_size": 64,
    "optimizer": "adamw",
    "augmentation": "handwriting",
}

# Table 3 and its caption (arXiv:2010.11929v2): Adam, batch 4096, 10k steps of warm-up, 224 px.
_TABLE3 = {
    "batch_size": 4096,
    "optimizer": "adamw",
    "warmup_steps": 10_000,
    "global_clipnorm": None,
    "augmentation": "crop_flip",
    "image_size": 224,
    "report_steps": 1000,
}
# As the released models were pre-trained: sigmoid cross-entropy, and the representation layer.
_SIGMOID = {"loss": "sigmoid", "head_bias": -10.0}
_JFT = {**_TABLE3, **_SIGMOID, "decay": "linear", "weight_decay": 0.1}
_JFT_VIT = {**_JFT, "source": "Table 3, JFT-300M", "dropout": 0.0, "representation_layer": True}
_JFT_BIT = {**_JFT, "source": "Table 3, JFT-300M", "epochs": 7}
_I21K = {
    **_TABLE3,
    **_SIGMOID,
    "source": "Table 3, ImageNet-21k",
    "dataset": "imagenet21k",
    "decay": "linear",
    "learning_rate": 1e-3,
    "weight_decay": 0.03,
    "dropout": 0.1,
    "epochs": 90,
    "representation_layer": True,
}

# Table 4 and B.1.1: SGD with momentum, batch 512, cosine, no weight decay, clipping at 1, 384 px.
_TABLE4 = {
    "batch_size": 512,
    "optimizer": "sgd",
    "decay": "cosine",
    "global_clipnorm": 1.0,
    "augmentation": "crop_flip",
    "image_size": 384,
}

# vit_jax/configs/common.py: as Table 4, in 8 micro-batches, with the momentum in bfloat16.
_COMMON = {
    **_TABLE4,
    "source": "vit_jax/configs/common.py",
    "accumulation_steps": 8,
    "momentum_dtype": "bfloat16",
    "learning_rate": 0.03,
    "warmup_steps": 500,
}

# big_vision's decay of 1e-4 is multiplied by the schedule and not by the rate of 1e-3.
_BIG_VISION = {
    "optimizer": "adamw",
    "momentum_dtype": "bfloat16",
    "learning_rate": 1e-3,
    "decay": "cosine",
    "warmup_steps": 10_000,
    "weight_decay": 0.1,
    "weight_decay_on": "kernels",
    "global_clipnorm": 1.0,
    "image_size": 224,
    "resize": "short_side",
    "resize_to": 256,
    "representation_layer": True,
    "report_steps": 1000,
}
_AUGREG = {**_BIG_VISION, "batch_size": 4096, "epochs": 300, "loss": "sigmoid"}
_AUGREG_I1K = {
    **_AUGREG,
    "source": "big_vision/configs/vit_i1k.py (AugReg)",
    "dataset": "imagenet2012",
    "head_bias": -6.9,
}
_AUGREG_I21K = {
    **_AUGREG,
    "source": "big_vision/configs/vit_i21k.py (AugReg)",
    "dataset": "imagenet21k",
    "head_bias": -10.0,
}

RECIPES = {
    "digits_pretrain": Recipe(
        steps=400,
        learning_rate=4e-3,
        warmup_steps=30,
        weight_decay=0.03,
        image_size=16,
        **_DIGITS,
        **_DIGITS_MODEL,
    ),
    "digits_finetune": Recipe(
        steps=300,
        learning_rate=2e-3,
        learning_rates=(5e-4, 1e-3, 2e-3, 4e-3),
        warmup_steps=20,
        label_smoothing=0.1,
        dropout=0.1,
        image_size=24,
        **_DIGITS,
    ),
    "digits_few_shot": Recipe(
        steps=80,
        learning_rate=2e-3,
        warmup_steps=10,
        image_size=24,
        **{**_DIGITS, "batch_size": 32},
    ),
    # Table 3, JFT-300M.  Where a row has two lengths, the longer one.
    "table3_jft_b": Recipe(model="ViT-B/16", learning_rate=8e-4, epochs=7, **_JFT_VIT),
    "table3_jft_l32": Recipe(model="ViT-L/32", learning_rate=6e-4, epochs=7, **_JFT_VIT),
    "table3_jft_l16": Recipe(model="ViT-L/16", learning_rate=4e-4, epochs=14, **_JFT_VIT),
    "table3_jft_h14": Recipe(model="ViT-H/14", learning_rate=3e-4, epochs=14, **_JFT_VIT),
    "table3_jft_r50": Recipe(model="BiT-R50x1", learning_rate=1e-3, **_JFT_BIT),
    "table3_jft_r101": Recipe(model="BiT-R101x1", learning_rate=8e-4, **_JFT_BIT),
    "table3_jft_r152": Recipe(model="BiT-R152x1", learning_rate=6e-4, **_JFT_BIT),
    "table3_jft_r50_b": Recipe(model="R50+ViT-B/16", learning_rate=8e-4, epochs=7, **_JFT_VIT),
    "table3_jft_r50_l32": Recipe(model="R50+ViT-L/32", learning_rate=2e-4, epochs=7, **_JFT_VIT),
    "table3_jft_r50_l16": Recipe(model="R50+ViT-L/16", learning_rate=4e-4, epochs=14, **_JFT_VIT),
    # Table 3, ImageNet-21k.  The paper has L after 30 and after 90 epochs.
    "table3_imagenet21k_b": Recipe(model="ViT-B/16", **_I21K),
    "table3_imagenet21k_l": Recipe(model="ViT-L/16", **_I21K),
    # Table 3, ImageNet, with what B.1 and the issues of the official repository add for it.
    "table3_imagenet": Recipe(
        **{
            **_TABLE3,
            **_SIGMOID,
            "source": "Table 3 and B.1, ImageNet from scratch",
            "dataset": "imagenet2012",
            "model": "ViT-B/16",
            "epochs": 300,
            "learning_rate": 3e-3,
            "decay": "cosine",
            "weight_decay": 0.3,
            "dropout": 0.1,
            "global_clipnorm": 1.0,
            "label_smoothing": 1e-4,
            "representation_layer": True,
        }
    ),
    # Table 4.  The warm-up is that of the official code, 500 steps, or 100 of 500.
    "table4_imagenet": Recipe(
        source="Table 4, ImageNet",
        dataset="imagenet2012",
        steps=20_000,
        warmup_steps=500,
        learning_rate=0.03,
        learning_rates=(0.003, 0.01, 0.03, 0.06),
        **_TABLE4,
    ),
    "table4_cifar": Recipe(
        source="Table 4, CIFAR-10 and CIFAR-100",
        dataset="cifar10",
        steps=10_000,
        warmup_steps=500,
        learning_rate=0.01,
        learning_rates=LOW_RATES,
        **_TABLE4,
    ),
    "table4_pets_flowers": Recipe(
        source="Table 4, Oxford-IIIT Pets and Flowers-102",
        dataset="oxford_iiit_pet",
        steps=500,
        warmup_steps=100,
        learning_rate=0.01,
        learning_rates=LOW_RATES,
        **_TABLE4,
    ),
    "table4_vtab": Recipe(
        source="Table 4, VTAB-1k (each of the 19 tasks)",
        dataset="vtab/cifar100",
        steps=2500,
        warmup_steps=500,
        learning_rate=0.01,
        learning_rates=(0.01,),
        # BiT's protocol, which the paper follows: each task's own, so that labels stay true.
        **{**_TABLE4, "augmentation": "bit_by_task"},
    ),
    # Table 2 and section 4.1: larger images, and Polyak averaging of the weights.
    "table2_imagenet_l16": Recipe(
        source="Table 2 and section 4.1, ViT-L/16 at 512 px",
        dataset="imagenet2012",
        steps=20_000,
        warmup_steps=500,
        learning_rate=0.03,
        learning_rates=(0.003, 0.01, 0.03, 0.06),
        ema=0.9999,
        **{**_TABLE4, "image_size": 512},
    ),
    "table2_imagenet_h14": Recipe(
        source="Table 2 and section 4.1, ViT-H/14 at 518 px",
        dataset="imagenet2012",
        steps=20_000,
        warmup_steps=500,
        learning_rate=0.03,
        learning_rates=(0.003, 0.01, 0.03, 0.06),
        ema=0.9999,
        **{**_TABLE4, "image_size": 518},
    ),
    # The official repository's fine-tuning.
    "vit_jax_imagenet2012": Recipe(dataset="imagenet2012", steps=20_000, **_COMMON),
    "vit_jax_cifar10": Recipe(dataset="cifar10", steps=10_000, **_COMMON),
    "vit_jax_cifar100": Recipe(dataset="cifar100", steps=10_000, **_COMMON),
    "vit_jax_augreg": Recipe(
        steps=500,
        **{
            **_COMMON,
            "source": "vit_jax/configs/augreg.py",
            "dropout": 0.0,
            "warmup_steps": 100,
        },
    ),
    # big_vision/configs/vit_s16_i1k.py: the plain ViT baseline (arXiv:2205.01580).
    "vit_s16_i1k": Recipe(
        **{
            **_BIG_VISION,
            "source": "big_vision/configs/vit_s16_i1k.py",
            "dataset": "imagenet2012",
            "model": "ViT-S/16",
            "epochs": 90,
            "batch_size": 1024,
            "augmentation": "augreg_light2",
            "class_token": False,
            "pooling": "mean",
            "position_embedding": "sincos2d",
        }
    ),
    # AugReg (arXiv:2106.10270): the augmentation that its configuration has for each model.
    "augreg_i1k_ti16": Recipe(model="ViT-Ti/16", augmentation="augreg_light1", **_AUGREG_I1K),
    "augreg_i1k_s32": Recipe(model="ViT-S/32", augmentation="augreg_medium1", **_AUGREG_I1K),
    "augreg_i1k_s16": Recipe(model="ViT-S/16", augmentation="augreg_medium2", **_AUGREG_I1K),
    "augreg_i1k_b": Recipe(model="ViT-B/16", augmentation="augreg_medium2", **_AUGREG_I1K),
    "augreg_i1k_l16": Recipe(model="ViT-L/16", augmentation="augreg_medium2", **_AUGREG_I1K),
    "augreg_i21k_ti16": Recipe(model="ViT-Ti/16", augmentation="augreg_none", **_AUGREG_I21K),
    "augreg_i21k_s32": Recipe(model="ViT-S/32", augmentation="augreg_none", **_AUGREG_I21K),
    "augreg_i21k_s16": Recipe(model="ViT-S/16", augmentation="augreg_light1", **_AUGREG_I21K),
    "augreg_i21k_b": Recipe(model="ViT-B/16", augmentation="augreg_light2", **_AUGREG_I21K),
    "augreg_i21k_l16": Recipe(model="ViT-L/16", augmentation="augreg_medium2", **_AUGREG_I21K),
    **WITHOUT_LABELS,
    **OF_PIXELS,
}


def list_recipes(pattern="*"):
    """Names of the recipes, in the order of the table.

    Args:
        pattern: shell-style wildcard.

    >>> list_recipes("table4*")[0]
    'table4_imagenet'
    """
    return [name for name in (*RECIPES, *RULES) if fnmatch.fnmatchcase(name, pattern)]


def get_recipe(recipe, *, num_examples=None, source_size=None, has_accelerator=True, **overrides):
    """A recipe by name, with some of its fields changed.

    Args:
        recipe: a name of `list_recipes()`, a `Recipe`, or a file with one, as `find_recipe` takes
            it: a run's own `recipe.json`, or a Python file, which is run.
        num_examples: of the training split; only the rules need it.
        source_size: (height, width) of the data set's images if all are of one size; for the rules.
        has_accelerator: whether a GPU or TPU is there; for the rules.
        **overrides: fields of `Recipe`.  `steps` replaces `epochs`, and the other way round.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: for an unknown name or field (lists the close ones), or a bad value.
    """
    for field in overrides:
        check_field(field)
    if isinstance(recipe, str | os.PathLike):
        recipe = find_recipe(os.fspath(recipe))
    # A recipe of lists, such as `metrics`, has no hash to look for.
    if not isinstance(recipe, Recipe):
        if recipe in RULES:
            if num_examples is None:
                raise ValueError(
                    f"{recipe} depends on the data set: give `num_examples`. Received: None"
                )
            recipe = RULES[recipe](num_examples, source_size, has_accelerator)
        elif recipe in RECIPES:
            recipe = RECIPES[recipe]
        else:
            names = list_recipes()
            close = difflib.get_close_matches(str(recipe), names, n=3) or sorted(names)
            raise ValueError(f"there is no recipe {recipe!r}. Close: {', '.join(close)}")
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if overrides.get(given) is not None and other not in overrides:
            overrides = {**overrides, other: None}
    if "decay" in overrides and "boundaries" not in overrides:
        overrides = {**overrides, "boundaries": None}
    return dataclasses.replace(recipe, **overrides)
