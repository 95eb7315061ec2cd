import pytest

from keras_vit.evaluators.base import Evaluator, Every, check_evaluators
from keras_vit.evaluators.classification import Classification, evaluate
from tests import tiny


class Constant:
    name = "constant"

    def run(self, model):
        return {"one": 1.0}


def test_any_object_with_a_name_and_run_is_an_evaluator():
    assert isinstance(Constant(), Evaluator)
    assert isinstance(Classification(), Evaluator)
    assert not isinstance(object(), Evaluator)


@pytest.mark.parametrize("evaluator", [object(), "validation", Constant, lambda model: {}])
def test_objects_of_another_shape_are_refused(evaluator):
    with pytest.raises(TypeError, match=r"a `name` and a method `run\(model\)`"):
        check_evaluators([evaluator])


def test_names_that_are_taken_are_refused():
    check_evaluators([Constant(), Classification()])
    with pytest.raises(ValueError, match="a name of its own.* Received: 'constant'"):
        check_evaluators([Constant(), Every(steps=2, evaluator=Constant())])
    with pytest.raises(ValueError, match="none of steps. Received: 'steps'"):
        check_evaluators([Classification(name="steps")], reserved=["steps"])


def test_every_is_due_once_in_each_period_and_at_the_end():
    every = Every(steps=250, evaluator=Constant())
    reports = [*range(100, 1000, 100), 930]
    assert [step for step in reports if every.is_due(step, 930, 100)] == [300, 500, 800, 930]
    with pytest.raises(ValueError, match="`steps` must be positive. Received: 0"):
        Every(steps=0, evaluator=Constant())


def test_classification_gives_the_floats_of_evaluate(digits_dir):
    from keras_vit.data import pipeline

    info = pipeline.resolve("digits/upstream", digits_dir)
    model = tiny.make_model(num_classes=5)
    expected = evaluate(model, info, "validation")
    evaluator = Classification("validation", dataset=info, batch_size=50)
    assert evaluator.name == "validation"
    received = evaluator.run(model)
    assert received == pytest.approx({key: expected[key] for key in ("accuracy", "loss")})
    assert evaluator.run(model) == received
