import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.input_wait import WaitingShare


def _dataset(seconds, count=12):
    def produce():
        for k in range(count):
            time.sleep(seconds)
            yield np.full((2, 3), k, np.float32), np.full((2,), k % 2, np.int32)

    signature = (tf.TensorSpec((2, 3), tf.float32), tf.TensorSpec((2,), tf.int32))
    return tf.data.Dataset.from_generator(produce, output_signature=signature)


def test_waiting_share_does_not_change_the_elements():
    plain, watched = _dataset(0), WaitingShare().watch(_dataset(0))
    assert watched.element_spec == plain.element_spec
    for expected, (images, labels) in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(labels, expected[1])


def test_waiting_share_tells_slow_data_from_a_slow_consumer():
    slow_data, slow_consumer = WaitingShare(), WaitingShare()
    for _ in slow_data.watch(_dataset(0.03)):
        pass
    for _ in slow_consumer.watch(_dataset(0.0).prefetch(12)):
        time.sleep(0.03)
    assert slow_data.share > 0.8
    assert slow_data.seconds > 11 * 0.03 * 0.9
    assert slow_consumer.share < 0.2
    slow_data.reset()
    assert (slow_data.share, slow_data.seconds) == (0.0, 0.0)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_waiting_share_sees_the_fetch_inside_of_the_training_step(seconds):
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    waiting = WaitingShare()

    class SlowStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch:  # after the first, which compiles
                time.sleep(0.1 - seconds)
            else:
                waiting.reset()

    dataset = waiting.watch(_dataset(seconds, 10).prefetch(1))
    model.fit(dataset, callbacks=[SlowStep()], verbose=0)
    assert (waiting.share > 0.6) if seconds else (waiting.share < 0.4)
