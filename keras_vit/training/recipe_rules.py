"""The recipes that depend on the data set: functions of what is known about it.

Imports nothing heavy, so that the command's help can list them.
"""

import re

from keras_vit.training.recipe import Recipe

# Table 4 (arXiv:2010.11929v2): what is tried for the smaller data sets.
LOW_RATES = (0.001, 0.003, 0.01, 0.03)


def own_pictures(num_examples, source_size=None, has_accelerator=True):
    """The fine-tuning for pictures of which only the number is known, and the device.

    Table 4's optimizer and schedule.  On a processor it is as short as is useful; an accelerator
    takes the length of BiT's rule (arXiv:1912.11370, section 3.3).

    Args:
        num_examples: of the training split.
        source_size: not used.
        has_accelerator: whether a GPU or TPU is there.

    Returns:
        A `Recipe`.

    >>> own_pictures(320, has_accelerator=False).steps
    50
    """
    del source_size
    batch_size = 32 if not has_accelerator else 128 if num_examples < 20_000 else 512
    while batch_size > max(num_examples, 1):
        batch_size //= 2
    batch_size = max(batch_size, 1)
    if has_accelerator:
        steps = 500 if num_examples < 20_000 else 10_000 if num_examples < 500_000 else 20_000
    else:
        steps = min(max(5 * num_examples // batch_size, 50), 1_000)
    return Recipe(
        source=f"ours, for {num_examples} pictures on "
        f"{'an accelerator' if has_accelerator else 'a processor'}",
        steps=steps,
        warmup_steps=steps // 10,
        batch_size=batch_size,
        optimizer="sgd",
        decay="cosine",
        learning_rate=0.01,
        learning_rates=LOW_RATES,
        global_clipnorm=1.0,
        augmentation="crop_flip",
        orientation="exif",
        report_steps=max(steps // 5, 1),
    )


def bit_hyperrule(num_examples, source_size=None, has_accelerator=True):
    """The fine-tuning that depends on nothing but the data set (arXiv:1912.11370, section 3.3).

    Args:
        num_examples: of the training split; the length of the schedule follows from it.
        source_size: (height, width) of the data set's images if all are of one size, else None.
        has_accelerator: not used.

    Returns:
        A `Recipe`.

    >>> bit_hyperrule(50_000, (32, 32)).image_size
    (128, 128)
    """
    del has_accelerator
    if num_examples < 20_000:
        warmup, *boundaries, steps = 100, 200, 300, 400, 500
    elif num_examples < 500_000:
        warmup, *boundaries, steps = 500, 3000, 6000, 9000, 10_000
    else:
        warmup, *boundaries, steps = 500, 6000, 12_000, 18_000, 20_000
    small = source_size is not None and source_size[0] * source_size[1] < 96 * 96
    mixed = "_mixup" if num_examples >= 20_000 else ""
    return Recipe(
        source="BiT-HyperRule",
        steps=steps,
        warmup_steps=warmup,
        decay="staircase",
        boundaries=boundaries,
        learning_rate=0.003,
        batch_size=512,
        optimizer="sgd",
        global_clipnorm=None,
        image_size=128 if small else 480,
        augmentation=f"bit_{'160_128' if small else '512_480'}{mixed}",
    )


def default_recipe(dataset, objective=None):
    """The name of the recipe that a fine-tuning takes where none is given.

    Args:
        dataset: as in `keras_vit.finetune`.
        objective: the objective that is asked for, or None.

    >>> default_recipe("digits/downstream"), default_recipe("photos/")
    ('digits_finetune', 'own_pictures')
    """
    if objective == "segmentation":
        return "segmentation"
    is_digits = isinstance(dataset, str) and re.fullmatch(r"digits(/\w+)?(:.*)?", dataset)
    return "digits_finetune" if dataset is None or is_digits else "own_pictures"


# Recipes that depend on the data set: functions of (number of examples, images' size or None,
# whether there is an accelerator).
RULES = {"bit_hyperrule": bit_hyperrule, "own_pictures": own_pictures}
