"""What the `config.json` of a timm model says: the arguments that timm makes the model with.

They are those of its `VisionTransformer`: what `model_args` does not say is what the model's name
stands for, by the table that `tools/timm_models.py` makes of timm's registry, and else the default.
"""

import functools
import importlib.resources
import json
import re

from keras_vit.names import close_names

# Of `VisionTransformer`, as far as the arrays or the numbers depend on them.
DEFAULTS = {
    "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0,
    "class_token": True, "no_embed_class": False, "reg_tokens": 0, "distilled": False,
    "qkv_bias": True, "qk_norm": False, "init_values": None, "pre_norm": False, "final_norm": True,
    "fc_norm": None, "global_pool": "token", "pool_include_prefix": False, "act_layer": "gelu",
    "norm_layer": "layernorm", "mlp_layer": "Mlp", "embed_layer": "PatchEmbed",
}  # fmt: skip
# Whose other values are models that keras_vit does not have.
REQUIRED = {
    "scale_attn_norm": False, "scale_mlp_norm": False, "proj_bias": True, "pos_embed": "learn",
    "block_fn": "Block", "attn_layer": "Attention", "embed_norm_layer": None,
}  # fmt: skip
# What changes nothing that is computed, or is read by itself.
OTHERS = {
    *("img_size", "in_chans", "num_classes", "representation_size", "dynamic_img_size"),
    *("dynamic_img_pad", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"),
    *("attn_drop_rate", "drop_path_rate", "weight_init", "fix_init"),
    *("layers", "width_factor", "stem_chs"),
}
# Of timm's own `LayerNorm`, and of the models that come from CLIP.
EPSILON = 1e-6
CLIP_EPSILON = 1e-5
RESNETS = re.compile(r"resnetv2_\d+x\d+_bit(m|_\w+)?")


@functools.cache
def named_models():
    """timm's plain ViTs: name -> arguments that differ from `DEFAULTS`."""
    text = importlib.resources.files(__package__).joinpath("timm_models.json").read_text()
    return json.loads(text)["models"]


def arguments_of(facts):
    """All arguments of the model that a `config.json` is of.

    Args:
        facts: what the file says; {} where there is none.

    Returns:
        (arguments, which of them are said and not timm's defaults for any model), or a sentence
        that says what is wrong.
    """
    given = facts.get("model_args", {})
    if not isinstance(given, dict):
        return "the `model_args` in config.json are no object"
    unknown = sorted(set(given) - {*DEFAULTS, *REQUIRED, *OTHERS})
    if unknown:
        return f"config.json has `model_args` that are not known here: {', '.join(unknown)}"
    named, name = {}, facts.get("architecture")
    if name is not None:
        named = named_models().get(str(name).partition(".")[0])
        if named is None:
            close = close_names(name, named_models())
            hint = f"close ones are {', '.join(close)}" if close else "the name is not guessed at"
            return f"config.json names the architecture {name!r:.100}, not known here; {hint}"
    said = {**named, **given}
    if "global_pool" in facts:
        if given.get("global_pool", facts["global_pool"]) != facts["global_pool"]:
            return (
                f"config.json has two values of `global_pool`: {facts['global_pool']!r}, and in "
                f"`model_args` {given['global_pool']!r}"
            )
        said["global_pool"] = facts["global_pool"]
    for argument, value in REQUIRED.items():
        if said.get(argument, value) != value:
            return f"keras_vit has no model with `{argument}` {said[argument]!r:.100}"
    if "num_classes" in facts:
        if given.get("num_classes", facts["num_classes"]) != facts["num_classes"]:
            return "config.json has two values of `num_classes`"
        said["num_classes"] = facts["num_classes"]
    known = {*(DEFAULTS if name is not None else ()), *said}
    arguments = {**DEFAULTS, **said}
    if {"embed_dim", "mlp_ratio"} <= known:
        known.add("mlp_dim")
        arguments["mlp_dim"] = _product(arguments["embed_dim"], arguments["mlp_ratio"])
    return arguments, known


def _product(size, ratio):
    """The whole number of a size times a ratio, or a sentence if they are none."""
    if type(size) is int and type(ratio) in (int, float) and 0 < ratio < 1000 and size < 1 << 40:
        return int(size * ratio)
    return f"{size!r:.50} times {ratio!r:.50}"


def contradictions(arguments, known, seen):
    """Where `config.json` says something else than the arrays do, as a list of sentences.

    Args:
        arguments: of the model.
        known: names of those that are said.
        seen: argument -> what the arrays show.
    """
    found = []
    for name, shown in seen.items():
        value = bool(arguments[name]) if name == "init_values" else arguments.get(name)
        if name in ("patch_size", "img_size"):
            value = (value, value) if type(value) is int else value
            value = tuple(value) if isinstance(value, list | tuple) else value
        if name in known and (value != shown or type(value) is bool is not type(shown)):
            found.append(f"config.json says `{name}` {value!r:.100}, the arrays say {shown!r}")
    where = "tokens" if arguments["fc_norm"] is False else "pooled"
    if arguments["fc_norm"] is not None and seen.get("norm", where) not in (where, "none"):
        found.append(f"config.json says `fc_norm` {arguments['fc_norm']!r:.100}, the arrays do not")
    return found


def layer_norm_epsilon(value):
    """The epsilon of a `norm_layer`, or None if it is none of ours.

    >>> layer_norm_epsilon("layernorm"), layer_norm_epsilon({"name": "layernorm", "eps": 1e-5})
    (1e-06, 1e-05)
    """
    if isinstance(value, str) and value.replace("_", "").lower() == "layernorm":
        return EPSILON
    if isinstance(value, dict) and set(value) == {"name", "eps"} and value["name"] == "layernorm":
        epsilon = value["eps"]
        return epsilon if isinstance(epsilon, float) and 0 <= epsilon < 1 else None
    return None
