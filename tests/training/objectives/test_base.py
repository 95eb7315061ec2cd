import numpy as np
import tensorflow as tf

from keras_vit.training.objectives.base import with_targets
from keras_vit.training.objectives.supervised import Supervised


class Draw:
    """An objective whose target is a number that is drawn."""

    def targets(self, image, label, seed):
        return image, tf.random.stateless_uniform((), seed)


def batches(num_steps, start_step=0, first=0, size=4):
    images = np.zeros((num_steps * size, 2, 2, 1), "float32")
    data = tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images), "int32")))
    options = {"seed": 3, "start_step": start_step, "first_example": first}
    data = with_targets(data.batch(size, drop_remainder=True), Draw(), **options)
    return np.array([y for _, y in data.as_numpy_iterator()])


def test_targets_are_functions_of_seed_step_and_place():
    expected = batches(3)
    assert len(np.unique(expected)) == 12
    np.testing.assert_array_equal(batches(2, start_step=1), expected[1:])
    np.testing.assert_array_equal(batches(3, first=2, size=2), expected[:, 2:])


def test_supervised_targets_leave_the_batches_alone():
    data = tf.data.Dataset.range(3)
    options = {"seed": 0, "start_step": 0, "first_example": 0}
    assert with_targets(data, Supervised(), **options) is data
