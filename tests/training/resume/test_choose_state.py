"""All workers go on from the state that the chief chooses, or none does."""

import numpy as np
import pytest

from keras_vit.errors import CheckpointError, TrainingError
from keras_vit.training import run_folder as folders
from keras_vit.training.resume.choose_state import choose_state, differences
from keras_vit.training.resume.state_file import State, StateFolder
from tests.training.in_threads import run_workers

CONFIG = {"recipe": {"steps": 3}}


@pytest.fixture(autouse=True)
def _released():
    yield
    for held in list(folders._held):
        folders.release(held)


def write(folder, step, value=0.0):
    folder.mkdir(exist_ok=True)
    arrays = {"model/0": np.full(3, value, np.float32)}
    return StateFolder(folder).write(State(step=step, facts={"config": CONFIG}, arrays=arrays))


def choose(*workdirs, configs=(CONFIG, CONFIG), options=(None, None)):
    """What each of two workers goes on from, in folders of their own or in one."""

    def work(workers):
        states = StateFolder(workdirs[workers.index % len(workdirs)])
        index = workers.index
        return choose_state(states, configs[index], workers, False, options[index])

    return run_workers(work)


def test_all_workers_take_the_newest_state_of_the_chief(tmp_path):
    write(tmp_path, 3, 0.5)
    write(tmp_path, 6, 1.5)
    chief, other = choose(tmp_path)
    assert chief.step == other.step == 6
    assert chief.digest() == other.digest()
    np.testing.assert_array_equal(other.arrays["model/0"], np.full(3, 1.5, np.float32))


def test_without_a_state_all_begin_anew_and_the_chief_makes_the_folder(tmp_path):
    assert choose(tmp_path / "a", tmp_path / "b") == [None, None]
    assert (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_damaged_state_is_passed_over_by_all(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 6).write_bytes(b"damaged")
    assert [state.step for state in choose(tmp_path)] == [3, 3]


def test_a_worker_that_does_not_see_the_state_ends_all(tmp_path):
    write(tmp_path / "a", 3)
    chief, other = choose(tmp_path / "a", tmp_path / "b")
    assert isinstance(other, CheckpointError)
    assert "is not there in worker 1 of 2" in str(other)
    assert "must share the folder of the run" in str(other)
    assert isinstance(chief, TrainingError)
    assert "worker 1 of 2 cannot go on" in str(chief)


def test_a_copy_of_the_state_is_as_good_and_another_file_is_not(tmp_path):
    write(tmp_path / "a", 3, 0.5)
    write(tmp_path / "b", 3, 0.5)
    write(tmp_path / "c", 3, 0.75)
    assert [state.step for state in choose(tmp_path / "a", tmp_path / "b")] == [3, 3]
    chief, other = choose(tmp_path / "a", tmp_path / "c")
    assert isinstance(chief, TrainingError)
    assert "is another file in worker 1" in str(other)


def test_a_state_that_one_worker_cannot_read_ends_all(tmp_path):
    write(tmp_path / "a", 3)
    write(tmp_path / "b", 3).write_bytes(b"damaged")
    chief, other = choose(tmp_path / "a", tmp_path / "b")
    assert isinstance(chief, TrainingError)
    assert isinstance(other, CheckpointError)
    assert "is damaged" in str(chief)


def test_workers_of_another_training_than_the_chief_end_all(tmp_path):
    chief, other = choose(tmp_path, configs=(CONFIG, {"recipe": {"steps": 4}}))
    assert isinstance(chief, TrainingError)
    assert isinstance(other, ValueError)
    assert "in worker 1, after the chief's, `recipe.steps` was 3 and is 4" in str(other)


def test_workers_that_save_at_other_steps_than_the_chief_end_all(tmp_path):
    chief, other = choose(tmp_path, options=({"save_steps": 3}, {"save_steps": None}))
    assert isinstance(chief, TrainingError)
    assert "`save_steps` was 3 and is None" in str(other)


def test_what_the_chief_refuses_no_worker_begins(tmp_path):
    write(tmp_path, 3)
    other_config = {"recipe": {"steps": 4}}
    chief, other = choose(tmp_path, configs=(other_config, other_config))
    assert isinstance(chief, FileExistsError)
    assert isinstance(other, TrainingError)
    assert "`recipe.steps` was 3 and is 4" in str(other)


def test_differences_name_fields_places_and_lengths():
    before = {"a": {"b": 1, "c": [1, 2]}, "d": [1]}
    assert differences(before, before) == []
    assert differences(before, {"a": {"b": 2, "c": [1, 3]}, "d": [1, 2]}) == [
        "`a.b` was 1 and is 2",
        "`a.c[1]` was 2 and is 3",
        "`d` was 1 values and is 2 values",
    ]
