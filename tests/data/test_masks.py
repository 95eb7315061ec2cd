"""Masks: how they are read, and one clear line for each that is bad."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit.data import mask_pipeline
from keras_vit.data.catalog.masks import read_classes, resolve_masks
from keras_vit.data.sources.masks import MaskFormat, decode_mask
from keras_vit.models.preprocessing import Preprocessing
from tests.data import mask_folder

RULE = Preprocessing(image_size=(16, 16), resize="short_side")


def _read(folder, split="train"):
    info = resolve_masks(folder)
    return info, list(mask_pipeline.evaluation_pairs(info, split, RULE).as_numpy_iterator())


@pytest.mark.parametrize("colors", [False, True])
def test_a_folder_gives_images_with_their_masks(tmp_path, colors):
    info, pairs = _read(mask_folder.make(tmp_path / "data", colors=colors))
    assert info.class_names == mask_folder.CLASSES
    assert info.split_sizes == {"train": 3, "validation": 3, "test": 3}
    rng = np.random.default_rng(0)
    for image, mask in pairs[:1]:
        expected = mask_folder.picture(rng, *mask.shape)
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(mask, expected[1])


def test_without_a_table_the_classes_are_those_in_the_masks(tmp_path):
    folder = mask_folder.make(tmp_path / "data")
    (folder / "classes.txt").unlink()
    assert resolve_masks(folder).class_names == ("0", "1", "2")


def test_ade20ks_layout(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        image, mask = mask_folder.picture(rng, 12, 14)
        Image.fromarray(image).save(tmp_path / "images" / split / "ADE_1.jpg")
        mask[mask == 255] = 150
        Image.fromarray(mask).save(tmp_path / "annotations" / split / "ADE_1.png")
    rows = [f"{k}\t0.1\t1\t1\tname {k}" for k in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff", *rows]))
    info, [(_, found)] = _read(tmp_path)
    assert (info.num_classes, info.class_names[0]) == (150, "name 1")
    assert set(info.split_sizes) == {"train", "validation"}
    np.testing.assert_array_equal(np.unique(found), [0, 1, 149, 255])  # 0 is of no class


def _png(tmp_path, image):
    image.save(tmp_path / "mask.png", bits=getattr(image, "bits", 8))
    return tf.io.read_file(str(tmp_path / "mask.png"))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_pngs_of_few_bits_hold_classes(tmp_path, bits):
    values = np.arange(4 * 4, dtype=np.uint8).reshape(4, 4) % min(2**bits, 8)
    rows = np.packbits(
        (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(4, -1), axis=1
    )
    encoded = _encode(rows, bits)
    found = decode_mask(tf.constant(encoded), MaskFormat(num_classes=8), "mask.png")
    np.testing.assert_array_equal(found, values)


def _encode(rows, bits):
    """A grey PNG of 4 x 4 pixels from its packed rows."""
    import struct
    import zlib

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 4, 4, bits, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _palette(array):
    image = Image.fromarray(array, "P")
    image.putpalette([0, 0, 0, 200, 10, 10])
    return image


SMALL = np.zeros((16, 16), np.uint8)
BAD = {
    "size": (
        lambda: Image.fromarray(np.zeros((5, 16), np.uint8)),
        "has 5 x 16 pixels, its image 16 x 16",
    ),
    "class": (lambda: Image.fromarray(SMALL + 7), "the value 7 is none of the 3 classes"),
    "color": (lambda: Image.fromarray(np.zeros((16, 16, 3), np.uint8)), "needs a table of them"),
    "palette": (lambda: _palette(SMALL), "needs a table of them"),
    "deep": (lambda: Image.fromarray(SMALL.astype(np.uint16)), "at most 8 bits"),
}


def _read_mask(folder):
    """The first mask of a folder as the pipelines decode it, without their tracing."""
    path = str(folder / "train/masks/0.png")
    mask_format = resolve_masks(folder).source.mask_format
    return decode_mask(tf.io.read_file(path), mask_format, path, (16, 16))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_mask_is_one_line_that_names_it(tmp_path, kind):
    folder = mask_folder.make(tmp_path / "data", sizes=((16, 16),))
    make, message = BAD[kind]
    make().save(folder / "train/masks/0.png")
    # One kind through a whole pipeline, which a training's test does too.
    read = _read if kind == "class" else _read_mask
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as caught:
        read(folder)
    assert "train/masks/0.png: " in str(caught.value)


def test_training_stops_at_a_bad_mask(tmp_path):
    folder = mask_folder.make(tmp_path / "data")
    Image.fromarray(SMALL + 7).save(folder / "train/masks/0.png")
    data = mask_pipeline.training_dataset(
        resolve_masks(folder), "train", RULE, batch_size=3, seed=0
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="train/masks/0.png: the value 7"):
        next(iter(data))


def test_an_unknown_color_is_named(tmp_path):
    folder = mask_folder.make(tmp_path / "data", colors=True)
    Image.fromarray(np.full((16, 16, 3), 9, np.uint8)).save(folder / "train/masks/0.png")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"the color \(9, 9, 9\) is none"):
        _read_mask(folder)


def test_a_truncated_mask_is_named(tmp_path):
    folder = mask_folder.make(tmp_path / "data")
    path = folder / "train/masks/0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(tf.errors.InvalidArgumentError, match="0.png: a damaged or truncated PNG"):
        _read_mask(folder)


def test_a_mask_that_is_no_png_is_named(tmp_path):
    folder = mask_folder.make(tmp_path / "data")
    Image.fromarray(SMALL).save(folder / "train/masks/0.png", format="JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="0.png: a mask must be a PNG"):
        _read_mask(folder)


def test_files_without_a_partner_are_named(tmp_path):
    folder = mask_folder.make(tmp_path / "data")
    (folder / "train/masks/1.png").unlink()
    with pytest.raises(ValueError, match="1.png without .*masks/1.png"):
        resolve_masks(folder)
    (folder / "train/images/1.png").unlink()
    (folder / "train/images/2.png").unlink()
    with pytest.raises(ValueError, match="each mask needs an image.*2.png"):
        resolve_masks(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "a\n1 2 3 b"),
        ("classes.txt", "a\na"),
        ("classes.json", "{"),
        ("classes.json", json.dumps({"a": [1, 2]})),
        ("classes.json", json.dumps({"a": [1, 2, 300]})),
    ],
)
def test_a_bad_table_is_an_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        read_classes(tmp_path / name)


def test_other_data_and_layouts_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder with masks"):
        resolve_masks(tmp_path / "nothing")
    with pytest.raises(ValueError, match="SPLIT/images and SPLIT/masks"):
        resolve_masks(tmp_path)


def test_batches_go_on_where_they_stopped_and_in_shards(tmp_path):
    info = resolve_masks(mask_folder.make(tmp_path / "data"))
    arguments = {"batch_size": 2, "seed": 5}

    def batches(number, **options):
        data = mask_pipeline.training_dataset(info, "train", RULE, **arguments, **options)
        return list(data.take(number).as_numpy_iterator())

    whole = batches(4)
    assert whole[0][0].shape == (2, 16, 16, 3)
    assert whole[0][1].dtype == np.uint8
    for (image, mask), (later, later_mask) in zip(whole[2:], batches(2, start_step=2), strict=True):
        np.testing.assert_array_equal(image, later)
        np.testing.assert_array_equal(mask, later_mask)
    for index in range(2):
        (image, mask), *_ = batches(1, shard=(index, 2))
        np.testing.assert_array_equal(image, whole[0][0][index : index + 1])
        np.testing.assert_array_equal(mask, whole[0][1][index : index + 1])


def test_single_image_augmentation_is_refused(tmp_path):
    info = resolve_masks(mask_folder.make(tmp_path / "data", splits=("train",)))
    with pytest.raises(ValueError, match="scale_range"):
        mask_pipeline.training_dataset(
            info, "train", RULE, batch_size=1, seed=0, augmentation="crop_flip"
        )


def test_the_pets_of_tfds_have_trimaps(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from keras_vit.data.catalog import masks

    class SmallPets(tfds.core.GeneratorBasedBuilder):
        """The two features that are read, as TFDS's own builder has them."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
                "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            trimap = np.tile(np.array([1, 2, 3], np.uint8), (6, 4))[..., None]
            image = np.full((6, 12, 3), 90, np.uint8)
            yield 0, {"image": image, "label": 0, "segmentation_mask": trimap}

    builder = SmallPets(data_dir=tmp_path)
    builder.download_and_prepare()
    monkeypatch.setattr(masks, "prepared_builder", lambda name, data_dir, download: builder)
    info, [(image, mask)] = _read("oxford_iiit_pet")
    assert info.class_names == ("pet", "background", "border")
    assert image.shape == (6, 12, 3)
    np.testing.assert_array_equal(mask, np.tile([0, 1, 2], (6, 4)))
    assert info.fingerprint(["train"])
