"""What experiments are put together from: pre-trainings, models of the user's, few-shot numbers."""

from keras_vit.paper import cost
from keras_vit.paper.work import CHECKPOINT, FEW_SHOT, PRETRAIN

IMAGENET, IMAGENET21K, JFT = "ImageNet", "ImageNet-21k", "JFT-300M"
# The released files of ImageNet-21k.
CHECKPOINTS = {
    name: f"imagenet21k/{name.replace('/', '_')}"
    for name in ("ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32", "ViT-H/14")
}
# Model of the paper -> recipe of Table 3 on JFT-300M.
JFT_RECIPES = {
    "ViT-B/32": "table3_jft_b",
    "ViT-B/16": "table3_jft_b",
    "ViT-L/32": "table3_jft_l32",
    "ViT-L/16": "table3_jft_l16",
    "ViT-H/14": "table3_jft_h14",
    "R50x1": "table3_jft_r50",
    "R50x2": "table3_jft_r50",
    "R101x1": "table3_jft_r101",
    "R152x1": "table3_jft_r152",
    "R152x2": "table3_jft_r152",
    "R200x3": "table3_jft_r152",  # Table 3 has no row for it
    "R50+ViT-B/32": "table3_jft_r50_b",
    "R50+ViT-B/16": "table3_jft_r50_b",
    "R50+ViT-L/32": "table3_jft_r50_l32",
    "R50+ViT-L/16": "table3_jft_r50_l16",
    # D.6 names none of their own.
    "Axial-ViT-B/32": "table3_jft_b",
    "Axial-ViT-B/16": "table3_jft_b",
    "AxialResNet50": "table3_jft_r50",
}
JFT_EPOCHS = {"ViT-L/16": 14, "ViT-H/14": 14, "R200x3": 14}
JFT_NOTE = (
    "JFT-300M is not public: its rows can be planned and run tiny; at full scale give a model of "
    "yours in their place"
)


def folder_name(*parts):
    """A run's name from its parts, as a path."""
    return "/".join(part.replace("/", "_").replace(" ", "_") for part in parts)


def split_models(models, known):
    """The paper's models that are asked for, and the sources that are not the paper's."""
    if models is None:
        return list(known), []
    return [m for m in known if m in models], [m for m in models if m not in known]


def pretrained_run(work, model, data, *, epochs=None, label="", **fields):
    """A model that was pre-trained on a data set of the paper; the run's name."""
    preset = cost.preset_of(model)
    if data == IMAGENET21K and model in CHECKPOINTS and not fields:
        name = folder_name("checkpoint", model, data)
        return work.run(name, CHECKPOINT, model=preset, checkpoint=CHECKPOINTS[model])
    recipe = {
        IMAGENET: "table3_imagenet",
        IMAGENET21K: "table3_imagenet21k_l" if "ViT-L" in model else "table3_imagenet21k_b",
        JFT: JFT_RECIPES.get(model),
    }[data]
    changes = dict(fields.pop("changes", {}))
    if data == JFT:
        changes["epochs"] = epochs or JFT_EPOCHS.get(model, 7)
    name = folder_name("pretrain", model, data, *([f"{epochs}_epochs"] if epochs else []), label)
    return work.run(
        name.rstrip("/"),
        PRETRAIN,
        model=preset,
        dataset={IMAGENET: "imagenet2012", IMAGENET21K: "imagenet21k", JFT: JFT}[data],
        recipe=recipe,
        changes=changes,
        **fields,
    )


def own_run(work, source):
    """A model of the user's; the run's name."""
    return work.run(folder_name("checkpoint", source), CHECKPOINT, model=source, checkpoint=source)


def few_shot_cell(work, row, column, origin, **fields):
    """Adds a cell with the 5-shot accuracy on ImageNet of the model of a run, a share."""
    name = folder_name("few_shot", origin.partition("/")[2], "imagenet2012")
    run = work.run(
        name,
        FEW_SHOT,
        model=work.runs[origin].model,
        source=origin,
        dataset="imagenet2012",
        shots=5,
    )
    work.cell(row, column, run, scale=1.0, **fields)
