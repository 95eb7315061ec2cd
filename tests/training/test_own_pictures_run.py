"""A run on a folder without splits: stopped and gone on with, and on two replicas."""

import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.distribution.strategy import mirrored_strategy
from tests.data.own_pictures import write_folder
from tests.tiny import ARCHITECTURE
from tests.train_step.replica_cases import WEIGHTS

SMALL = {"steps": 4, "warmup_steps": 0, "report_steps": 2, "batch_size": 8, "image_size": 8}
RUN = {"checkpoint_steps": 1, "progress": False, "report": False}


class StopAt(keras.callbacks.Callback):
    """Stands for a process that is killed after a step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise InterruptedError


@pytest.fixture(name="photos", scope="module")
def photos_fixture(tmp_path_factory):
    """A folder of two classes, of which one file is no image."""
    photos = write_folder(tmp_path_factory.mktemp("own") / "photos", 12)
    (photos / "china" / "broken.jpg").write_bytes(b"<html>")
    return photos


@pytest.fixture(name="source", scope="module")
def source_fixture(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, image_size=8, **ARCHITECTURE)
    path = tmp_path_factory.mktemp("source") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(name="whole", scope="module")
def whole_fixture(source, photos, tmp_path_factory):
    return keras_vit.finetune(source, photos, tmp_path_factory.mktemp("whole"), **SMALL, **RUN)


def weights(workdir):
    return keras_vit.from_pretrained(workdir).get_weights()


def test_a_stopped_run_ends_with_the_bits_and_the_split_of_one_that_was_not(
    source, photos, whole, tmp_path
):
    with pytest.raises(InterruptedError):
        keras_vit.finetune(source, photos, tmp_path, **SMALL, **RUN, callbacks=[StopAt(3)])
    assert not (tmp_path / "model.keras").exists()
    again = keras_vit.finetune(source, photos, tmp_path, **SMALL, **RUN)
    for ours, expected in zip(weights(tmp_path), weights(whole.workdir), strict=True):
        np.testing.assert_array_equal(ours, expected)
    for name in ("split.csv", "skipped.jsonl", "recipe.json"):
        assert (tmp_path / name).read_bytes() == (whole.workdir / name).read_bytes()
    told = ("test", "findings", "num_skipped", "num_train_examples")
    assert [again.metrics[k] for k in told] == [whole.metrics[k] for k in told]
    assert whole.metrics["num_skipped"] == 1


@pytest.mark.slow
def test_a_stopped_run_does_not_go_on_with_other_pictures(source, photos, whole, tmp_path):
    own = write_folder(tmp_path / "photos", 12)
    with pytest.raises(InterruptedError):
        keras_vit.finetune(source, own, tmp_path / "run", **SMALL, **RUN, callbacks=[StopAt(3)])
    next((own / "flower").iterdir()).unlink()
    with pytest.raises(FileExistsError, match="state of another training"):
        keras_vit.finetune(source, own, tmp_path / "run", **SMALL, **RUN)


@pytest.mark.slow
@pytest.mark.tensorflow_only
def test_two_replicas_come_to_what_one_device_does(source, photos, whole, tmp_path):
    run = keras_vit.finetune(source, photos, tmp_path, **SMALL, **RUN, strategy=mirrored_strategy())
    for ours, expected in zip(weights(tmp_path), weights(whole.workdir), strict=True):
        np.testing.assert_allclose(ours, expected, atol=WEIGHTS, rtol=0)
    assert (tmp_path / "split.csv").read_bytes() == (whole.workdir / "split.csv").read_bytes()
    assert run.metrics["test"]["count"] == whole.metrics["test"]["count"]
    assert json.loads((tmp_path / "metrics.json").read_text())["num_skipped"] == 1
