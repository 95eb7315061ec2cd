"""What timm publishes on the hub, as rows of a table: size, licence, and what it is for."""

from keras_vit.checkpoints.catalog.published import get_published, list_published

CLASSIFICATION, FEATURES = TASKS = ("classification", "features")


def task_of(num_classes):
    """What a file is for: it has a head of classes, or features alone."""
    return CLASSIFICATION if num_classes else FEATURES


def published_rows(pattern):
    """A dict of every column for each published file that a pattern matches."""
    rows = []
    for name in list_published(pattern):
        row = get_published(name)
        rows.append(
            {
                "name": name,
                "image_size": "x".join(map(str, dict.fromkeys(row.image_size))),
                "num_classes": row.num_classes,
                **_cost(row),
                "licence": row.licence,
                "task": task_of(row.num_classes),
                "repository": row.repository,
            }
        )
    return rows


def _cost(row):
    """The number of parameters and multiply-adds; None of a model that is none of ours."""
    from keras_vit.models import cost

    config = config_of(row)
    if config is None:
        return {"num_params": None, "gflops": None}
    return {
        "num_params": cost.count_parameters(config),
        "gflops": round(cost.count_multiply_adds(config) / 1e9, 3),
    }


def config_of(row):
    """The configuration of a published plain ViT by the table of timm's models, or None.

    Heads of poolings and positions of tokens are those of our model of the same arrays.
    """
    from keras_vit.checkpoints.formats import timm_arguments
    from keras_vit.models.vit_config import VisionTransformerConfig

    found = timm_arguments.arguments_of({"architecture": row.architecture})
    if isinstance(found, str):
        return None
    arguments, _ = found
    plain_norm = timm_arguments.layer_norm_epsilon(arguments["norm_layer"])
    known_mlps = ("Mlp", "swiglu_packed")
    others = arguments["embed_layer"] != "PatchEmbed" or arguments["mlp_layer"] not in known_mlps
    if others or plain_norm is None:
        return None
    gated = arguments["mlp_layer"] == "swiglu_packed"
    pooling = {"map": "attention", "avg": "patch_mean", "token": "token", "": "none"}[
        arguments["global_pool"]
    ]
    norms = arguments["fc_norm"]
    pooled = pooling == "patch_mean" if norms is None else norms
    patch_size = arguments["patch_size"]
    return VisionTransformerConfig(
        patch_size=patch_size,
        image_size=row.image_size,
        partial_patches=any(side % patch_size for side in row.image_size),
        hidden_size=arguments["embed_dim"],
        mlp_dim=int(arguments["embed_dim"] * arguments["mlp_ratio"]) // (1 + gated),
        num_heads=arguments["num_heads"],
        depth=arguments["depth"],
        num_classes=row.num_classes,
        class_token=arguments["class_token"],
        num_registers=arguments["reg_tokens"],
        register_positions=bool(arguments["reg_tokens"] and not arguments["no_embed_class"]),
        distillation_token=arguments["distilled"],
        pooling="distillation" if arguments["distilled"] else pooling,
        final_norm="none" if not arguments["final_norm"] else "pooled" if pooled else "tokens",
        layer_scale=arguments["init_values"] or None,
        pre_norm=arguments["pre_norm"],
        patch_bias=not arguments["pre_norm"],
        qkv_bias=arguments["qkv_bias"],
        qk_norm=arguments["qk_norm"],
        gated_mlp=gated,
    )
