import pathlib

import pytest

import keras_vit
from keras_vit.checkpoints.catalog import augreg, lookup, resolve

_MIB = 2**20
# Listings are rounded (to 0.01 GiB or to 1 MiB), and a zip adds about 0.06 MiB.
_SIZE_TOLERANCE = 0.005
_ROUNDING_MIB = 0.6


def _all():
    return [lookup.get_checkpoint(name) for name in lookup.list_checkpoints()]


def test_catalog_every_family_is_complete():
    counts = {}
    for name in lookup.list_checkpoints():
        folder = name.rpartition("/")[0]
        counts[folder] = counts.get(folder, 0) + 1
    # Sections 1.1 to 1.8 of the official facts.
    assert counts == {
        "imagenet21k": 9,
        "imagenet21k+imagenet2012": 8,
        "sam": 5,
        "gsam": 4,
        "augreg": 10 + 19,
        "bit": 18,
        "bit/distill": 8,
        "big_vision": 3,
        "big_vision/zoo/deit3": 12,
        "big_vision/flexivit": 2,
        "fashion_mnist": 1,
    }


def test_catalog_names_and_addresses_are_unique_and_belong_together():
    rows = [row for row in _all() if not row.through_index and row.format != "keras"]
    assert len({row.name for row in rows}) == len({row.url for row in rows}) == len(rows)
    buckets = {"bit": "bit_models", "big_vision": "big_vision"}
    for row in rows:
        folder, _, rest = row.name.partition("/")
        if folder in buckets:
            assert row.url == f"gs://{buckets[folder]}/{rest}.npz"
        else:
            assert row.url == f"gs://vit_models/{row.name}.npz"


def test_the_row_of_our_own_file_says_what_is_in_it():
    row = lookup.get_checkpoint("fashion_mnist/ViT-mini_4")
    path, found = resolve.locate(row.name)
    assert found is row
    assert path.stat().st_size == row.num_bytes < 1_500_000
    model = keras_vit.from_pretrained(row.name)
    assert model.count_params() == 309_706
    assert model.config.image_size == (row.image_size, row.image_size)
    assert model.origin["name"] == row.name
    pictures = pathlib.Path(__file__).parents[3] / "examples" / "fashion_mnist"
    for answer in keras_vit.predict(model, pictures, top_k=1):
        name = pathlib.Path(answer.path).stem.replace("-", " ")
        # One test image of each class, the first; the model is right about all ten.
        assert answer.predictions[0].class_name.lower().replace("-", " ").startswith(name)


@pytest.mark.parametrize("name", lookup.list_checkpoints("[!f]*"))
def test_catalog_row_is_sane(name):
    row = lookup.get_checkpoint(name)
    assert row.num_classes in (37, 101, 102, 397, 1_000, 21_843)
    assert row.image_size in (128, 160, 224, 240, 384, 480)
    # A hybrid's stride is 32 even where its name says 16 (R+ViT-Ti/16).
    stride = 1 if row.format == "bit" else int(row.architecture.rpartition("/")[2])
    assert row.image_size % stride == 0
    assert row.zero_head == row.name.startswith("imagenet21k/")
    assert row.num_bytes is None
    assert row.sha256 is None
    for accuracy in (row.accuracy, row.finetuned_accuracy):
        assert accuracy is None or 50.0 < accuracy < 90.0
    if row.preprocessing is not None:
        assert row.preprocessing["resize"] in ("squash", "short_side")
        assert row.preprocessing["resize_to"] >= row.preprocessing["image_size"]


def test_catalog_parameter_counts_reproduce_the_listed_sizes():
    compared = 0
    for row in _all():
        if row.num_params is None or row.approx_mib is None:
            continue
        copies = 3 if row.name == "sam/ViT-S_16" else 1
        expected = copies * 4 * row.num_params / _MIB
        tolerance = max(_SIZE_TOLERANCE * expected, _ROUNDING_MIB)
        assert row.approx_mib == pytest.approx(expected, abs=tolerance), row.name
        compared += 1
    assert compared == 30


def test_catalog_known_files_have_the_values_of_their_sources():
    row = lookup.get_checkpoint("imagenet21k+imagenet2012/ViT-B_16-224")
    assert (row.architecture, row.image_size, row.accuracy) == ("ViT-B/16", 224, 81.2)
    row = lookup.get_checkpoint("imagenet21k/R50+ViT-B_16")
    assert row.url == "gs://vit_models/imagenet21k/R50+ViT-B_16.npz"
    assert row.representation_layer
    assert (row.accuracy, row.finetuned_accuracy) == (None, 85.08)
    row = lookup.get_checkpoint("bit/BiT-M-R152x4-ILSVRC2012")
    assert (row.format, row.image_size, row.num_classes) == ("bit", 480, 1_000)
    row = lookup.get_checkpoint("big_vision/flexivit/vit_b16_i21k_300ep")
    assert row.preprocessing == {
        "image_size": (240, 240),
        "resize": "squash",
        "resize_to": (272, 272),
        "interpolation": "bilinear",
    }
    row = lookup.get_checkpoint("big_vision/vit_s16_i1k_90ep")
    assert row.preprocessing["resize_to"] == (256, 256)
    assert row.preprocessing["interpolation"] == "area"
    assert lookup.get_checkpoint("big_vision/zoo/deit3/bv_deit_3_base_224_1k").preprocessing is None


def test_catalog_recommended_finetunings_are_resolved_through_the_index():
    rows = [row for row in _all() if row.through_index]
    assert {row.url for row in rows} == {augreg.INDEX_URL}
    assert all(augreg.is_choice(row.name.removeprefix("augreg/")) for row in rows)
    assert lookup.get_checkpoint("augreg/B_16--imagenet2012-res_384").accuracy == 85.49
    assert lookup.get_checkpoint("augreg/B_16--imagenet2012-res_224").accuracy is None


def test_list_checkpoints_pattern_selects_in_natural_order():
    assert lookup.list_checkpoints("imagenet21k/ViT-B_*") == [
        "imagenet21k/ViT-B_8",
        "imagenet21k/ViT-B_16",
        "imagenet21k/ViT-B_32",
    ]
    assert lookup.list_checkpoints("imagenet21k+imagenet2012/*_8") == [
        "imagenet21k+imagenet2012/ViT-B_8"
    ]
    assert lookup.list_checkpoints("IMAGENET*") == []


def test_get_checkpoint_augreg_name_outside_the_table_is_parsed():
    stem = "R26_S_32-i21k-30ep-lr_0.001-aug_medium2-wd_0.03-do_0.1-sd_0.1"
    row = lookup.get_checkpoint(f"augreg/{stem}")
    assert (row.architecture, row.image_size, row.num_classes) == ("R26+ViT-S/32", 224, 21_843)
    assert row.url == f"gs://vit_models/augreg/{stem}.npz"
    assert row.training == "ImageNet-21k, 30 epochs"
    row = lookup.get_checkpoint(f"augreg/{stem}--oxford_iiit_pet-steps_0k-lr_0.003-res_384")
    assert (row.image_size, row.num_classes) == (384, 37)
    assert row.training == "ImageNet-21k, 30 epochs, then oxford_iiit_pet, 500 steps"
    row = lookup.get_checkpoint("augreg/S_16-i1k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0")
    assert (row.num_classes, row.accuracy) == (1_000, None)


def test_get_checkpoint_unknown_name_lists_close_ones():
    with pytest.raises(ValueError, match=r"'imagenet21k/ViT-B16'.*imagenet21k/ViT-B_16"):
        lookup.get_checkpoint("imagenet21k/ViT-B16")
    with pytest.raises(ValueError, match="See list_checkpoints"):
        lookup.get_checkpoint("§")


def test_get_checkpoint_ill_formed_augreg_name_says_which_part():
    with pytest.raises(ValueError, match="`aug` must be one of .*found 'aug_mediun1'"):
        lookup.get_checkpoint("augreg/B_16-i21k-300ep-lr_0.001-aug_mediun1-wd_0.1-do_0.0-sd_0.0")


def test_get_checkpoint_bare_augreg_model_says_how_to_choose():
    with pytest.raises(ValueError, match="stands for many files.*best_upstream.*'R26_S_32'"):
        lookup.get_checkpoint("augreg/R26_S_32")


@pytest.mark.parametrize(
    ("change", "match"),
    [({"format": "tf"}, "`format` must be one of"), ({"accuracy": 80.0}, "source go together")],
)
def test_checkpoint_contradiction_is_an_error(change, match):
    fields = {
        "name": "sam/X",
        "url": "gs://vit_models/sam/X.npz",
        "architecture": "ViT-B/16",
        "format": "vit_jax",
        "image_size": 224,
        "num_classes": 1_000,
        "training": "ImageNet-1k",
    }
    with pytest.raises(ValueError, match=match):
        lookup.Checkpoint(**(fields | change))
