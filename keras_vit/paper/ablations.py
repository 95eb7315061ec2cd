"""The ablations of appendix D: scaling (D.2), heads (D.3), positions (D.4), axial models (D.6).

A function takes the models to restrict the rows to (None for all) and gives an `Experiment`, as in
`keras_vit.paper.experiments`.  D.1, Adam against SGD, is `table7` there.
"""

from keras_vit.models.cost import count_multiply_adds
from keras_vit.models.fields import replace_fields
from keras_vit.models.presets import get_preset
from keras_vit.paper import cost, published
from keras_vit.paper.parts import (
    JFT,
    JFT_NOTE,
    few_shot_cell,
    own_run,
    pretrained_run,
    split_models,
)
from keras_vit.paper.work import Builder

# Table 8: row -> `position_embedding`, column -> `position_location`.
POSITIONS = {"none": "none", "1-D": "learned", "2-D": "learned2d", "relative": "relative"}
LOCATIONS = {
    "stem": "stem",
    "every layer": "every_layer",
    "every layer shared": "every_layer_shared",
}

# D.2: the model that is scaled.  The paper does not say its heads; here they have 64 features.
START = {"depth": 8, "hidden_size": 1024, "mlp_dim": 2048, "patch_size": 32}
SCALED = {
    "depth": {"depth": (16, 32, 64)},
    "width": {"hidden_size": (512, 2048)},
    "MLP width": {"mlp_dim": (4096, 8192)},
    "patch size": {"patch_size": (16, 8)},
    # Which sizes "all" has, the paper does not say: here each once more.
    "all": {"depth": (16,), "hidden_size": (2048,), "mlp_dim": (4096,), "patch_size": (16,)},
}

# D.3: row -> (fields of the configuration, learning rate).  Table 3's B rows have 8e-4.
TOKEN = {"representation_size": 768}
MEAN = {"class_token": False, "pooling": "mean", "representation_size": None}
HEADS = {
    "class token, 8e-4": (TOKEN, 8e-4),
    "mean pooling, 8e-4": (MEAN, 8e-4),
    "mean pooling, 3e-4": (MEAN, 3e-4),
}
HEAD_EPOCHS = 7

NO_NUMBERS = "The paper prints no numbers for this figure"


def table8(models=None):
    """Position embeddings by 5-shot accuracy on ImageNet."""
    work = Builder()
    chosen, own = split_models(models, POSITIONS)
    for row in chosen:
        for column, location in LOCATIONS.items():
            number = published.cell("8", row, column)
            if number is None:
                continue  # without positions, and with relative ones, there is one place
            changed = {"position_embedding": POSITIONS[row], "position_location": location}
            label = f"{row} {column}"
            origin = pretrained_run(work, "ViT-B/16", JFT, label=label, architecture=changed)
            few_shot_cell(work, row, column, origin, published=number)
    for source in own:
        few_shot_cell(work, source, "stem", own_run(work, source))
    title = "Table 8: position embeddings, 5-shot on ImageNet"
    return work.build("table8", title, notes=(JFT_NOTE,))


def figure8(models=None):
    """Scaling depth, width, MLP width, patch size and all of them, by compute."""
    work = Builder()
    chosen, own = split_models(models, SCALED)
    preset = get_preset("ViT-B/32")

    def multiply_adds(sizes):
        return count_multiply_adds(replace_fields(preset, sizes))

    for row in chosen:
        number = max(map(len, SCALED[row].values()))
        steps = [{name: values[i] for name, values in SCALED[row].items()} for i in range(number)]
        for changed in ({}, *steps):
            sizes = START | changed
            sizes["num_heads"] = sizes["hidden_size"] // 64
            label = " ".join(f"{name}_{value}" for name, value in sizes.items())
            origin = pretrained_run(work, "ViT-B/32", JFT, label=label, architecture=sizes)
            start = START | {"num_heads": START["hidden_size"] // 64}
            relative = multiply_adds(sizes) / multiply_adds(start)
            few_shot_cell(
                work, row, ", ".join(map(str, changed.values())) or "start", origin, x=relative
            )
    for source in own:
        few_shot_cell(work, source, "start", own_run(work, source))
    return work.build(
        "figure8",
        "Figure 8: scaling one size of a ViT, 5-shot on ImageNet",
        x_label="multiply-adds relative to the start",
        notes=(JFT_NOTE, NO_NUMBERS),
    )


def figure9(models=None):
    """Class token with an MLP head against mean pooling with a linear one, over the epochs."""
    work = Builder()
    chosen, own = split_models(models, HEADS)
    for row in chosen:
        fields, rate = HEADS[row]
        run = pretrained_run(
            work,
            "ViT-B/16",
            JFT,
            epochs=HEAD_EPOCHS,
            label=row,
            architecture=fields,
            changes={"learning_rate": rate},
            few_shot_dataset="imagenet2012",
            few_shot_points=HEAD_EPOCHS,
            shots=5,
        )
        for epoch in range(1, HEAD_EPOCHS + 1):
            work.cell(row, f"epoch {epoch}", run, metric=f"few_shot_{epoch}", x=epoch)
    for source in own:
        few_shot_cell(work, source, f"epoch {HEAD_EPOCHS}", own_run(work, source))
    return work.build(
        "figure9",
        "Figure 9: class token and mean pooling, 5-shot on ImageNet, per cent",
        x_label="epochs",
        notes=(JFT_NOTE, NO_NUMBERS, "The paper does not name the model: here ViT-B/16"),
    )


def figure13(models=None):
    """Axial models beside those with global attention and convolutions, by compute."""
    work = Builder()
    known = ("Axial-ViT-B/16", "ViT-B/16", "Axial-ViT-B/32", "ViT-B/32", "AxialResNet50", "R50x1")
    chosen, own = split_models(models, known)
    for model in chosen:
        origin = pretrained_run(work, model, JFT, epochs=7)
        x = cost.exaflops(cost.preset_of(model), 7)
        few_shot_cell(work, model, "5-shot", origin, x=x)
    for source in own:
        few_shot_cell(work, source, "5-shot", own_run(work, source))
    return work.build(
        "figure13",
        "Figure 13: axial attention, 5-shot on ImageNet",
        x_label="exaFLOPs of pre-training",
        notes=(JFT_NOTE, NO_NUMBERS),
    )
