"""Segmentation through a whole run: finetune, kill and resume, evaluate, predict, SavedModel."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_vit
from keras_vit.cli import main
from keras_vit.distribution.strategy import mirrored_strategy
from keras_vit.evaluators.segmentation import evaluate_masks
from keras_vit.training.objectives.segmentation import PixelAccuracy, PixelCrossentropy
from keras_vit.training.recipe import Recipe
from tests import tiny
from tests.data import mask_folder
from tests.train_step import replica_cases

OPTIONS = {
    "objective": "segmentation",
    "decoder": "mask",
    "decoder_depth": 1,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "steps": 3,
    "batch_size": 2,
    "report_steps": 2,
    "window_stride": 8,
    "class_weights": (1.0, 2.0, 1.5),
    "progress": False,
}


class Stop(keras.callbacks.Callback):
    """Stands for a process that is killed in the third step, after a report."""

    count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == 3:
            raise InterruptedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return mask_folder.make(tmp_path_factory.mktemp("masks") / "data", colors=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    tiny.make_model(image_size=16).save(path)
    return path


@pytest.fixture(scope="module")
def run(source, folder, tmp_path_factory):
    return keras_vit.finetune(source, folder, tmp_path_factory.mktemp("runs") / "run", **OPTIONS)


def weights(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


def test_a_run_measures_and_writes_a_segmentation(run):
    assert set(run.files) == {"recipe.json", "history.csv", "metrics.json", "model.keras"}
    metrics = json.loads(run.files["metrics.json"].read_text())
    for split in ("validation", "test"):
        assert 0 <= metrics[split]["mean_iou"] <= 1
        assert metrics[split]["count"] == 3
    assert {"loss", "pixel_accuracy"} == set(metrics["train"])
    assert run.model.class_names == mask_folder.CLASSES


def test_a_killed_run_ends_with_the_same_bits(source, folder, run, tmp_path):
    with pytest.raises(InterruptedError):
        keras_vit.finetune(
            source, folder, tmp_path / "run", callbacks=[Stop()], checkpoint_steps=1, **OPTIONS
        )
    again = keras_vit.finetune(source, folder, tmp_path / "run", checkpoint_steps=1, **OPTIONS)
    expected = weights(run.model)
    for path, value in weights(again.model).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert again.metrics["test"] == run.metrics["test"]


@pytest.mark.tensorflow_only
def test_two_replicas_come_to_what_one_device_comes_to(source, folder, run, tmp_path):
    two = keras_vit.finetune(
        source, folder, tmp_path / "two", strategy=mirrored_strategy(), **OPTIONS
    )
    expected = weights(run.model)
    for path, value in weights(two.model).items():
        np.testing.assert_allclose(value, expected[path], atol=replica_cases.WEIGHTS, err_msg=path)
    assert two.metrics["num_replicas"] == 2
    assert two.metrics["test"] == pytest.approx(run.metrics["test"], abs=1e-2)


def test_a_file_gives_the_model_again(run):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    expected = run.model.predict_on_batch(images)
    for model in (
        keras_vit.from_pretrained(run.workdir),
        keras.models.load_model(run.files["model.keras"]),
    ):
        np.testing.assert_array_equal(model.predict_on_batch(images), expected)
        assert model.class_names == run.model.class_names
        assert model.get_config()["head"] == run.model.get_config()["head"]


def test_keras_quantize_is_refused_and_changes_nothing(run):
    before = weights(run.model)
    with pytest.raises(NotImplementedError, match="for models that classify"):
        run.model.quantize("int8")
    assert set(weights(run.model)) == set(before)


def test_a_segmentation_model_takes_no_new_head(run):
    with pytest.raises(ValueError, match="is loaded as it is"):
        keras_vit.from_pretrained(run.workdir, num_classes=4)


def _read(path):
    with Image.open(path) as image:
        return np.array(image)


# On JAX an export with the exact GELU of the mask transformer needs a TensorFlow as new as JAX.
@pytest.mark.tensorflow_only
def test_evaluate_predict_and_export_agree(run, folder, tmp_path, capsys):
    model, data = f"--model={run.workdir}", f"--dataset={folder}"
    assert main.main(["evaluate", model, data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mean_iou"] == run.metrics["test"]["mean_iou"]
    assert main.main(["export", model, str(tmp_path / "export")]) == 0
    images = str(folder / "test" / "images")
    for name, source in (("keras", model), ("saved", f"--saved_model={tmp_path / 'export'}")):
        output = f"--output={tmp_path / name}"
        assert main.main(["predict", source, output, "--overlay", images]) == 0
    labels, masks = [], []
    for path in sorted((folder / "test" / "images").iterdir()):
        mask = _read(tmp_path / "keras" / path.name)
        assert mask.shape == _read(path).shape[:2]
        np.testing.assert_array_equal(mask, _read(tmp_path / "saved" / path.name))
        overlay = _read(tmp_path / "keras" / f"{path.stem}_overlay.png")
        assert overlay.shape == _read(path).shape
        masks.append(mask)
    # The masks are those that were measured.
    from keras_vit.data import mask_pipeline
    from keras_vit.data.catalog.masks import resolve_masks
    from keras_vit.evaluators.segmentation import confusion_matrix, scores

    pairs = mask_pipeline.evaluation_pairs(
        resolve_masks(folder), "test", run.model.preprocessing
    ).as_numpy_iterator()
    labels = [label for _, label in pairs]
    confusion = sum(confusion_matrix(a, b, 3) for a, b in zip(labels, masks, strict=True))
    assert scores(confusion)["mean_iou"] == found["mean_iou"]


def test_a_bad_photograph_costs_no_other_its_mask(run, folder, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    good = folder / "test/images/0.png"
    arguments = [f"--model={run.workdir}", f"--output={tmp_path / 'out'}", str(good)]
    assert main.main(["predict", *arguments, str(tmp_path / "bad.jpg")]) == 1
    assert "bad.jpg" in capsys.readouterr().err
    assert len(list((tmp_path / "out").rglob("0.png"))) == 1


def masks_in(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_predict_replaces_nothing_that_is_not_its_own(run, folder, tmp_path, capsys):
    """A folder of pictures as --output, even with --overwrite, and what was put into ours."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("0.png", "1.png"):
        (photos / name).write_bytes((folder / "test/images" / name).read_bytes())
    before = masks_in(photos)
    for flags in ([], ["--overwrite"]):
        arguments = [f"--model={run.workdir}", f"--output={photos}", *flags, str(photos)]
        assert main.main(["predict", *arguments]) == 2
        assert "which holds other files; name another one" in capsys.readouterr().err
        assert masks_in(photos) == before
    assert sorted(path.name for path in photos.iterdir()) == ["0.png", "1.png"]


def test_masks_are_known_by_their_image_and_their_model(run, folder, source, tmp_path, capsys):
    photos, output = tmp_path / "photos", tmp_path / "photos" / "masks"
    photos.mkdir()
    for name in ("0.png", "1.png"):
        (photos / name).write_bytes((folder / "test/images" / name).read_bytes())

    def predict(*arguments):
        code = main.main(["predict", f"--output={output}", *map(str, arguments)])
        return code, capsys.readouterr().err

    assert predict(f"--model={run.workdir}", photos)[0] == 0
    first = masks_in(output)
    assert set(first) == {"0.png", "1.png"}
    (output / "1.png").unlink()  # as if it had been interrupted
    with (output / ".keras_vit_masks.jsonl").open("ab") as record:
        record.write(b'7\n[]\n[[1]]\n\xff\n["0.p')
    assert predict(f"--model={run.workdir}", photos)[0] == 0  # its masks are no pictures
    assert masks_in(output) == first
    # An image that has changed is answered anew; another one of the same name is not taken for it.
    (photos / "0.png").write_bytes((folder / "test/images/1.png").read_bytes())
    assert predict(f"--model={run.workdir}", photos)[0] == 0
    assert masks_in(output)["0.png"] == first["1.png"]
    code, err = predict(f"--model={run.workdir}", folder / "test/images/0.png")
    assert code == 1
    assert "0.png is the mask of" in err
    # Another model does not go on where this one stopped.
    other = keras_vit.from_pretrained(run.workdir)
    other.weights[0].assign(other.weights[0] + 1.0)
    other.save(tmp_path / "other.keras")
    code, err = predict(f"--model={tmp_path / 'other.keras'}", photos)
    assert code == 2
    assert "begun with other work. Received: another model" in err
    assert predict(f"--model={tmp_path / 'other.keras'}", "--overwrite", photos)[0] == 0


def test_the_command_says_in_one_line_what_is_wrong_with_a_mask(source, tmp_path, capfd):
    folder = mask_folder.make(tmp_path / "data", splits=("train",))
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "train/masks/1.png")
    arguments = [f"--model={source}", f"--dataset={folder}", f"--workdir={tmp_path / 'run'}"]
    sets = ["--set=steps=2", "--set=batch_size=3", "--set=report_steps=1"]
    assert main.main(["finetune", "--task=segmentation", *arguments, *sets]) != 0
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "masks/1.png: the mask has 5 x 5 pixels, its image 19 x 27" in errors[0]


def test_the_loss_leaves_out_ignored_pixels_and_weighs_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    masks = rng.integers(0, 5, (2, 3, 4)).astype(np.uint8)
    masks[0, 0] = 255
    weights = np.array([1, 2, 0, 0.5, 3])
    shifted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = 0.0
    for place in np.ndindex(masks.shape):
        label = masks[place]
        if label != 255:
            expected -= weights[label] * shifted[place][label] / masks.size
    loss = PixelCrossentropy(weights)
    assert float(loss(masks, logits)) == pytest.approx(expected, rel=1e-5)
    assert PixelCrossentropy.from_config(loss.get_config()).class_weights == tuple(weights)
    accuracy = PixelAccuracy()
    accuracy.update_state(masks, logits)
    counted = masks != 255
    right = (logits.argmax(-1) == masks)[counted].mean()
    assert float(accuracy.result()) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "supervised", "mirror": True}, "`mirror` is of the objectives segmentation"),
        ({"scale_range": (2.0, 1.0)}, "`scale_range` must be two that rise"),
        ({"class_weights": "balanced"}, "must be a number for each class"),
        ({"sampling": "balanced"}, "`sampling` is of one class an image"),
        ({"label_smoothing": 0.1}, "`label_smoothing` is of the objectives supervised, .*pass"),
        ({"objective": "mae", "label_smoothing": 0.1}, "Received: 0.1 for 'mae'"),
    ],
)
def test_fields_that_have_no_meaning_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"steps": 1, "objective": "segmentation", **fields})


def test_weights_for_other_classes_are_refused(source, folder, tmp_path):
    with pytest.raises(ValueError, match="each of the 3 classes"):
        keras_vit.finetune(
            source, folder, tmp_path / "run", **{**OPTIONS, "class_weights": (1.0, 1.0)}
        )


def test_evaluation_of_unknown_splits_is_an_error(run, folder):
    with pytest.raises(ValueError, match="`split` must be one of"):
        evaluate_masks(run.model, folder, "tests")
    assert tf.executing_eagerly()
