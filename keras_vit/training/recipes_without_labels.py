"""The recipes of the objectives that need no labels: one row each, its source above it.

Imports nothing heavy (see `keras_vit.training.recipe_table`).
"""

from keras_vit.training.recipe import Recipe

_SMALL_MODEL = {
    "model": "ViT-Ti/16",
    "patch_size": 4,
    "hidden_size": 64,
    "mlp_dim": 128,
    "num_heads": 4,
    "depth": 3,
    "class_token": False,
    "pooling": "mean",
}
_SMALL = {
    "source": "ours, for two CPU cores",
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "decay": "cosine",
}
_DIGITS = {
    **_SMALL,
    "dataset": "digits/upstream",
    "steps": 400,
    "batch_size": 64,
    "warmup_steps": 30,
    "image_size": 16,
    "augmentation": "handwriting",
}
_FASHION_MNIST = {
    **_SMALL,
    "dataset": "fashion_mnist",
    "epochs": 10,
    "batch_size": 256,
    "warmup_steps": 200,
    "image_size": 28,
    "augmentation": "flip",
    "report_steps": 200,
}
_MASKED = {"objective": "masked_patches", **_SMALL_MODEL}
_MAE = {
    "objective": "mae",
    "position_embedding": "sincos2d_mae",
    "decoder_hidden_size": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
    **_SMALL_MODEL,
}

RECIPES = {
    # Section 4.6 and B.1.2 of arXiv:2010.11929v2; weight decay is not said there and is that of
    # Table 3's JFT rows.
    "masked_patches_b16": Recipe(
        source="section 4.6 and B.1.2, JFT-300M",
        objective="masked_patches",
        model="ViT-B/16",
        steps=1_000_000,
        batch_size=4096,
        optimizer="adamw",
        learning_rate=2e-4,
        warmup_steps=10_000,
        decay="cosine",
        weight_decay=0.1,
        global_clipnorm=None,
        augmentation="crop_flip",
        image_size=224,
        report_steps=1000,
    ),
    # facebookresearch/mae PRETRAIN.md and arXiv:2111.06377, Table 8: rate 1.5e-4 for each 256
    # images, 40 of 800 epochs of warm-up.
    "mae_b16": Recipe(
        source="MAE, ImageNet, 800 epochs",
        dataset="imagenet2012",
        objective="mae",
        model="ViT-B/16",
        epochs=800,
        batch_size=4096,
        optimizer="adamw",
        beta_2=0.95,
        learning_rate=2.4e-3,
        warmup_steps=12_500,
        decay="cosine",
        weight_decay=0.05,
        weight_decay_on="kernels",
        global_clipnorm=None,
        augmentation="mae",
        image_size=224,
        position_embedding="sincos2d_mae",
        report_steps=1000,
    ),
    "digits_masked_patches": Recipe(**_DIGITS, **_MASKED),
    "digits_mae": Recipe(**_DIGITS, **_MAE),
    "fashion_mnist_masked_patches": Recipe(**_FASHION_MNIST, **_MASKED),
    "fashion_mnist_mae": Recipe(**_FASHION_MNIST, **_MAE),
}
