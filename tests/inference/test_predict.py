"""Predictions on files: equal to the model's, and one bad file costs no other."""

import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data.images.decode import decode_image
from keras_vit.data.images.preprocess import evaluation_image
from keras_vit.inference import predict as predict_module
from keras_vit.inference.predict import ImagePredictions, SavedModelClassifier

# float32, and a softmax over a few classes.
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def folder(pngs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for name, data in {"0.png": pngs[0], "1.png": pngs[1], "sub/2.png": pngs[2]}.items():
        (folder / name).write_bytes(data)
    return folder


def expected_probabilities(model, pngs):
    pixels = np.stack([evaluation_image(decode_image(png), model.preprocessing) for png in pngs])
    exponentials = np.exp(model.predict(pixels, verbose=0))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def assert_answers(answers, model, probabilities):
    assert [answer.error for answer in answers] == [None] * len(probabilities)
    for answer, row in zip(answers, probabilities, strict=True):
        best = np.argsort(-row)[: len(answer.predictions)]
        assert [p.class_id for p in answer.predictions] == best.tolist()
        assert [p.class_name for p in answer.predictions] == [model.class_names[i] for i in best]
        received = [p.probability for p in answer.predictions]
        np.testing.assert_allclose(received, row[best], atol=TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_predict_folder_gives_probabilities_of_the_model(model, folder, pngs, batch_size):
    answers = list(keras_vit.predict(model, [folder], batch_size=batch_size))
    assert [answer.path for answer in answers] == [
        str(folder / name) for name in ("0.png", "1.png", "sub/2.png")
    ]
    assert_answers(answers, model, expected_probabilities(model, pngs))


def test_predict_saved_model_gives_probabilities_of_the_model(model, exported, folder, pngs):
    classifier = SavedModelClassifier(exported.parent)
    assert classifier.folder == exported
    answers = list(keras_vit.predict(classifier, [folder], batch_size=2, top_k=2))
    assert [len(answer.predictions) for answer in answers] == [2, 2, 2]
    assert_answers(answers, model, expected_probabilities(model, pngs))


def test_predict_sigmoid_is_not_normalised(model, folder):
    (answer,) = keras_vit.predict(model, [folder / "0.png"], activation="sigmoid")
    assert abs(sum(p.probability for p in answer.predictions) - 1) > 1e-3


def test_predict_bad_files_cost_no_other(model, folder, pngs, tmp_path):
    good, gif, cut = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    good.write_bytes(pngs[0])
    gif.write_bytes(b"GIF89a")
    cut.write_bytes(pngs[0][:-9])
    answers = list(keras_vit.predict(model, [gif, good, cut, tmp_path / "none", folder / "1.png"]))
    by_path = {answer.path: answer for answer in answers}
    assert by_path[str(gif)].error == "a GIF must have a picture that fills its screen"
    assert "truncated" in by_path[str(cut)].error
    assert by_path[str(tmp_path / "none")].error == "no such file or folder"
    fine = [by_path[str(path)] for path in (good, folder / "1.png")]
    assert_answers(fine, model, expected_probabilities(model, pngs[:2]))


def test_predict_only_bad_files_gives_errors(model, tmp_path):
    path = tmp_path / "empty.png"
    path.write_bytes(b"")
    assert list(keras_vit.predict(model, [path])) == [
        ImagePredictions(str(path), error="not a JPEG, PNG, WebP, GIF or BMP image, it is empty")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1. Received: 0"),
        ({"top_k": -1}, "`top_k` must be at least 1. Received: -1"),
        ({"activation": "relu"}, "must be one of .*Received: 'relu'"),
    ],
)
def test_predict_bad_argument_is_an_error_at_once(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_vit.predict(model, [], **arguments)


def test_saved_model_classifier_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no SavedModel"):
        SavedModelClassifier(tmp_path / "none")


def test_saved_model_classifier_foreign_saved_model_is_an_error(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match="must be an export of keras_vit"):
        SavedModelClassifier(tmp_path)


def test_predict_holds_the_limits_of_the_export(marked, images, pngs, tmp_path):
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    large.write_bytes(tf.io.encode_png(np.zeros((60, 100, 3), np.uint8)).numpy())
    small.write_bytes(pngs[0])
    classifier = SavedModelClassifier(marked)
    first, second = keras_vit.predict(classifier, [large, small], batch_size=64)
    assert first.error == "an image may have at most 5000 pixels, its header says 60 x 100"
    assert second.error is None
    with pytest.raises(ValueError, match="at most the export's 64. Received: 65"):
        keras_vit.predict(classifier, [small], batch_size=65)


def test_predict_thin_image_costs_no_memory(make_model, pngs, tmp_path):
    model = make_model("ViT-Ti/16", depth=1)
    model.preprocessing = keras_vit.Preprocessing(image_size=(32, 32), resize="short_side")
    thin, fine = tmp_path / "a.png", tmp_path / "b.png"
    thin.write_bytes(tf.io.encode_png(np.zeros((1, 60000, 3), np.uint8)).numpy())
    fine.write_bytes(pngs[0])
    first, second = keras_vit.predict(model, [thin, fine])
    assert "once its short side is 32, it is 1 x 60000" in first.error
    assert second.error is None


def test_saved_model_classifier_predict_on_batch_takes_any_number(model, marked):
    tensors = np.random.default_rng(0).uniform(-1, 1, (70, 32, 32, 3)).astype(np.float32)
    logits = SavedModelClassifier(marked).predict_on_batch(tensors)
    expected = model.predict(tensors, verbose=0)
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE * np.abs(expected).max())


def test_predict_answers_that_are_not_finite_are_errors_of_their_image(model, folder, monkeypatch):
    scores = predict_module.KerasClassifier.scores

    def overflowing(self, prepared):
        answer = np.array(scores(self, prepared))
        answer[1, 0] = np.nan
        return answer

    monkeypatch.setattr(predict_module.KerasClassifier, "scores", overflowing)
    answers = list(keras_vit.predict(model, [folder]))
    assert [answer.error for answer in answers] == [None, predict_module.NOT_FINITE, None]
    assert answers[1].predictions == ()


def test_predict_of_one_output_gives_its_score(pngs, folder):
    model = keras_vit.create_model("ViT-Ti/16", num_classes=1, image_size=32, depth=1)
    model.get_layer("head").bias.assign([0.7])
    pixels = evaluation_image(decode_image(pngs[0]), model.preprocessing).numpy()[np.newaxis]
    (score,) = model.predict(pixels, verbose=0)[0]
    for activation in (None, "none", "sigmoid"):
        expected = 1 / (1 + np.exp(-score)) if activation == "sigmoid" else score
        (answer,) = keras_vit.predict(model, [folder / "0.png"], activation=activation)
        assert answer.predictions[0].probability == pytest.approx(expected, abs=TOLERANCE)
    with pytest.raises(ValueError, match="must be sigmoid or none for a model of one output"):
        keras_vit.predict(model, [folder / "0.png"], activation="softmax")


def test_digests_tell_models_by_content(model, exported, tmp_path):
    digest = predict_module.KerasClassifier(model).digest()
    model.save(tmp_path / "a.keras")
    again = keras_vit.from_pretrained(tmp_path / "a.keras")
    assert predict_module.KerasClassifier(again).digest() == digest
    bias = next(v for v in again.weights if v.path == "head/bias")
    bias.assign(np.array(bias) + 1e-3)
    assert predict_module.KerasClassifier(again).digest() != digest
    assert len(SavedModelClassifier(exported).digest()) == 64
