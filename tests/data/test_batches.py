import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import batches


def _prepare(bad=(), bad_when_named=None):
    """Gives (place, 2 * place), and fails at the bad places, with a name if asked to."""

    def prepare(place, is_named):
        wrong = bad if bad_when_named is None or not is_named else bad_when_named
        fails = tf.reduce_any(tf.equal(place, tf.constant(list(wrong), tf.int64)))
        message = [tf.strings.join(["file-", tf.strings.as_string(place)])] if is_named else ["?"]
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(fails), message)]):
            return tf.cast(place, tf.float32) * tf.ones((2,)), tf.identity(2 * place)

    return prepare


def _collect(dataset, seen):
    for _, numbers in dataset:
        seen += numbers.numpy().tolist()


@pytest.mark.parametrize("num_examples", [1, 7, 8, 9])
def test_finite_batches_fill_the_last_with_zeros(num_examples):
    dataset = batches.finite_batches(_prepare(), 4, num_examples)
    assert int(dataset.cardinality()) == len(list(dataset)) == -(-num_examples // 4)
    numbers = np.concatenate([b for _, b in dataset.as_numpy_iterator()])
    expected = np.zeros(len(numbers), np.int64)
    expected[:num_examples] = 2 * np.arange(num_examples)
    np.testing.assert_array_equal(numbers, expected)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("bad", [[0], [3], [5], [7], [8], [2, 3], [3, 4], list(range(9))])
def test_batches_name_the_first_example_that_fails_and_give_those_before(bad, batch_size):
    dataset = batches.finite_batches(_prepare(bad), batch_size, 9)
    seen = []
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"file-{bad[0]}\\b"):
        _collect(dataset, seen)
    assert seen == [2 * k for k in range(bad[0] // batch_size * batch_size)]


def test_batches_a_failure_that_does_not_come_again_is_an_error():
    dataset = batches.finite_batches(_prepare([3], bad_when_named=[]), 4, 9)
    with pytest.raises(tf.errors.InvalidArgumentError, match="example number 3 failed once"):
        list(dataset)
