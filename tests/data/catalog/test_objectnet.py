import json

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.catalog import objectnet, resolve, rows

RED = (255, 0, 0)


def write_objectnet(root, encode):
    """Three folders, of which two are shared: one is two ImageNet classes, one is one."""
    mappings = root / "mappings"
    mappings.mkdir(parents=True)
    (mappings / "imagenet_to_label_2012_v2").write_text(
        "kit fox, Vulpes macrotis\nanalog clock\nbanana\ndigital clock\n"
    )
    for name, content in (
        ("pytorch_to_imagenet_2012_id.json", {"278": 0, "409": 1, "954": 2, "530": 3}),
        (
            "folder_to_objectnet_label.json",
            {"alarm_clock": "Alarm clock", "air_freshener": "Air freshener", "banana": "Banana"},
        ),
        (
            "objectnet_to_imagenet_1k.json",
            {"Alarm clock": "digital clock; analog clock", "Banana": "banana"},
        ),
    ):
        (mappings / name).write_text(json.dumps(content))
    grey = 10
    for folder, count in (("alarm_clock", 2), ("air_freshener", 1), ("banana", 1)):
        (root / "images" / folder).mkdir(parents=True)
        for k in range(count):
            pixels = np.full((9, 11, 3), RED, np.uint8)
            pixels[2:-2, 2:-2] = grey
            grey += 10
            (root / "images" / folder / f"{k}.png").write_bytes(encode(pixels, "PNG"))


def test_read_mappings_gives_every_imagenet_class_of_a_folder(tmp_path, encode):
    write_objectnet(tmp_path, encode)
    assert objectnet.read_mappings(tmp_path / "mappings") == {
        "alarm_clock": (409, 530),
        "banana": (954,),
    }


def test_read_mappings_that_do_not_fit_together_raise(tmp_path, encode):
    write_objectnet(tmp_path, encode)
    path = tmp_path / "mappings" / "objectnet_to_imagenet_1k.json"
    path.write_text(json.dumps({"Banana": "plantain"}))
    with pytest.raises(ValueError, match="'Banana': 'plantain' .* 'plantain' is not known"):
        objectnet.read_mappings(tmp_path / "mappings")


def test_objectnet_has_the_shared_classes_without_the_red_border(tmp_path, encode):
    write_objectnet(tmp_path / "downloads" / "manual" / "objectnet-1.0", encode)
    info = resolve.resolve("objectnet", tmp_path, download=True)
    assert info.evaluation == rows.SHARED_CLASSES
    assert info.split_sizes == {"test": 3}
    assert info.num_classes == 1_000
    assert info.class_names[0] == "n01440764"
    found = {}
    for image, labels in info.source.stream("test"):
        pixels = tf.io.decode_png(image).numpy()
        assert pixels.shape == (5, 7, 3)
        assert labels.shape == (rows.MAX_LABELS,)
        found[int(np.unique(pixels).item())] = [int(label) for label in labels if label >= 0]
    assert found == {10: [409, 530], 20: [409, 530], 40: [954]}


def test_resolve_objectnet_without_its_folder_says_what_belongs_where(tmp_path):
    with pytest.raises(ValueError, match="manual. Get objectnet-1.0.zip .* `mappings`"):
        resolve.resolve("objectnet", tmp_path, download=True)
