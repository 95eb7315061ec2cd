"""A state for other devices: another number of replicas or workers than it was saved by.

Each replica counts for itself in the metrics of the epoch so far; a state has all of their counts,
`metrics/PLACE/REPLICA`, or `metrics/PLACE` where there is one device.  Another number of replicas
begins to count anew.  Everything else is the same on all of them.
"""

import re

import numpy as np
from absl import logging

from keras_vit.training.resume.state_file import GROUPS, capture, dtypes

_OF_A_REPLICA = re.compile(r"(metrics/\d+)/(\d+)")


def capture_all(model, workers):
    """`states.capture` with the counts of all workers' replicas; the chief's alone is whole.

    Args:
        model: compiled.
        workers: the `Workers` that train it; all of them must call this.
    """
    if workers.number == 1:
        return capture(model)
    arrays = capture(model, GROUPS if workers.is_chief else ("metrics",))
    counts = {key: array for key, array in arrays.items() if _OF_A_REPLICA.fullmatch(key)}
    others = {key: array for key, array in arrays.items() if key not in counts}
    for worker, gathered in enumerate(workers.gather_arrays(counts)):
        num_local = _num_replicas(gathered)
        for key, array in gathered.items():
            place, replica = _OF_A_REPLICA.fullmatch(key).groups()
            others[f"{place}/{worker * num_local + int(replica)}"] = array
    return others


def adapted(arrays, model, workers):
    """A state's arrays for a model on these devices, as `states.restore` takes them.

    The same number of replicas get what each of them had; of another number none gets the metrics
    of the epoch so far.  A momentum in bfloat16, which several workers keep in float32 (of
    bfloat16's values), is that again, and the other way round; no bit is lost.

    Args:
        arrays: of `capture_all`, or a file.
        model: compiled, with its variables built.
        workers: the `Workers` that train it.
    """
    expected = dtypes(model)
    result = {
        key: _as_momentum(array, expected.get(key)) if key.startswith("optimizer/") else array
        for key, array in arrays.items()
        if not key.startswith("metrics/")
    }
    metrics = {key: array for key, array in arrays.items() if key.startswith("metrics/")}
    num_local = _num_replicas(expected)
    are_replicated = any(map(_OF_A_REPLICA.fullmatch, expected))
    number = num_local * workers.number if are_replicated else 1
    if _num_replicas(metrics) != number:
        logging.info("other devices than before: the metrics of this report begin anew")
        return result
    for key, array in metrics.items():
        match = _OF_A_REPLICA.fullmatch(key)
        if match is None:
            result[key] = array
        elif (local := int(match[2]) - workers.index * num_local) in range(num_local):
            result[f"{match[1]}/{local}" if are_replicated else match[1]] = array
    return result


def _num_replicas(keys):
    """Of this process, by what its metrics are called."""
    replicas = [int(match[2]) for match in map(_OF_A_REPLICA.fullmatch, keys) if match]
    return max(replicas, default=0) + 1


def _as_momentum(array, dtype):
    """Between float32 and bfloat16 (`V2` in a file), where the values are the same."""
    bfloat16 = np.dtype("bfloat16")
    is_bfloat16 = array.dtype in (np.dtype("V2"), bfloat16)
    if dtype == "float32" and is_bfloat16:
        return array.view(bfloat16).astype(np.float32)
    if dtype == "bfloat16" and array.dtype == np.float32:
        rounded = array.astype(bfloat16)
        if np.array_equal(rounded.astype(np.float32), array):
            return rounded
    return array
