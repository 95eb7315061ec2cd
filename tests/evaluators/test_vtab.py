"""VTAB-1k's groups and mean, and its label maps against task_adaptation's own."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.catalog import names
from keras_vit.data.catalog import vtab as maps
from keras_vit.evaluators import vtab
from tests.conftest import REFERENCE


@pytest.fixture(scope="module")
def labels():
    with np.load(REFERENCE / "evaluation" / "vtab" / "labels.npz") as file:
        return {key: file[key] for key in file.files}


def test_clevr_labels_are_those_of_task_adaptation(labels):
    for i, size in enumerate(labels["clevr/num_objects"]):
        objects = {
            "pixel_coords": tf.constant(labels["clevr/pixel_coords"][i, :size]),
            "size": tf.zeros(size, tf.int64),
        }
        assert int(maps.clevr_count(objects)) == labels["clevr/count"][i]
        assert int(maps.clevr_distance(objects)) == labels["clevr/distance"][i]


def test_kitti_labels_are_those_of_task_adaptation(labels):
    for i, size in enumerate(labels["kitti/num_objects"]):
        objects = {
            "type": tf.constant(labels["kitti/type"][i, :size]),
            "location": tf.constant(labels["kitti/location"][i, :size]),
        }
        assert int(maps.kitti_distance(objects)) == labels["kitti/distance"][i]


def test_dsprites_labels_are_those_of_task_adaptation(labels):
    places, angles = labels["dsprites/location"], labels["dsprites/orientation"]
    assert maps.dsprites_location(np.arange(len(places))).tolist() == places.tolist()
    assert maps.dsprites_orientation(np.arange(len(angles))).tolist() == angles.tolist()


def test_tasks_are_those_of_the_table_of_data_sets():
    assert sorted(f"vtab/{task}" for task in vtab.TASKS) == sorted(names.list_datasets("vtab/*"))
    assert [len(tasks) for tasks in vtab.GROUPS.values()] == [7, 4, 8]


def test_scores_are_the_means_of_all_and_of_each_group():
    accuracies = {task: float(i) for i, task in enumerate(vtab.TASKS)}
    scores = vtab.vtab_scores(accuracies)
    assert scores == {"mean": 9.0, "natural": 3.0, "specialized": 8.5, "structured": 14.5}


def test_mean_of_fewer_than_19_tasks_is_refused():
    accuracies = dict.fromkeys(vtab.TASKS, 0.5)
    del accuracies["dtd"]
    with pytest.raises(ValueError, match="that of its 19 tasks. Received: nothing for dtd"):
        vtab.vtab_scores(accuracies)
    with pytest.raises(ValueError, match="Received: cifar10 beside"):
        vtab.vtab_scores({**dict.fromkeys(vtab.TASKS, 0.5), "cifar10": 0.5})


def test_evaluator_measures_every_task():
    class Evaluator:
        def __init__(self, dataset):
            self.dataset = dataset

        def run(self, model):
            return {"accuracy": model[self.dataset]}

    model = {f"vtab/{task}": i / 19 for i, task in enumerate(vtab.TASKS)}
    metrics = vtab.VTAB(Evaluator).run(model)
    assert metrics["caltech101"] == 0.0
    assert metrics["smallnorb_elevation"] == pytest.approx(18 / 19)
    assert metrics["mean"] == pytest.approx(9 / 19)


def test_evaluators_are_found_in_the_package():
    from keras_vit import evaluators

    assert evaluators.VTAB is vtab.VTAB
    for name in evaluators.__all__:
        assert getattr(evaluators, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        evaluators.Nothing  # noqa: B018
