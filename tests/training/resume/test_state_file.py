"""States as files: right, or the one before, or one error, whatever happens to them."""

import os
import random
import resource
import signal

import ml_dtypes
import numpy as np
import pytest

from keras_vit.errors import CheckpointError
from keras_vit.training.resume.state_file import State, StateFolder, read_state
from keras_vit.training.run_folder import MARKER


def make_state(step):
    rng = np.random.default_rng(step)
    arrays = {
        "model/0": rng.normal(size=(40, 30)).astype("float32"),
        "model/1": np.array([step, 7], "uint32"),
        "optimizer/0": np.array(step, "int64"),
        "optimizer/1": rng.normal(size=(17,)).astype(ml_dtypes.bfloat16),
        "metrics/0": np.array(0.5, "float32"),
    }
    return State(step=step, facts={"epoch": step // 2, "history": [{"loss": 0.1}]}, arrays=arrays)


def is_equal(state, step):
    expected = make_state(step)
    return (
        (state.step, state.facts) == (step, expected.facts)
        and set(state.arrays) == set(expected.arrays)
        and all(
            array.tobytes() == expected.arrays[key].tobytes()
            and array.shape == expected.arrays[key].shape
            for key, array in state.arrays.items()
        )
    )


@pytest.fixture
def states(tmp_path):
    states = StateFolder(tmp_path / "state")
    for step in (1, 2, 3):
        states.write(make_state(step))
    return states


def test_states_keeps_the_newest_and_reads_them_back(states):
    assert list(states.paths()) == [3, 2]
    assert is_equal(states.newest(), 3)
    assert is_equal(read_state(states.paths()[2]), 2)
    assert StateFolder(states.folder / "none").newest() is None


def test_states_are_hardly_larger_than_their_arrays(tmp_path):
    arrays = {f"model/{i}": np.ones((250, 100), "float32") for i in range(200)}
    state = State(step=1, facts={}, arrays=arrays)
    path = StateFolder(tmp_path).write(state)
    assert path.stat().st_size <= 1.05 * state.num_bytes()


def test_states_are_the_same_bytes_for_the_same_numbers(states, tmp_path):
    again = StateFolder(tmp_path / "again")
    assert again.write(make_state(3)).read_bytes() == states.paths()[3].read_bytes()


def test_states_with_numbers_that_are_not_finite_are_refused(states):
    for key, value in (("model/0", np.nan), ("optimizer/1", np.inf)):
        state = make_state(4)
        state.arrays[key].flat[3] = value
        with pytest.raises(ValueError, match="must be finite"):
            states.write(state)
    large = State(step=4, facts={}, arrays={"model/0": np.full(9, 3e38, "float32")})
    assert large.is_finite()
    assert is_equal(states.newest(), 3)


def mutate(path, rng):
    """One of the ways in which a file goes bad."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flips", "cut", "zeros", "empty", "delete", "grow", "text"])
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "flips":
        for _ in range(rng.randint(2, 30)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "zeros":
        begin = rng.randrange(len(content))
        end = min(len(content), begin + rng.randint(1, 600))
        content[begin:end] = bytes(end - begin)
    elif kind == "empty":
        content.clear()
    elif kind == "grow":
        content[rng.randrange(len(content)) :] += rng.randbytes(100)
    elif kind == "text":
        content = bytearray(b"<html>not found</html>")
    if kind == "delete":
        path.unlink()
    else:
        path.write_bytes(content)


def test_states_fall_back_when_the_newest_is_damaged(states):
    """200 mutants; those of bytes that mean nothing are read as they were."""
    newest, before = states.paths().values()
    originals = {path: path.read_bytes() for path in (newest, before)}
    steps = []
    for seed in range(200):
        for path, content in originals.items():
            path.write_bytes(content)
        mutate(newest, random.Random(seed))
        state = states.newest()
        assert is_equal(state, state.step), f"mutant {seed}"
        steps.append(state.step)
    assert set(steps) == {2, 3}
    assert steps.count(2) > 150


def test_states_without_their_checksums_are_read_wrong(states, monkeypatch):
    """The negative control of the test above."""
    monkeypatch.setattr("zipfile.ZipExtFile._update_crc", lambda self, data: None)
    newest = states.paths()[3]
    content = newest.read_bytes()
    num_wrong = 0
    for seed in range(200):
        newest.write_bytes(content)
        mutate(newest, random.Random(seed))
        state = states.newest()
        num_wrong += not is_equal(state, state.step)
    assert num_wrong > 20


def test_states_that_are_all_damaged_are_an_error_that_names_them(states):
    for path in states.paths().values():
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="no state of the training can be read .*damaged"):
        states.newest()


def test_states_that_were_damaged_go_with_the_next_that_is_written(states):
    states.paths()[3].write_bytes(b"damaged")
    states._remove_old(2)
    assert list(states.paths()) == [2]
    states.write(make_state(3))
    assert is_equal(states.newest(), 3)
    assert list(states.paths()) == [3, 2]


def in_child(work):
    """The exit code of a process that does some work, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("operation", ["write", "fsync", "replace", "unlink", "open"])
def test_states_survive_a_kill_at_every_system_call(operation, states, monkeypatch):
    """tools/crash_points.py does the same from outside, with strace."""
    import zipfile

    owner = zipfile._ZipWriteFile if operation == "write" else os
    original = getattr(owner, operation)
    for crash_point in range(100):
        calls = iter(range(1000))

        def counted(*arguments, point=crash_point, calls=calls, **keywords):
            if next(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        def work(counted=counted):
            setattr(owner, operation, counted)
            states.write(make_state(4))
            return 0

        code = in_child(work)
        state = states.newest()
        assert state.step in (3, 4)
        assert is_equal(state, state.step)
        states.remove_unfinished()
        names = {path.name for path in states.folder.iterdir()}
        assert all(name.endswith(".npz") for name in names - {MARKER})
        if code == 0:
            break
        assert code == -signal.SIGKILL
        states.write(make_state(3))
        states._remove_old(3)
    assert code == 0
    assert crash_point > 0


def on_a_full_disk(limit, write):
    """The error of a process whose files may have so many bytes, which is its exit code 0."""

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write()
        except CheckpointError as error:
            return 0 if "step_00000004.npz" in str(error) and "MB are needed" in str(error) else 1
        except OSError:
            return 2
        return 3

    return in_child(work)


def test_states_survive_a_full_disk(states):
    """At 20 sizes, as a limit of the process."""
    size = states.paths()[3].stat().st_size
    for limit in np.linspace(0, size - 1, 20).astype(int).tolist():
        assert on_a_full_disk(limit, lambda: states.write(make_state(4))) == 0
        assert list(states.paths()) == [3, 2]
        assert len(states.paths()) == 2
        assert is_equal(states.newest(), 3)


def test_file_that_is_overwritten_in_place_does_not_survive_a_full_disk(states):
    """The negative control of the test above."""
    path = states.paths()[3]
    assert on_a_full_disk(1000, lambda: np.savez(path, **make_state(4).arrays)) == 2
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state(path)


def test_states_under_another_name_are_refused(states):
    (path, *_) = states.paths().values()
    renamed = path.with_name("step_00000099.npz")
    path.rename(renamed)
    with pytest.raises(CheckpointError, match="is the state of step 3 under another name"):
        read_state(renamed)
    assert states.newest().step == 2


def test_states_of_versions_before_are_refused_in_one_sentence(tmp_path):
    facts = np.frombuffer(b'{"epoch": 0, "history": []}', np.uint8)
    np.savez(tmp_path / "step_00000001.npz", state=facts, **{"model/0": np.ones(3)})
    with pytest.raises(CheckpointError, match="of a version before 0.2, which cannot be resumed"):
        StateFolder(tmp_path).newest()
