"""Every format's `config.json` that says something else than the arrays is a CheckpointError."""

import json
import pathlib
import shutil

import pytest

import keras_vit
from keras_vit.errors import CheckpointError

TORCH = pathlib.Path(__file__).parents[2] / "reference" / "torch"
TRANSFORMERS = [f"hf_named/{path.name}" for path in sorted((TORCH / "hf_named").iterdir())]
TIMM = [f"timm_named/{path.name}" for path in sorted((TORCH / "timm_named").iterdir())]

# Of transformers: field -> a value that is a lie of any of the folders.  A number of heads that
# divides the width too is one that no array tells.
LIES = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "image_size": 1024,
    "patch_size": 7,
    "num_channels": 1,
    "hidden_act": "relu",
    "layer_norm_eps": 5.0,
    "model_type": "beit",
}
# Those of some folders alone: (kinds, field, value).
SOME = [
    (("vit", "deit", "clip", "siglip"), "intermediate_size", 95),
    (("dinov2",), "mlp_ratio", 3),
    (("dinov2",), "use_swiglu_ffn", True),
    (("dinov2",), "num_register_tokens", 3),
    (("vit", "deit", "dinov2"), "qkv_bias", False),
    (("clip_vision_projection",), "projection_dim", 13),
    (("siglip",), "vision_use_head", False),
    (("vit_backbone",), "pooler_output_size", 13),
    (("vit_backbone",), "pooler_act", "relu"),
    (("vit_raw_names", "deit_distilled"), "num_labels", 9),
    (("vit_raw_names", "deit_distilled"), "id2label", {"0": "cat"}),
]
CASES = [(folder, name, value) for folder in TRANSFORMERS for name, value in LIES.items()]
CASES += [
    (folder, name, value)
    for kinds, name, value in SOME
    for folder in TRANSFORMERS
    if folder.partition("/")[2].startswith(kinds)
]
# Of timm: argument -> a lie; None is the contrary of what is so.
ARGUMENTS = {
    "embed_dim": 36,
    "depth": 3,
    "num_heads": 7,
    "patch_size": 8,
    "mlp_ratio": 2.5,
    "in_chans": 1,
    "img_size": 1024,
    "reg_tokens": 3,
    "num_classes": 7,
    "class_token": None,
    "distilled": None,
    "qkv_bias": None,
    "qk_norm": None,
    "pre_norm": None,
    "final_norm": None,
    "global_pool": "best",
    "act_layer": "relu",
    "norm_layer": "batchnorm",
    "mlp_layer": "GluMlp",
    "attn_layer": "DiffAttention",
}


def changed(folder, tmp_path, change):
    """A copy of a folder whose `config.json` was changed by a function."""
    shutil.copy(TORCH / folder / "model.safetensors", tmp_path)
    config = json.loads((TORCH / folder / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(("folder", "name", "value"), CASES)
def test_a_lie_in_the_config_of_transformers_is_refused(folder, name, value, tmp_path):
    path = changed(folder, tmp_path, lambda config: config.update({name: value}))
    with pytest.raises(CheckpointError):
        keras_vit.from_pretrained(path)


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("folder", TIMM)
def test_a_lie_in_the_arguments_of_timm_is_refused(folder, argument, tmp_path):
    value = ARGUMENTS[argument]
    if value is None:
        fields = keras_vit.from_pretrained(TORCH / folder).config
        value = not {
            "distilled": fields.distillation_token,
            "final_norm": fields.final_norm != "none",
        }.get(argument, getattr(fields, argument, False))
    path = changed(folder, tmp_path, lambda config: config["model_args"].update({argument: value}))
    with pytest.raises(CheckpointError):
        keras_vit.from_pretrained(path)


@pytest.mark.parametrize("folder", ["hf_named/clip_vision_projection", "hf_named/siglip_vision"])
def test_a_lie_in_the_config_of_both_towers_is_refused(folder, tmp_path):
    def both(config):
        vision = {**config, "num_hidden_layers": 9}
        config.clear()
        config.update(model_type=folder[9:].partition("_")[0], vision_config=vision)

    with pytest.raises(CheckpointError, match="`num_hidden_layers` 9, the arrays say 2"):
        keras_vit.from_pretrained(changed(folder, tmp_path, both))
