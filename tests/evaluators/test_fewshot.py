"""Few-shot evaluation against what big_vision's own evaluator computes."""

import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import pipeline
from keras_vit.evaluators import features, fewshot
from tests.conftest import REFERENCE
from tests.tiny import make_model

CASES = ("tall", "wide", "uneven")
# The reference solves in float32; its weights, up to 0.1, differ from float64's by 1.3e-5 at most.
WEIGHTS_TOLERANCE = 5e-5
# Both in float64, by another order of the same sums.
FLOAT64_TOLERANCE = 1e-8


@pytest.fixture(params=CASES)
def case(request):
    with np.load(REFERENCE / "evaluation" / "fewshot" / f"{request.param}.npz") as file:
        return {key: file[key] for key in file.files}


def _solution(case, seed, shots):
    chosen = fewshot.choose_examples(case["train_labels"], int(case["num_classes"]), shots, seed)
    few, labels = case["train_features"][chosen], case["train_labels"][chosen]
    (weights,) = fewshot.least_squares(few, labels, int(case["num_classes"]))
    return few, weights


def test_chosen_examples_are_those_of_big_vision(case):
    for seed in (0, 1, 2):
        for shots in fewshot.SHOTS:
            chosen = fewshot.choose_examples(
                case["train_labels"], int(case["num_classes"]), shots, seed
            )
            assert chosen.tolist() == case[f"seed{seed}/shots{shots}/indices"].tolist()


def test_weights_and_predictions_are_those_of_big_vision(case, assert_close):
    for seed in (0, 1):
        for shots in fewshot.SHOTS:
            key = f"seed{seed}/shots{shots}"
            few, weights = _solution(case, seed, shots)
            mean, std = fewshot.standardise(few)
            assert_close(weights, case[f"{key}/weights_float64"], FLOAT64_TOLERANCE)
            np.testing.assert_allclose(
                weights, case[f"{key}/weights"], rtol=0, atol=WEIGHTS_TOLERANCE
            )
            predictions = fewshot.predict(case["test_features"], mean, std, weights)
            assert np.sum(predictions != case[f"{key}/predictions"]) <= 1


def test_accuracies_on_the_grid_differ_no_more_than_float32_does_from_float64(case):
    accuracies = fewshot.few_shot_accuracies(
        case["train_features"],
        case["train_labels"],
        case["test_features"],
        case["test_labels"],
        int(case["num_classes"]),
        l2_regs=fewshot.L2_GRID,
    )
    slack = case["float64_disagreement"] + 1 / len(case["test_labels"]) + 1e-12
    assert np.all(np.abs(accuracies - case["accuracy"]) <= slack)
    exact = case["float64_disagreement"] == 0
    assert np.mean(exact) > 0.3
    np.testing.assert_allclose(accuracies[exact], case["accuracy"][exact], atol=1e-12)


def test_one_lambda_gives_what_the_grid_gives(case, assert_close):
    few, weights = _solution(case, 0, 5)
    chosen = fewshot.choose_examples(case["train_labels"], int(case["num_classes"]), 5, 0)
    grid = fewshot.least_squares(
        few, case["train_labels"][chosen], int(case["num_classes"]), (512.0, fewshot.L2_REG)
    )
    assert_close(list(grid)[1], weights, FLOAT64_TOLERANCE)


def test_older_rule_chooses_the_reference_lambdas_with_the_stable_sort():
    folder = REFERENCE / "evaluation" / "fewshot"
    facts = json.loads((folder / "fewshot.json").read_text())
    accuracies = []
    for name in CASES:
        with np.load(folder / f"{name}.npz") as file:
            accuracies.append(file["accuracy"][0])
    expected = facts["best_l2_across_cases_seed0"]["stable_sort"]
    for k, shots in enumerate(fewshot.SHOTS):
        of_cases = [accuracy[k] for accuracy in accuracies]
        assert fewshot.best_l2_reg(of_cases) == expected[str(shots)]


def test_classes_that_float32_cannot_tell_apart_are_told_in_float64():
    rng = np.random.default_rng(0)
    features_ = rng.normal(size=(64, 8)).astype(np.float32)
    weights = rng.normal(size=(9, 1)) + 1e-11 * rng.normal(size=(9, 5))
    mean, std = np.zeros(8), np.full(8, 1 - fewshot.STD_EPSILON)
    logits = np.concatenate([features_, np.full((64, 1), 100.0)], axis=1) @ weights
    predictions = fewshot.predict(features_, mean, std, weights)
    assert predictions.tolist() == logits.argmax(axis=-1).tolist()


def test_lambda_must_be_positive():
    with pytest.raises(ValueError, match="`l2_regs` must be positive. Received: 0"):
        next(fewshot.least_squares(np.ones((2, 2)), [0, 1], 2, (0.0,)))
    with pytest.raises(ValueError, match="`l2_reg` must be positive, or 'grid'"):
        fewshot.FewShot("digits/all", l2_reg=-1)


@pytest.fixture
def digits(digits_dir):
    return pipeline.resolve("digits/all", digits_dir)


def test_evaluator_gives_the_mean_over_seeds_of_a_hand_made_evaluation(digits):
    model = make_model(num_classes=10)
    evaluator = fewshot.FewShot(digits, shots=(1, 5), batch_size=100)
    metrics = evaluator.run(model)
    reader = features.FeatureReader(digits, features.FeatureOptions(preprocessing="big_vision"))
    train, test = reader.read(model, "train"), reader.read(model, "test")
    expected = fewshot.few_shot_accuracies(*train, *test, 10, shots=(1, 5))
    assert evaluator.name == "fewshot/digits/all"
    assert metrics["5shot"] == pytest.approx(expected[:, 1, 0].mean())
    assert metrics["1shot/seed2"] == pytest.approx(expected[2, 0, 0])
    assert set(metrics) == {
        f"{k}shot{s}" for k in (1, 5) for s in ("", "/seed0", "/seed1", "/seed2")
    }
    assert metrics["5shot"] > 0.3  # untrained features tell digits apart better than chance


def test_grid_says_which_lambda_it_chose(digits):
    evaluator = fewshot.FewShot(digits, shots=5, seeds=(0,), l2_reg="grid")
    metrics = evaluator.run(make_model(num_classes=10))
    assert metrics["5shot/l2_reg"] in fewshot.L2_GRID


def test_more_shots_than_images_are_an_error_unless_fewer_are_allowed(digits):
    with pytest.raises(ValueError, match="at least as many images as shots. Received: 10[0-9] of"):
        fewshot.FewShot(digits, shots=1000).run(make_model(num_classes=10))
    evaluator = fewshot.FewShot(digits, shots=1000, seeds=(0,), allow_fewer=True)
    assert evaluator.run(make_model(num_classes=10))["1000shot"] > 0.5


def test_class_without_images_is_named():
    class Info:
        name, class_names, num_classes = "pets", ("cat", "dog", "owl"), 3

    with pytest.raises(ValueError, match="none of class 'dog' in 'train' of 'pets'"):
        fewshot.check_shots(np.array([0, 2, 2]), Info, (1,), "train")


def test_split_that_is_not_there_is_an_error(digits):
    with pytest.raises(ValueError, match="`split` must be one of .*Received: 'tset'"):
        fewshot.FewShot(digits, test_split="tset").run(make_model(num_classes=10))


def test_model_without_features_is_an_error(digits):
    images = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(images))
    with pytest.raises(ValueError, match="'pre_logits' needs a model with a layer 'head'"):
        fewshot.FewShot(digits, shots=1).run(keras.Model(images, logits))
    tokens = keras_vit.create_model(
        "ViT-Ti/16", image_size=16, depth=1, pooling="none", class_token=False
    )
    with pytest.raises(ValueError, match="features must be one vector for each image"):
        fewshot.FewShot(digits, shots=1).run(tokens)
