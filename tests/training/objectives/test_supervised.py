import keras
import numpy as np
import pytest

from keras_vit.training.objectives.base import Objective
from keras_vit.training.objectives.registry import BY_NAME, objective_of
from keras_vit.training.objectives.supervised import Accuracy, Supervised
from keras_vit.training.recipe import OBJECTIVES, Recipe

LOGITS = np.array([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [5.0, 1.0, 2.0]], "float32")


@pytest.mark.parametrize("labels", [[0, 2, 1], [[0.9, 0.1, 0.0], [0.0, 0.2, 0.8], [0.4, 0.6, 0.0]]])
def test_accuracy_of_labels_and_of_shares(labels):
    metric = Accuracy()
    metric.update_state(np.array(labels), LOGITS)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_accuracy_of_one_logit_is_its_sign():
    metric = Accuracy()
    metric.update_state(np.array([1, 0, 1]), np.array([[2.0], [-1.0], [-3.0]], "float32"))
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_accuracy_is_made_again_from_its_configuration():
    assert Accuracy.from_config(Accuracy(name="a").get_config()).name == "a"


def test_supervised_is_the_objective_of_a_recipe():
    objective = objective_of(Recipe(steps=1, loss="sigmoid", label_smoothing=0.1))
    assert isinstance(objective, Objective)
    assert tuple(BY_NAME) == OBJECTIVES
    assert objective == Supervised("sigmoid", 0.1)
    assert objective.loss().label_smoothing == 0.1
    assert [metric.name for metric in objective.metrics()] == ["accuracy"]
    model = keras.Sequential()
    assert objective.build(model, None) is objective.finish(model) is model
