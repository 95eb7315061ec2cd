"""A batch in micro-batches and back.

Legend: B batch, k micro-batches, m examples of one of them.
"""

from keras import ops


def groups(batch_size, num_parts):
    """How a batch is cut into micro-batches whose sizes differ by one at most.

    Args:
        batch_size: B, an integer, or a scalar tensor where it is not known yet.
        num_parts: k.

    Returns:
        A list of one or two `(k', m)`: so many micro-batches of m examples each, in the order of
        the batch.

    >>> groups(8, 4), groups(22, 4), groups(3, 4)
    ([(4, 2)], [(2, 6), (2, 5)], [(3, 1)])
    """
    size, rest = batch_size // num_parts, batch_size % num_parts
    if not isinstance(batch_size, int):
        others = ops.where(size > 0, num_parts - rest, 0)
        return [(rest, size + 1), (others, size)]
    parts = [(rest, size + 1), (num_parts - rest, size)]
    return [(number, size) for number, size in parts if number and size]


def split(array, num_parts, size):
    """(k m, ...) -> (k, m, ...): part i has the examples i, i + k, i + 2 k, ...

    So a batch that is spread over devices need not move between them.
    """
    array = ops.reshape(array, (size, num_parts, *array.shape[1:]))
    return ops.swapaxes(array, 0, 1)


def join(array):
    """The inverse of `split`."""
    array = ops.swapaxes(array, 0, 1)  # (m, k, ...)
    return ops.reshape(array, (-1, *array.shape[2:]))
