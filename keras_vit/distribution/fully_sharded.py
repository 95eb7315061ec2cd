"""Fully sharded data parallelism on JAX: every device has a part of the batch and of the weights.

As ZeRO-3 (arXiv:1910.02054) and PyTorch's FSDP: parameters, gradients, moments and averages are
split over all devices; XLA gathers a layer's kernel where it is needed.
"""

import keras

# Below, a variable is whole on every device: biases, norms, counters.
MIN_SPLIT_VALUES = 2**11


def split_axis(shape, number):
    """The axis of a variable that is split: the longest that `number` divides, None for none.

    >>> split_axis((768, 12, 64), 8), split_axis((197, 768), 8), split_axis((768,), 8)
    (0, 1, None)
    """
    size = 1
    for length in shape:
        size *= length
    able = [axis for axis, length in enumerate(shape) if length and length % number == 0]
    if size < MIN_SPLIT_VALUES or not able:
        return None
    return max(able, key=lambda axis: (shape[axis], -axis))


class FullyShardedDataParallel(keras.distribution.ModelParallel):
    """A `keras.distribution` strategy that splits the batch and every large variable.

    Args:
        devices: Their names, as of `keras.distribution.list_devices()`.
    """

    def __init__(self, devices):
        mesh = keras.distribution.DeviceMesh((len(devices),), ("batch",), devices)
        super().__init__(
            layout_map=keras.distribution.LayoutMap(mesh),
            batch_dim_name="batch",
            auto_shard_dataset=False,
        )

    def get_variable_layout(self, variable):
        """The layout of a variable: split along `split_axis`, else whole everywhere."""
        axes = [None] * len(variable.shape)
        axis = split_axis(variable.shape, self.device_mesh.shape[0])
        if axis is not None:
            axes[axis] = "batch"
        return keras.distribution.TensorLayout(axes, self.device_mesh)
