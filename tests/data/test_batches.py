import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import batches

BLANK = tf.constant(-1, tf.int64)


def _prepare(is_bad=lambda place: False, is_bad_when_named=None):
    """Gives (place, 2 * place), and fails at the bad places, with a name if asked to."""

    def prepare(place, is_named):
        wrong = is_bad_when_named if is_named and is_bad_when_named else is_bad
        fails = tf.logical_and(place >= 0, wrong(place))
        message = [tf.strings.join(["file-", tf.strings.as_string(place)])] if is_named else ["?"]
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(fails), message)]):
            return tf.cast(place, tf.float32) * tf.ones((2,)), tf.identity(2 * place)

    return prepare


def _one_of(places):
    return lambda place: tf.reduce_any(tf.equal(place, tf.constant(list(places), tf.int64)))


def _finite(prepare, batch_size, num_examples):
    def elements_from(place):
        return tf.data.Dataset.range(place, num_examples)

    return batches.finite_batches(elements_from, BLANK, prepare, batch_size, num_examples)


def _endless(prepare, batch_size, start=0, shard=(0, 1)):
    def elements_from(place):
        return tf.data.Dataset.range(place, np.iinfo(np.int64).max)

    return batches.endless_batches(elements_from, BLANK, prepare, batch_size, start, shard)


def _collect(dataset, seen):
    for _, numbers in dataset:
        seen += numbers.numpy().tolist()


@pytest.mark.parametrize("num_examples", [1, 7, 8, 9, 4 * 64, 4 * 130 + 1])
def test_finite_batches_fill_the_last_with_zeros(num_examples):
    dataset = _finite(_prepare(), 4, num_examples)
    assert int(dataset.cardinality()) == len(list(dataset)) == -(-num_examples // 4)
    numbers = np.concatenate([b for _, b in dataset.as_numpy_iterator()])
    expected = np.zeros(len(numbers), np.int64)
    expected[:num_examples] = 2 * np.arange(num_examples)
    np.testing.assert_array_equal(numbers, expected)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("bad", [[0], [3], [5], [7], [8], [2, 3], [3, 4], list(range(9))])
def test_finite_batches_name_the_first_example_that_fails_and_give_those_before(bad, batch_size):
    dataset = _finite(_prepare(_one_of(bad)), batch_size, 9)
    seen = []
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"file-{bad[0]}\\b"):
        _collect(dataset, seen)
    assert seen == [2 * k for k in range(bad[0] // batch_size * batch_size)]


@pytest.mark.parametrize("start", [0, 6, 129])
def test_endless_batches_go_on_from_the_start_past_the_blanks(start):
    dataset = _endless(_prepare(), 3, start).take(200)
    numbers = np.concatenate([b for _, b in dataset.as_numpy_iterator()])
    np.testing.assert_array_equal(numbers, 2 * np.arange(start, start + 600))


@pytest.mark.parametrize("bad", [0, 5, 191, 192, 193, 400])
def test_endless_batches_name_the_first_example_that_fails_and_give_those_before(bad):
    dataset = _endless(_prepare(_one_of([bad, bad + 1, bad + 60])), 3)
    seen = []
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"file-{bad}\\b"):
        _collect(dataset, seen)
    assert seen == [2 * k for k in range(bad // 3 * 3)]


def test_endless_batches_of_a_shard_read_and_name_their_own_examples_only():
    dataset = _endless(_prepare(_one_of([0, 402, 405, 407])), 6, 0, (1, 2))
    seen = []
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"file-405\b"):
        _collect(dataset, seen)
    assert seen == [2 * k for k in range(402) if k % 6 >= 3]


@pytest.mark.parametrize("first_bad", [0, 7])
def test_endless_batches_of_which_all_fail_end(first_bad):
    dataset = _endless(_prepare(lambda place: place >= first_bad), 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"file-{first_bad}\\b"):
        _collect(dataset, [])


def test_batches_a_source_that_fails_for_ever_ends_with_its_error():
    def elements_from(place):
        source = tf.data.Dataset.range(place, 40)
        return source.apply(tf.data.experimental.assert_cardinality(41))

    dataset = batches.finite_batches(elements_from, BLANK, _prepare(), 4, 50)
    seen = []
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain"):
        _collect(dataset, seen)
    assert seen == [2 * k for k in range(40)]


def test_batches_a_failure_that_does_not_come_again_is_an_error():
    dataset = _finite(_prepare(_one_of([3]), is_bad_when_named=_one_of([])), 4, 9)
    with pytest.raises(tf.errors.InvalidArgumentError, match="from number 0 failed once"):
        list(dataset)
