"""`keras_hub`: the ViT of KerasHub, its weights as Keras writes them and its presets.

Symbols: as in `vit_jax`.  Keras names a layer in a weights file by its class and a number, and its
variables by their place: `vi_t_encoder_block_1/layer_norm_1/vars/0`.
"""

from keras_vit.checkpoints.containers.files import BACKBONE_FILE, TASK_FILE
from keras_vit.checkpoints.format import About, Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import preprocessing_configs as configs
from keras_vit.checkpoints.formats import vit_jax
from keras_vit.checkpoints.formats.torch_rows import differences, grid_of

_EMBEDDING = "{backbone}layers/vi_t_patching_and_embedding"
_ENCODER = "{backbone}layers/vi_t_encoder"
_BLOCK = _ENCODER + "/encoder_layers/{encoder_block}"
_ATTENTION = _BLOCK + "/mha"


def _pair(scope, ours, leaves, theirs, *shapes):
    """The rows of a layer with two variables."""
    return tuple(
        Row(scope, f"{ours}{leaf}", f"{theirs}/vars/{i}", shape)
        for i, (leaf, shape) in enumerate(zip(leaves, shapes, strict=True))
    )


_KERNEL, _NORM = ("/kernel", "/bias"), ("/gamma", "/beta")

# fmt: off
ROWS = (
    Row("class_token", "cls/token", _EMBEDDING + "/vars/0", "1 1 D"),
    *_pair("model", "embedding", _KERNEL, _EMBEDDING + "/patch_embedding", "p q C D", "D"),
    Row("model", "posembed_input/embedding", _EMBEDDING + "/position_embedding/vars/0",
        "1 T D", "T D"),
    *_pair("block", "encoderblock_{i}/norm_1", _NORM, _BLOCK + "/layer_norm_1", "D", "D"),
    *(
        row
        for name in ("query", "key", "value")
        for row in _pair("block", f"encoderblock_{{i}}/attention/{name}", ("_kernel", "_bias"),
                         f"{_ATTENTION}/{name}_dense", "D k d", "k d")
    ),
    *_pair("block", "encoderblock_{i}/attention/out", ("_kernel", "_bias"),
           _ATTENTION + "/output_dense", "k d D", "D"),
    *_pair("block", "encoderblock_{i}/norm_2", _NORM, _BLOCK + "/layer_norm_2", "D", "D"),
    *_pair("block", "encoderblock_{i}/mlp/dense_1", _KERNEL, _BLOCK + "/mlp/dense_1", "D M", "M"),
    *_pair("block", "encoderblock_{i}/mlp/dense_2", _KERNEL, _BLOCK + "/mlp/dense_2", "M D", "D"),
    *_pair("model", "encoder_norm", _NORM, _ENCODER + "/layer_norm", "D", "D"),
    *_pair("representation", "pre_logits", _KERNEL, "{task}layers/dense", "D R", "R"),
    *_pair("head", "head", _KERNEL, "{task}layers/{head}", "F Y", "Y"),
)
# fmt: on

LAYOUTS = {
    # A preset's folder: the backbone's file, and the task's with the head beside it.
    "preset": {"backbone": "", "task": f"{TASK_FILE}/"},
    # The weights of a whole `ViTImageClassifier` in one file.
    "classifier": {"backbone": "layers/vi_t_backbone/", "task": ""},
}
BACKBONE_CLASS, TASK_CLASS = "ViTBackbone", "ViTImageClassifier"
POOLINGS = {"token": "token", "gap": "mean"}
# Options of theirs that our models do not have.
ALWAYS = ("use_mha_bias", "use_mlp_bias", "use_patch_bias")


def _block_name(i):
    return f"vi_t_encoder_block_{i}" if i else "vi_t_encoder_block"


def read_architecture(view):
    """The `Architecture` of a file, what it lacks, or None if it is of another layout."""
    if view.shape(_EMBEDDING + "/patch_embedding/vars/0") is None:
        return None
    config = _config_of(view.facts, BACKBONE_CLASS)
    task = _config_of(view.facts.get("task.json", {}), TASK_CLASS)
    for found in (config, task):
        if isinstance(found, str):
            return found
    encoder = view.layout["backbone"] + "layers/vi_t_encoder/encoder_layers/vi_t_encoder_block"
    first = view.shape(f"{encoder}/layer_norm_1/vars/0") is not None
    depth = first + len(view.indices(encoder + "_{}/"))
    blocks = [_BLOCK.replace("{encoder_block}", _block_name(i)) for i in range(depth)]
    hidden = view.vote(
        (_EMBEDDING + "/patch_embedding/vars/0", -1),
        (_EMBEDDING + "/patch_embedding/vars/1", 0),
        *((f"{block}/layer_norm_1/vars/0", 0) for block in blocks),
    )
    mlp_dim = view.vote(*((f"{block}/mlp/dense_1/vars/1", 0) for block in blocks))
    heads = view.vote(*((f"{block}/mha/query_dense/vars/1", 0) for block in blocks))
    kernel = view.shape(_EMBEDDING + "/patch_embedding/vars/0")
    positions = view.shape(_EMBEDDING + "/position_embedding/vars/0")
    shapes = len(kernel) == 4 and positions and len(positions) == 2
    if not (depth and hidden and mlp_dim and heads and shapes):
        return (
            "too little is left to read the architecture off: encoder blocks, the kernel of "
            "patch_embedding (P, Q, C, D) or position_embedding (T, D)"
        )
    missing = [name for name in ALWAYS if config.get(name, True) is not True]
    if missing:
        return f"config.json has no biases ({', '.join(missing)}), which no model here goes without"
    epsilon = config.get("layer_norm_epsilon", 1e-6)
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        return f"`layer_norm_epsilon` must be a small number. Received: {epsilon!r}"
    class_token = view.shape(_EMBEDDING + "/vars/0") is not None
    pooling = task.get("pooling", "token" if class_token else "gap")
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        return f"`pooling` {pooling!r} is not one of {', '.join(POOLINGS)}"
    task_layers = view.layout["task"] + "layers/"
    both = view.shape(f"{task_layers}dense_1/vars/0") is not None
    head = f"{task_layers}dense_1" if both else f"{task_layers}dense"
    representation = f"{task_layers}dense"
    fields = {
        "hidden_size": hidden, "mlp_dim": mlp_dim, "num_heads": heads, "depth": depth,
        "patch_size": kernel[:2], "in_channels": kernel[2], "class_token": class_token,
        "pooling": POOLINGS[pooling], "gelu": "exact", "layer_norm_epsilon": epsilon,
        "representation_size": (
            view.vote((f"{representation}/vars/1", 0), (f"{representation}/vars/0", 1))
            if both else None
        ),
        "num_classes": view.vote((f"{head}/vars/1", 0), (f"{head}/vars/0", 1)) or 0,
    }  # fmt: skip
    image_shape = config.get("image_shape")
    image_size = image_shape[:2] if isinstance(image_shape, list) else None
    grid = grid_of(image_size, fields["patch_size"], positions[0] - class_token)
    return Architecture("vit", fields, num_positions=positions[0], grid=grid)


def _config_of(serialized, class_name):
    """The arguments in what Keras serialized, {} without any, or a sentence if of another class."""
    if not isinstance(serialized, dict):
        return f"the configuration of {class_name} beside the file is no object"
    found, config = serialized.get("class_name", class_name), serialized.get("config", {})
    if found != class_name or not isinstance(config, dict):
        return f"the configuration beside the file is of {found!r}, expected {class_name!r}"
    return config


def scopes(architecture):
    """The sets of symbols of each scope."""
    found = vit_jax.scopes(architecture)
    name = "dense_1" if architecture.fields["representation_size"] else "dense"
    return {
        **found,
        "block": [{**block, "encoder_block": _block_name(block["i"])} for block in found["block"]],
        "head": [{**head, "head": name} for head in found["head"]],
    }


def unsupported(architecture):
    """What KerasHub could not load, or would compute differently."""
    fields = architecture.fields
    expected = {
        "position_embedding": "learned",
        "gelu": "exact",
        "pooling": ("token", "mean") if fields["class_token"] else "mean",
    }
    reasons = differences(architecture, expected)
    if not fields["num_classes"]:
        reasons += differences(architecture, {"representation_size": None})
    return reasons


def layout_for(file_name, architecture, _came_in=None):
    """The layout that a file of that name is expected in."""
    alone = file_name == BACKBONE_FILE or not architecture.fields["num_classes"]
    return "preset" if alone else "classifier"


def side_files(architecture, _layout, about):
    """The `config.json` and, for a classifier, what a preset's folder says of head and pixels."""
    fields = architecture.fields
    backbone = _serialized(
        "vit.vit_backbone",
        BACKBONE_CLASS,
        "vi_t_backbone",
        {
            "image_shape": [*fields["image_size"], fields["in_channels"]],
            "patch_size": list(fields["patch_size"]),
            "num_layers": fields["depth"],
            "num_heads": fields["num_heads"],
            "hidden_dim": fields["hidden_size"],
            "mlp_dim": fields["mlp_dim"],
            "dropout_rate": fields["dropout"],
            "attention_dropout": fields["attention_dropout"],
            "layer_norm_epsilon": fields["layer_norm_epsilon"],
            "use_class_token": fields["class_token"],
            **dict.fromkeys(ALWAYS, True),
        },
    )
    converter, preprocessor = _preprocessors(about, fields["in_channels"])
    files = {"config.json": backbone, "image_converter.json": converter}
    task = {
        "backbone": backbone,
        "preprocessor": preprocessor,
        "num_classes": fields["num_classes"],
        "pooling": next((k for k, ours in POOLINGS.items() if ours == fields["pooling"]), None),
        "activation": None,
        "dropout": 0.0,
        "intermediate_dim": fields["representation_size"],
    }
    if fields["num_classes"]:
        files["preprocessor.json"] = preprocessor
        files["task.json"] = _serialized(
            "vit.vit_image_classifier", TASK_CLASS, "vi_t_image_classifier", task, dtype=False
        )
    return {name: content for name, content in files.items() if content is not None}


def _preprocessors(about, num_channels):
    """(converter of pixels, preprocessor of a classifier); None for rules that KerasHub lacks."""
    config = about.preprocessing and configs.to_keras_hub(about.preprocessing, num_channels)
    if not config:
        return None, None
    converter = _serialized(
        "vit.vit_image_converter", "ViTImageConverter", "vi_t_image_converter", config
    )
    preprocessor = _serialized(
        "vit.vit_image_classifier_preprocessor",
        "ViTImageClassifierPreprocessor",
        "vi_t_image_classifier_preprocessor",
        {"image_converter": converter, "config_file": "preprocessor.json"},
    )
    return converter, preprocessor


def _serialized(module, class_name, name, config, dtype=True):
    """An object as Keras serializes those of KerasHub."""
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": "float32"},
        "registered_name": None,
    }
    first = {"name": name, "trainable": True, "dtype": policy} if dtype else {"name": name}
    return {
        "module": f"keras_hub.src.models.{module}",
        "class_name": class_name,
        "config": {**first, **config},
        "registered_name": f"keras_hub>{class_name}",
    }


def read_about(facts, _architecture):
    """What a preset's folder says of the pixels; it names no classes."""
    converter = facts.get("image_converter.json")
    config = converter.get("config") if isinstance(converter, dict) else None
    return About(preprocessing=configs.from_keras_hub(config) if isinstance(config, dict) else None)


KERAS_HUB = Format(
    name="keras_hub",
    families=("vit",),
    signatures=tuple(
        Signature(
            (f"{layout['backbone']}layers/vi_t_patching_and_embedding/patch_embedding/vars/0",)
        )
        for layout in LAYOUTS.values()
    ),
    prefixes=("",),
    layouts=LAYOUTS,
    rows=ROWS,
    # The optimizer of a compiled model, and the states of its dropout layers.
    dropped=(rf"({TASK_FILE}/)?optimizer/".replace(".", r"\."), r".*/seed_generator/vars/\d+$"),
    architecture=read_architecture,
    scopes=scopes,
    unsupported=unsupported,
    side_files=side_files,
    about=read_about,
    layout_for=layout_for,
    folder_file=BACKBONE_FILE,
)
