"""Zero-copy variable initialisation: loading takes the size of the file and no more."""

import math

import keras
import numpy as np


def blank(shape, dtype):
    """Zeros that take no time: the operating system makes them when they are first touched."""
    if dtype != "float32":
        return keras.ops.zeros(shape, dtype)
    buffer = np.zeros(math.prod(shape) * 4 + 64, np.uint8)
    offset = -buffer.ctypes.data % 64
    return tensor(buffer[offset : buffer.size - 64 + offset].view(np.float32).reshape(shape))


def tensor(array):
    """The backend's tensor; TensorFlow takes over the array's memory where its layout allows."""
    aligned = array.ctypes.data % 64 == 0 and array.flags.c_contiguous and array.size
    if keras.backend.backend() == "tensorflow" and aligned and array.dtype == np.float32:
        import tensorflow as tf

        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return array
