"""Balanced sampling: every class equally often, each image of a class in turn, at any step."""

import numpy as np
import pytest

from keras_vit.data import pipeline
from keras_vit.data.images.operations import Flip
from keras_vit.models.preprocessing import Preprocessing

RULE = Preprocessing(image_size=(8, 8))
LABELS = np.array([0] * 12 + [2] * 5 + [3] * 1)  # none of class 1
IMAGES = np.random.default_rng(0).integers(0, 256, (18, 8, 8, 3), np.uint8)
INFO = pipeline.resolve((IMAGES, LABELS))
OPTIONS = {"batch_size": 6, "seed": 3, "sampling": "balanced"}


def indices(num_steps, **options):
    options = {**OPTIONS, **options}
    return [pipeline.example_indices(INFO, "train", step=k, **options) for k in range(num_steps)]


def test_every_class_is_equally_often_in_a_batch():
    for batch in indices(6):
        assert sorted(LABELS[batch].tolist()) == [0, 0, 2, 2, 3, 3]


def test_images_of_a_class_follow_in_new_permutations():
    seen = np.concatenate(indices(18))
    of_class = seen[LABELS[seen] == 2]
    rounds = of_class[:35].reshape(-1, 5)
    assert all(sorted(each) == list(range(12, 17)) for each in rounds.tolist())
    assert len({tuple(each) for each in rounds.tolist()}) > 1
    assert sorted(seen[LABELS[seen] == 0][:12]) == list(range(12))


def test_order_is_a_function_of_the_seed():
    assert indices(3) == indices(3)
    assert indices(3) != indices(3, seed=4)


def test_batches_go_on_from_any_step_and_shards_are_their_parts():
    def batches(number, **options):
        data = pipeline.training_dataset(
            INFO, "train", RULE, augmentation=(Flip(),), **OPTIONS, **options
        )
        return list(data.take(number).as_numpy_iterator())

    whole = batches(4)
    for place, (images, labels) in enumerate(batches(2, start_step=2)):
        np.testing.assert_array_equal(images, whole[place + 2][0])
        np.testing.assert_array_equal(labels, whole[place + 2][1])
    (images, labels), *_ = batches(1, shard=(1, 2))
    np.testing.assert_array_equal(images, whole[0][0][3:])
    np.testing.assert_array_equal(labels, whole[0][1][3:])
    assert LABELS[indices(4)[3]].tolist() == whole[3][1].tolist()


def test_data_without_one_class_an_image_are_refused():
    info = pipeline.resolve((IMAGES, np.eye(18)), task="multilabel")
    with pytest.raises(ValueError, match="sampling='balanced' needs images of one class each"):
        pipeline.training_dataset(info, "train", RULE, **OPTIONS)
