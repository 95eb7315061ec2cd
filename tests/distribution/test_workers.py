import numpy as np
import pytest

from keras_vit.distribution.workers import Workers
from keras_vit.errors import TrainingError
from tests.training.in_threads import run_workers


def test_one_process_is_the_chief_and_hears_itself():
    workers = Workers()
    assert workers.is_chief
    assert workers.gather({"a": 1}) == [{"a": 1}]
    with pytest.raises(KeyError), workers.together():
        raise KeyError("its own error")


def test_gather_gives_every_worker_the_values_of_all():
    def work(workers):
        return workers.gather({"index": workers.index, "text": "é" * workers.index})

    expected = [{"index": i, "text": "é" * i} for i in range(3)]
    assert run_workers(work, 3) == [expected] * 3


def test_gather_arrays_gives_every_worker_the_bits_of_all():
    values = [np.array([1.5, np.nan], np.float32), np.array(7.0, np.float32)]

    def work(workers):
        return workers.gather_arrays({"metrics/0/0": values[workers.index]})

    for gathered in run_workers(work):
        for arrays, value in zip(gathered, values, strict=True):
            assert arrays["metrics/0/0"].tobytes() == value.tobytes()
            assert arrays["metrics/0/0"].shape == value.shape


def test_what_fails_in_one_worker_fails_in_all():
    def work(workers):
        with workers.together():
            if workers.index == 1:
                raise FileExistsError("the folder holds a finished run")

    chief, other = run_workers(work)
    assert isinstance(other, FileExistsError)
    assert isinstance(chief, TrainingError)
    assert str(chief) == "worker 1 of 2 cannot go on: the folder holds a finished run"
