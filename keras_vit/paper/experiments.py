"""The paper's tables and figures, one function each, over recipes, data sets and evaluators.

A function takes the models to restrict the rows to (None for all) and gives an `Experiment`.
Entries of `models` that the paper does not have are sources of the user's, which get a row without
published numbers.
"""

import dataclasses

from keras_vit.evaluators.vtab import GROUPS, TASKS, vtab_scores
from keras_vit.paper import ablations, cost, published
from keras_vit.paper.parts import (
    IMAGENET,
    IMAGENET21K,
    JFT,
    JFT_NOTE,
    few_shot_cell,
    folder_name,
    own_run,
    pretrained_run,
    split_models,
)
from keras_vit.paper.work import EVALUATE, FINETUNE, Builder

REAL = "ImageNet ReaL"
# Column -> (data set, recipe).
TRANSFERS = {
    IMAGENET: ("imagenet2012", "table4_imagenet"),
    "CIFAR-10": ("cifar10", "table4_cifar"),
    "CIFAR-100": ("cifar100", "table4_cifar"),
    "Pets": ("oxford_iiit_pet", "table4_pets_flowers"),
    "Flowers": ("oxford_flowers102", "table4_pets_flowers"),
}
COLUMNS = (IMAGENET, REAL, "CIFAR-10", "CIFAR-100", "Pets", "Flowers")
# BiT's pre-training (arXiv:1912.11370, section 3.2): rate 0.03 for a batch of 256, decay 1e-4.
BIT_SGD = {
    "optimizer": "sgd",
    "learning_rate": 0.03 * 4096 / 256,
    "weight_decay": 1e-4,
    "warmup_steps": 5000,
}


def _tuning(model, seed, recipe=None):
    """Fields of a fine-tuning's recipe for a model.

    Of 384 pixels the official ViT-H/14 takes the first 27 x 14; here patches fill the image.
    """
    changes = {"seed": seed} if seed else {}
    if model.endswith("/14") and recipe is None:
        changes["image_size"] = (27 * 14, 27 * 14)
    return changes


def _transfer(work, origin, column, *, recipe=None, seed=0):
    """Fine-tunes and, for ReaL, evaluates; the name of the run that has the accuracy."""
    if column == REAL:
        tuned = _transfer(work, origin, IMAGENET, recipe=recipe, seed=seed)
        return work.run(
            f"{tuned}/real",
            EVALUATE,
            model=work.runs[origin].model,
            source=tuned,
            dataset="imagenet2012_real",
        )
    dataset, usual = TRANSFERS[column]
    return work.run(
        folder_name("finetune", origin.partition("/")[2], column, f"seed_{seed}"),
        FINETUNE,
        model=work.runs[origin].model,
        source=origin,
        dataset=dataset,
        recipe=recipe or usual,
        changes=_tuning(work.runs[origin].model, seed, recipe),
    )


def _vtab_runs(work, origin, seeds):
    """Task of VTAB-1k -> the names of its fine-tuning runs, one for each seed."""
    return {
        task: [
            work.run(
                folder_name("vtab", origin.partition("/")[2], task, f"seed_{seed}"),
                FINETUNE,
                model=work.runs[origin].model,
                source=origin,
                dataset=f"vtab/{task}",
                recipe="table4_vtab",
                changes=_tuning(work.runs[origin].model, seed),
                train_split="trainval",
            )
            for seed in seeds
        ]
        for task in TASKS
    }


def _vtab(work, row, origin, paper=None):
    """The 19 tasks, their mean and that of each group; `paper` is a row of Table 9."""
    runs = _vtab_runs(work, origin, (0,))
    numbers = {}
    for column, task in published.VTAB_COLUMNS.items():
        numbers[task] = paper and published.cell("9", paper, column)
        work.cell(row, column, runs[task], published=numbers[task])
    every = [run for task in TASKS for run in runs[task]]
    work.cell(row, "Mean", every, published=paper and published.cell("9", paper, "Mean"))
    scores = vtab_scores(numbers) if paper else {}
    for group, tasks in GROUPS.items():
        every = [run for task in tasks for run in runs[task]]
        mean = round(scores[group], 2) if paper else None
        work.cell(row, group.capitalize(), every, published=mean)


def table2(models=None):
    """State of the art: three fine-tuning runs each, mean and deviation."""
    work = Builder()
    known = {
        "ViT-H/14 JFT": ("ViT-H/14", JFT, "table2_imagenet_h14"),
        "ViT-L/16 JFT": ("ViT-L/16", JFT, "table2_imagenet_l16"),
        "ViT-L/16 I21k": ("ViT-L/16", IMAGENET21K, "table2_imagenet_l16"),
    }
    chosen, own = split_models(models, known)
    for row in (*chosen, *own):
        model, data, recipe = known.get(row, (None, None, None))
        origin = pretrained_run(work, model, data) if model else own_run(work, row)
        for column in COLUMNS:
            numbers = {}
            if model:
                numbers["published"] = published.cell("2", column, row)
                numbers["published_deviation"] = published.cell("2", column, row, of="deviations")
            on_imagenet = recipe if column in (IMAGENET, REAL) else None
            runs = [
                _transfer(work, origin, column, recipe=on_imagenet, seed=seed) for seed in range(3)
            ]
            work.cell(row, column, runs, repeats=3, **numbers)
        numbers = {}
        if model:
            numbers["published"] = published.cell("2", "VTAB", row)
            numbers["published_deviation"] = published.cell("2", "VTAB", row, of="deviations")
        runs = _vtab_runs(work, origin, range(3))
        every = [run for task in TASKS for run in runs[task]]
        work.cell(row, "VTAB", every, repeats=3, **numbers)
    return work.build("table2", "Table 2: comparison with the state of the art", notes=(JFT_NOTE,))


def table5(models=None, columns=COLUMNS, name="table5"):
    """Transfers of the ViT models by the data set of their pre-training."""
    work = Builder()
    known = published.tables()["5"]["columns"]
    chosen, own = split_models(models, known)
    sizes = {IMAGENET: 1.28e6, IMAGENET21K: 14.2e6, JFT: cost.JFT_IMAGES}
    for data, size in sizes.items():
        for model in chosen:
            numbers = {column: published.table5(data, column, model) for column in columns}
            if not any(numbers.values()):
                continue
            origin = pretrained_run(work, model, data)
            for column in columns:
                run = _transfer(work, origin, column)
                label = f"{model}, {data}" if name == "table5" else model
                work.cell(
                    label,
                    column if name == "table5" else data,
                    run,
                    published=numbers[column],
                    x=size,
                )
    for source in own:
        for column in columns:
            work.cell(source, column, _transfer(work, own_run(work, source), column))
    return work.build(name, "Table 5: transfers after pre-training on three data sets")


def figure3(models=None):
    """ImageNet accuracy against the size of the pre-training's data set."""
    found = table5(models, columns=(IMAGENET,), name="figure3")
    return _retitled(found, "Figure 3: ImageNet accuracy by pre-training data", "images")


def table6(models=None, name="table6", columns=COLUMNS):
    """Transfers and cost of pre-training on JFT-300M."""
    work = Builder()
    rows = published.table6()
    known = list(dict.fromkeys(row["model"] for row in rows))
    chosen, own = split_models(models, known)
    for row in rows:
        if row["model"] not in chosen:
            continue
        origin = pretrained_run(work, row["model"], JFT, epochs=row["epochs"])
        label = f"{row['model']}, {row['epochs']} epochs"
        for column in columns:
            work.cell(
                label,
                column,
                _transfer(work, origin, column),
                published=row[column],
                x=cost.exaflops(cost.preset_of(row["model"]), row["epochs"]),
            )
        work.cell(
            label, "exaFLOPs", origin, metric="exaflops", scale=1.0, published=row["exaFLOPs"]
        )
    for source in own:
        for column in columns:
            work.cell(source, column, _transfer(work, own_run(work, source), column))
    return work.build(name, "Table 6: transfers after pre-training on JFT-300M", notes=(JFT_NOTE,))


def figure5(models=None):
    """Accuracy against the compute of the pre-training."""
    found = table6(models, name="figure5", columns=(IMAGENET, *tuple(TRANSFERS)[1:]))
    return _retitled(
        found, "Figure 5: accuracy against pre-training compute", "exaFLOPs of pre-training"
    )


def table7(models=None):
    """ResNets pre-trained with Adam and with SGD."""
    work = Builder()
    known = {"R50": "R50x1", "R152x2": "R152x2"}
    chosen, own = split_models(models, known)
    for row in chosen:
        for optimizer, changes in (("Adam", {}), ("SGD", BIT_SGD)):
            origin = pretrained_run(
                work, known[row], JFT, label=optimizer, epochs=7, changes=changes
            )
            label = f"{row} {optimizer}"
            runs = []
            for column in TRANSFERS:
                runs.append(_transfer(work, origin, column))
                number = published.cell("7", column, label)
                work.cell(label, column, runs[-1], published=number)
            work.cell(label, "Average", runs, published=published.cell("7", "Average", label))
    for source in own:
        for column in TRANSFERS:
            work.cell(source, column, _transfer(work, own_run(work, source), column))
    return work.build(
        "table7", "Table 7: pre-training ResNets with Adam and SGD", notes=(JFT_NOTE,)
    )


def table9(models=None, name="table9"):
    """The 19 tasks of VTAB-1k."""
    work = Builder()
    known = {
        "ViT-H/14 JFT": ("ViT-H/14", JFT),
        "ViT-L/16 JFT": ("ViT-L/16", JFT),
        "ViT-L/16 I21k": ("ViT-L/16", IMAGENET21K),
    }
    chosen, own = split_models(models, known)
    for row in chosen:
        _vtab(work, row, pretrained_run(work, *known[row]), paper=row)
    for source in own:
        _vtab(work, source, own_run(work, source))
    return work.build(name, "Table 9: the 19 tasks of VTAB-1k", notes=(JFT_NOTE,))


def vtab(models=None):
    """VTAB-1k of a model, beside Table 9."""
    return table9(models or ["ViT-L/16 I21k"], name="vtab")


# Part of the training images -> their number; 303 million are all.
_SUBSETS = {"train[:3%]": 9e6, "train[:10%]": 30e6, "train[:30%]": 90e6, "train": 303e6}


def figure4(models=None):
    """5-shot accuracy on ImageNet against the size of subsets of JFT-300M."""
    work = Builder()
    known = ("ViT-L/16", "ViT-L/32", "ViT-B/32", "ViT-b/32", "R50x1", "R152x2")
    chosen, own = split_models(models, known)
    for model in chosen:
        # b/32 has half of B's sizes.
        half = {"hidden_size": 384, "mlp_dim": 1536, "num_heads": 6} if "-b/" in model else {}
        for split, size in _SUBSETS.items():
            origin = pretrained_run(
                work,
                model.replace("-b/", "-B/"),
                JFT,
                label=f"{model[4:5]}_{size / 1e6:.0f}M",
                architecture=half,
                train_split=split,
            )
            few_shot_cell(work, model, f"{size / 1e6:.0f}M", origin, x=size)
    for source in own:
        few_shot_cell(work, source, "5-shot", own_run(work, source))
    return work.build(
        "figure4",
        "Figure 4: 5-shot accuracy on ImageNet by pre-training data",
        x_label="images of pre-training",
        notes=(JFT_NOTE, "The paper prints no numbers for this figure"),
    )


def _retitled(found, title, x_label):
    return dataclasses.replace(found, title=title, x_label=x_label)


EXPERIMENTS = {
    function.__name__: function
    for function in (
        *(table2, table5, table6, table7, ablations.table8, table9),
        *(figure3, figure4, figure5, ablations.figure8, ablations.figure9, ablations.figure13),
        vtab,
    )
}
