"""A batch in micro-batches and back.

Legend: B batch, k micro-batches.
"""

from keras import ops


def split(array, num_parts):
    """(B, ...) -> (k, B / k, ...): part i has the examples i, i + k, i + 2 k, ...

    So a batch that is spread over devices need not move between them.

    Raises:
        ValueError: if the parts would not be of equal size.
    """
    if array is None:
        return None
    batch_size = array.shape[0]
    if batch_size is not None and batch_size % num_parts:
        raise ValueError(
            "the batch size must be a multiple of `accumulation_steps`. "
            f"Received: {batch_size} images for {num_parts} micro-batches"
        )
    array = ops.reshape(array, (-1, num_parts, *array.shape[1:]))  # (B / k, k, ...)
    return ops.swapaxes(array, 0, 1)


def join(array):
    """The inverse of `split`."""
    array = ops.swapaxes(array, 0, 1)  # (B / k, k, ...)
    return ops.reshape(array, (-1, *array.shape[2:]))
