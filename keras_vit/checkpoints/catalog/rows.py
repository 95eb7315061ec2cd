"""The official files and one of our own: one row each, what is known and where that is written.

A name is the file's path below its bucket without `.npz`: `imagenet21k/ViT-B_16`, `sam/ViT-B_16`,
`augreg/<stem>`, and for the buckets with a name of their own `bit/BiT-M-R50x1`,
`big_vision/vit_s16_i1k_90ep`.  A value that no source gives is None.  Sources:

    README  github.com/google-research/vision_transformer, README.md and its fine-tuning notebooks
    BiT     github.com/google-research/big_transfer, README.md
    bv      github.com/google-research/big_vision, README.md, models/vit.py, configs/
    timm    accuracies of the converted files in timm (bicubic: close to the official evaluation)
    ViT     arXiv:2010.11929v2
    sizes   parameters counted from the architecture; they reproduce the published file sizes
"""

import dataclasses

from keras_vit.checkpoints.catalog import augreg

FORMATS = ("vit_jax", "bit", "big_vision", "keras")
# Before the name of a file that lies beside this module.
PACKAGED = "package:"
_NUM_21K = 21_843
_GIB = 1024.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published file.

    Args:
        name: the catalogue's name.
        url: `gs://bucket/path`; of the index, where `through_index`; `package:` and the name of a
            file that comes with this package.
        architecture: the model's name, such as `"R50+ViT-B/16"`.
        format: one of `FORMATS`.
        image_size: side in pixels of the square input that the position embeddings are for, or that
            a convolutional model is evaluated at.
        num_classes: size of the head in the file.
        training: the data, in words.
        representation_layer: whether the file has `pre_logits`.
        zero_head: whether all values of the head are zero, so that only the features are of use.
        resize: `"squash"` or `"short_side"` as in `Preprocessing`; None where no source tells, or
            the file itself does.
        resize_to: side or short side in pixels before the central crop; None is `image_size`.
        interpolation: of that resizing.
        dataset: what `accuracy` is measured on.
        accuracy: top-1 in percent of this very file on the test images.
        finetuned_accuracy: the same after fine-tuning this file on ImageNet.
        accuracy_source: where the one or the other is written.
        num_params: all parameters including the head.
        approx_mib: size of the file as a listing rounds it.
        num_bytes: exact size of the file.
        sha256: hexadecimal digest of the file.
        class_token: whether the model has one; without it, it takes the mean.
        through_index: whether AugReg's index.csv, read at use, tells which file it is.
        caveats: what has surprised users of this file.
    """

    name: str
    url: str
    architecture: str
    format: str
    image_size: int
    num_classes: int
    training: str
    representation_layer: bool = False
    zero_head: bool = False
    resize: str | None = "squash"
    resize_to: int | None = None
    interpolation: str = "bilinear"
    dataset: str = "imagenet2012"
    accuracy: float | None = None
    finetuned_accuracy: float | None = None
    accuracy_source: str | None = None
    num_params: int | None = None
    approx_mib: float | None = None
    num_bytes: int | None = None
    sha256: str | None = None
    class_token: bool = True
    through_index: bool = False
    caveats: tuple[str, ...] = ()

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f"`format` must be one of {FORMATS}. Received: {self.format!r}")
        has_accuracy = (self.accuracy, self.finetuned_accuracy) != (None, None)
        if has_accuracy != (self.accuracy_source is not None):
            raise ValueError(f"An accuracy and its source go together. Received: {self}")

    @property
    def preprocessing(self):
        """The arguments of `Preprocessing`; None where no source tells how to evaluate the file."""
        if self.resize is None:
            return None
        side = self.resize_to or self.image_size
        return {
            "image_size": (self.image_size, self.image_size),
            "resize": self.resize,
            "resize_to": (side, side),
            "interpolation": self.interpolation,
        }


_I21K = "ImageNet-21k"
_I21K_I1K = "ImageNet-21k, then ImageNet-1k"
_I1K = "ImageNet-1k"
_TIMM = "timm, converted file, bicubic"
_TABLE_5 = "ViT paper, Table 5"
_EXPECTED = "README, expected of this file"
_README_DROPOUT = "README, fine-tuning with dropout 0.1"

# Listing in the README's notebook; accuracies after fine-tuning: ViT Table 5, README.
# file, architecture, parameters, MiB, accuracy after fine-tuning, its source
_IMAGENET21K = (
    ("ViT-B_32", "ViT-B/32", 104_843_091, 400.01, 81.28, _TABLE_5),
    ("ViT-B_16", "ViT-B/16", 103_186_515, 393.69, 83.97, _TABLE_5),
    ("ViT-B_8", "ViT-B/8", 103_195_731, 393.72, None, None),
    ("ViT-L_32", "ViT-L/32", 328_949_075, 1.23 * _GIB, 80.99, _TABLE_5),
    ("ViT-L_16", "ViT-L/16", 326_740_307, 1.22 * _GIB, 85.15, _TABLE_5),
    ("ViT-H_14", "ViT-H/14", 660_385_363, 2.46 * _GIB, 85.13, _TABLE_5),
    ("R26+ViT-B_32", "R26+ViT-B/32", 118_002_835, 450.23, None, None),
    ("R50+ViT-B_16", "R50+ViT-B/16", 115_277_971, 439.85, 85.08, _README_DROPOUT),
    ("R50+ViT-L_32", "R50+ViT-L/32", 351_408_531, 1.31 * _GIB, None, None),
)
# Issues 10, 32 and 252 of vision_transformer; timm issue 644 measured 0.1 %.
_ZERO_HEAD = "every value of its 21,843-way head is zero (deliberately): it cannot classify"

# Listing in the README's notebook.  B_8 is at 384 px by its size.  Accuracies of the files
# themselves where someone measured them, else the paper's for that model at 384 px.
# file, architecture, pixels, parameters, MiB, accuracy, its source
_IMAGENET21K_IMAGENET2012 = (
    ("ViT-B_32", "ViT-B/32", 384, 88_297_192, 336.89, 81.28, _TABLE_5),
    ("ViT-B_16", "ViT-B/16", 384, 86_859_496, 331.4, 84.212, _TIMM),
    ("ViT-B_16-224", "ViT-B/16", 224, 86_567_656, 330.29, 81.2, _EXPECTED),
    ("ViT-B_8", "ViT-B/8", 384, 87_744_232, 334.78, None, None),
    ("ViT-L_32", "ViT-L/32", 384, 306_632_680, 1.14 * _GIB, 81.508, _TIMM),
    ("ViT-L_16", "ViT-L/16", 384, 304_715_752, 1.14 * _GIB, 85.15, _TABLE_5),
    ("ViT-L_16-224", "ViT-L/16", 224, 304_326_632, 1.13 * _GIB, 82.7, _EXPECTED),
    ("R50+ViT-B_16", "R50+ViT-B/16", 384, 98_950_952, 377.57, 84.988, _TIMM),
)

# Listing in the README's notebook; arXiv:2106.01548.
# file, architecture, parameters, MiB, accuracy, its source, caveats
_SAM_PREFIX = "its size is three times the parameters': an optimizer dump below `opt/target`"
_SAM = (
    ("ViT-S_16", "ViT-S/16", 22_050_664, 252.57, None, None, (_SAM_PREFIX,)),
    ("ViT-B_32", "ViT-B/32", 88_224_232, 336.61, 73.704, _TIMM, ()),
    ("ViT-B_16", "ViT-B/16", 86_567_656, 330.3, 80.246, _TIMM, ()),
    ("ViT-L_32", "ViT-L/32", 306_535_400, 1.14 * _GIB, None, None, ()),
    ("ViT-L_16", "ViT-L/16", 304_326_632, 1.13 * _GIB, None, None, ()),
)

# README, GSAM; the counts are those of vit_jax's `*-gap-norep` models.
# file, architecture, parameters
_GSAM = (
    ("ViT-S_32", "ViT-S/32", 22_878_184),
    ("ViT-S_16", "ViT-S/16", 22_049_896),
    ("ViT-B_32", "ViT-B/32", 88_222_696),
    ("ViT-B_16", "ViT-B/16", 86_566_120),
)
# Issues 195 and 223 of vision_transformer; timm issue 1302.
_GSAM_CAVEATS = (
    "global average pooling, no class token, one position embedding a patch",
    "the first upload had invalid files, and others measured poor accuracies",
)

# README, "the following checkpoints ... that have the best pre-training metrics"; B_8 from bv.
# The accuracy is that of their best fine-tuned file, at 384 px.
# first part, from the augmentation on, parameters, MiB, accuracy after fine-tuning
_AUGREG = (
    ("Ti_16", "none-wd_0.03-do_0.0-sd_0.0", 9_740_115, 37.0, 78.22),
    ("S_32", "none-wd_0.1-do_0.0-sd_0.0", 30_903_507, 118.0, 79.58),
    ("S_16", "light1-wd_0.03-do_0.0-sd_0.0", 30_075_219, 115.0, 83.73),
    ("B_32", "light1-wd_0.1-do_0.0-sd_0.0", 104_252_499, 398.0, 83.59),
    ("B_16", "medium1-wd_0.1-do_0.0-sd_0.0", 102_595_923, 391.0, 85.49),
    ("B_8", "medium2-wd_0.1-do_0.0-sd_0.0", 102_605_139, None, None),
    ("L_16", "strong1-wd_0.1-do_0.0-sd_0.0", 325_690_707, 1243.0, 85.59),
    ("R_Ti_16", "none-wd_0.03-do_0.0-sd_0.0", None, 40.0, 75.40),
    ("R26_S_32", "light1-wd_0.1-do_0.0-sd_0.0", 44_456_467, 170.0, 83.85),
    ("R50_L_32", "medium1-wd_0.1-do_0.1-sd_0.1", 350_358_931, 1337.0, 85.99),
)
# TFDS: labels of the data sets; for KITTI the four bins of VTAB's distance task.
_ADAPT_CLASSES = {
    "imagenet2012": 1_000, "cifar100": 100, "oxford_iiit_pet": 37, "kitti": 4, "resisc45": 45,
}  # fmt: skip

# BiT.  Evaluation of the fine-tuned files: the paper's rule, 384 px, 480 px for R152x4.
# architecture, parameters with 1,000 classes, with 21,843, pixels after fine-tuning, accuracy
_BIT = (
    ("R50x1", 25_549_352, 68_256_659, 384, 80.386),
    ("R50x3", 217_319_080, 345_399_315, 384, 83.982),
    ("R101x1", 44_541_480, 87_248_787, 384, 82.332),
    ("R101x3", 387_934_888, 516_015_123, 384, 84.430),
    ("R152x2", 236_335_208, 321_728_979, 384, 84.468),
    ("R152x4", 936_533_224, 1_107_299_923, 480, 84.936),
)
_BIT_CODE_SIZE = "the released code resizes to 480 px, timm's accuracy is at 448 (R152x4: 480) px"
_BIT_ANY_SIZE = "convolutional, takes any size; the size given is that of the pre-training"
# BiT, "Distilled models": FunMatch students, and the teachers (`_T_`) of each data set.
# file, architecture, pixels, classes, data, accuracy, its source
_BIT_DISTILL = (
    ("R50x1_160", "BiT-R50x1", 160, 1_000, "distilled on ImageNet-1k", None, None),
    ("R50x1_224", "BiT-R50x1", 224, 1_000, "distilled on ImageNet-1k", 82.820, _TIMM),
    ("R152x2_T_224", "BiT-R152x2", 224, 1_000, _I21K_I1K, None, None),
    ("R152x2_T_384", "BiT-R152x2", 384, 1_000, _I21K_I1K, None, None),
    ("R152x2_T_flowers128", "BiT-R152x2", 128, 102, "ImageNet-21k, then Flowers102", None, None),
    ("R152x2_T_pet128", "BiT-R152x2", 128, 37, "ImageNet-21k, then Pets", None, None),
    ("R152x2_T_food128", "BiT-R152x2", 128, 101, "ImageNet-21k, then Food101", None, None),
    ("R152x2_T_sun128", "BiT-R152x2", 128, 397, "ImageNet-21k, then SUN397", None, None),
)

# bv, configs/vit_s16_i1k.py: 76.5 % after 90 epochs; arXiv:2205.01580.
# file, accuracy, its source
_VIT_S16_I1K = (
    ("vit_s16_i1k_90ep", 76.5, "bv, configs/vit_s16_i1k.py"),
    ("vit_s16_i1k_150ep", None, None),
    ("vit_s16_i1k_300ep", None, None),
)

# bv, models/vit.py: zoo/deit3/bv_deit_3_{size}_{pixels}_{data}.  All have ImageNet-1k heads: "21k"
# is the pre-training (facebookresearch/deit, README_revenge.md; arXiv:2204.07118).
_DEIT3_SIZES = {"small": "ViT-S/16", "base": "ViT-B/16", "large": "ViT-L/16"}
_DEIT3_CAVEATS = (
    "converted from PyTorch, the first convolution folded so that it takes [-1, 1]",
    "big_vision does not say how to resize for evaluation",
)

# bv, configs/proj/flexivit: the baselines with one patch size, evaluated as
# `resize(272)|central_crop(240)`.
# file, architecture
_FLEXIVIT = (("vit_b16_i21k_300ep", "ViT-B/16"), ("vit_b30_i21k_300ep", "ViT-B/30"))


def _vit_models(folder, file, **fields):
    name = f"{folder}/{file}"
    return Checkpoint(name=name, url=f"gs://vit_models/{name}.npz", format="vit_jax", **fields)


def _vit_checkpoints():
    for file, architecture, params, mib, accuracy, source in _IMAGENET21K:
        yield _vit_models(
            "imagenet21k", file, architecture=architecture, image_size=224, num_classes=_NUM_21K,
            training=_I21K, representation_layer=True, zero_head=True, num_params=params,
            approx_mib=mib, finetuned_accuracy=accuracy, accuracy_source=source,
            caveats=(_ZERO_HEAD,),
        )  # fmt: skip
    for file, architecture, size, params, mib, accuracy, source in _IMAGENET21K_IMAGENET2012:
        yield _vit_models(
            "imagenet21k+imagenet2012", file, architecture=architecture, image_size=size,
            num_classes=1_000, training=_I21K_I1K, num_params=params, approx_mib=mib,
            accuracy=accuracy, accuracy_source=source,
        )  # fmt: skip
    for file, architecture, params, mib, accuracy, source, caveats in _SAM:
        yield _vit_models(
            "sam", file, architecture=architecture, image_size=224, num_classes=1_000,
            training=f"{_I1K}, sharpness-aware", num_params=params, approx_mib=mib,
            accuracy=accuracy, accuracy_source=source, caveats=caveats,
        )  # fmt: skip
    for file, architecture, params in _GSAM:
        yield _vit_models(
            "gsam", file, architecture=architecture, image_size=224, num_classes=1_000,
            training=f"{_I1K}, sharpness-aware (GSAM)", num_params=params, resize="short_side",
            resize_to=256, interpolation="area", class_token=False, caveats=_GSAM_CAVEATS,
        )  # fmt: skip


def _augreg_checkpoints():
    for first, rest, params, mib, accuracy in _AUGREG:
        yield dataclasses.replace(
            from_stem(f"{first}-i21k-300ep-lr_0.001-aug_{rest}"),
            num_params=params, approx_mib=mib, finetuned_accuracy=accuracy,
            accuracy_source=None if accuracy is None else "README, its best 384 px fine-tuning",
        )  # fmt: skip
    for first, _, _, _, accuracy in _AUGREG:
        for size in (224, 384):
            # B/8 was fine-tuned at 224 px only.
            if (first, size) != ("B_8", 384):
                yield _finetuned(first, size, accuracy if size == 384 else None)


def _finetuned(first, size, accuracy):
    """The best ImageNet fine-tuning of the recommended file, by the index: no listing names it."""
    return Checkpoint(
        name=f"augreg/{first}--imagenet2012-res_{size}", url=augreg.INDEX_URL, through_index=True,
        format="vit_jax", architecture=augreg.ARCHITECTURES[first], image_size=size,
        num_classes=1_000, training=_I21K_I1K, accuracy=accuracy,
        accuracy_source=None if accuracy is None else "README, best 384 px fine-tuning",
    )  # fmt: skip


def from_stem(stem):
    """What the name of an AugReg file tells (pre-training was at 224 px)."""
    parts = augreg.parse_stem(stem)
    training = f"{_I1K if parts.ds == 'i1k' else _I21K}, {parts.epochs} epochs"
    num_classes = 1_000 if parts.ds == "i1k" else _NUM_21K
    if parts.adapt_ds is not None:
        num_classes = _ADAPT_CLASSES[parts.adapt_ds]
        training += f", then {parts.adapt_ds}, {parts.adapt_steps} steps"
    return _vit_models(
        "augreg", stem, architecture=augreg.ARCHITECTURES[parts.name], training=training,
        image_size=parts.adapt_resolution or 224, num_classes=num_classes,
    )  # fmt: skip


def _bit(file, **fields):
    url = f"gs://bit_models/{file}.npz"
    return Checkpoint(name=f"bit/{file}", url=url, format="bit", **fields)


def _bit_checkpoints():
    for model, params_1k, params_21k, finetuned_size, accuracy in _BIT:
        architecture = f"BiT-{model}"
        # arXiv:1912.11370, pre-training at 224 px.
        yield _bit(
            f"BiT-S-{model}", architecture=architecture, image_size=224, num_classes=1_000,
            training=_I1K, num_params=params_1k, caveats=(_BIT_ANY_SIZE,),
        )  # fmt: skip
        yield _bit(
            f"BiT-M-{model}", architecture=architecture, image_size=224, num_classes=_NUM_21K,
            training=_I21K, num_params=params_21k, caveats=(_BIT_ANY_SIZE,),
        )  # fmt: skip
        yield _bit(
            f"BiT-M-{model}-ILSVRC2012", architecture=architecture, image_size=finetuned_size,
            num_classes=1_000, training=_I21K_I1K, num_params=params_1k, accuracy=accuracy,
            accuracy_source=_TIMM, caveats=(_BIT_CODE_SIZE,),
        )  # fmt: skip
    for file, architecture, size, num_classes, training, accuracy, source in _BIT_DISTILL:
        yield _bit(
            f"distill/{file}", architecture=architecture, image_size=size, num_classes=num_classes,
            training=training, accuracy=accuracy, accuracy_source=source,
        )  # fmt: skip


def _big_vision(path, **fields):
    url = f"gs://big_vision/{path}.npz"
    return Checkpoint(name=f"big_vision/{path}", url=url, format="big_vision", **fields)


def _big_vision_checkpoints():
    for file, accuracy, source in _VIT_S16_I1K:
        yield _big_vision(
            file, architecture="ViT-S/16", image_size=224, num_classes=1_000, training=_I1K,
            representation_layer=True, resize="short_side", resize_to=256, interpolation="area",
            accuracy=accuracy, accuracy_source=source, class_token=False,
            caveats=("global average pooling; sine-cosine positions without an array",),
        )  # fmt: skip
    for word, architecture in _DEIT3_SIZES.items():
        for size in (224, 384):
            for data, training in (("1k", _I1K), ("21k", _I21K_I1K)):
                yield _big_vision(
                    f"zoo/deit3/bv_deit_3_{word}_{size}_{data}", architecture=architecture,
                    image_size=size, num_classes=1_000, training=f"{training} (DeiT-III)",
                    resize=None, caveats=_DEIT3_CAVEATS,
                )  # fmt: skip
    for file, architecture in _FLEXIVIT:
        yield _big_vision(
            f"flexivit/{file}", architecture=architecture, image_size=240, num_classes=_NUM_21K,
            training=f"{_I21K}, 300 epochs", resize_to=272,
        )  # fmt: skip


def _own_checkpoints():
    """The model that `tools/fashion_mnist_table.py` trains."""
    yield Checkpoint(
        name="fashion_mnist/ViT-mini_4", url=f"{PACKAGED}fashion_mnist_vit_mini_4.keras",
        format="keras", architecture="ViT-mini/4", image_size=28, num_classes=10,
        training="Fashion-MNIST, 12 epochs", resize=None, class_token=False,
        dataset="fashion_mnist", accuracy=89.31, accuracy_source="docs/evaluation.md",
        num_bytes=1_343_264,
        sha256="a97d8c1ef4ba81e9dc22e01947ba7fcd69b14f4a5ea0d5e6f5adb08a403f26a3",
    )  # fmt: skip


def checkpoints():
    """All rows."""
    for family in (
        _vit_checkpoints,
        _augreg_checkpoints,
        _bit_checkpoints,
        _big_vision_checkpoints,
        _own_checkpoints,
    ):
        yield from family()
