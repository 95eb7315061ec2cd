"""What `keras-vit evaluate` prints beside the measured accuracy."""

import json

import pytest

import keras_vit
from keras_vit.data import pipeline
from keras_vit.evaluators import classification

MODEL = "imagenet21k+imagenet2012/ViT-B_16"


@pytest.fixture
def pretended(monkeypatch):
    """An evaluation of a catalogue's checkpoint on ImageNet, without either."""

    class Info:
        name = "imagenet2012:5.1.0"

        def num_examples(self, split):
            return 50_000

    monkeypatch.setattr(pipeline, "resolve", lambda *args, **kwargs: Info())
    monkeypatch.setattr(keras_vit, "from_pretrained", lambda source: source, raising=False)
    metrics = {"accuracy": 0.84, "loss": 0.6, "count": 50_000}
    monkeypatch.setattr(classification, "evaluate", lambda *args, **kwargs: dict(metrics))


def test_published_accuracy_stands_beside_the_measured_one(keras_vit_command, pretended):
    arguments = ("evaluate", f"--model={MODEL}", "--dataset=imagenet2012")
    row = keras_vit.checkpoints.catalog.lookup.get_checkpoint(MODEL)
    code, out, _ = keras_vit_command(*arguments)
    assert code == 0
    difference = 0.84 - row.accuracy / 100
    assert f"{row.accuracy / 100:.4f}, {difference:+.4f} from it ({row.accuracy_source})" in out
    code, out, _ = keras_vit_command(*arguments, "--json")
    assert json.loads(out)["published_accuracy"] == row.accuracy / 100


def test_no_accuracy_is_published_for_other_splits_and_models(keras_vit_command, pretended):
    for arguments in (
        (f"--model={MODEL}", "--split=validation"),
        ("--model=runs/mine", "--split=test"),
        (f"--model={MODEL}", "--real_labels=real.json"),
    ):
        code, out, _ = keras_vit_command("evaluate", "--dataset=imagenet2012", *arguments)
        assert code == 0
        assert "published" not in out
