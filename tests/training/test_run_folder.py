import pytest

from keras_vit.training import run_folder


def write_run(workdir, content, **arguments):
    with run_folder.new_run(workdir, **arguments) as temporary:
        for name in run_folder.FILES:
            (temporary / name).write_text(content)


def test_new_run_publishes_all_files_and_nothing_else(tmp_path):
    write_run(tmp_path / "a" / "b", "1")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {
        *run_folder.FILES,
        run_folder.MARKER,
    }


def test_new_run_refuses_a_finished_run_unless_told(tmp_path):
    write_run(tmp_path, "1")
    with pytest.raises(FileExistsError, match="holds a finished run .*overwrite"):
        write_run(tmp_path, "2")
    assert (tmp_path / run_folder.MODEL).read_text() == "1"
    write_run(tmp_path, "2", overwrite=True)
    assert {(tmp_path / name).read_text() for name in run_folder.FILES} == {"2"}


def test_new_run_that_fails_leaves_what_was_there(tmp_path):
    write_run(tmp_path / "old", "1")
    for workdir in (tmp_path / "old", tmp_path / "new" / "run"):
        with (  # noqa: PT012
            pytest.raises(KeyboardInterrupt),
            run_folder.new_run(workdir, overwrite=True) as temporary,
        ):
            (temporary / run_folder.MODEL).write_text("2")
            raise KeyboardInterrupt
    assert {(tmp_path / "old" / name).read_text() for name in run_folder.FILES} == {"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert len(list((tmp_path / "old").iterdir())) == len(run_folder.FILES) + 1  # the marker


def test_new_run_with_a_file_missing_publishes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), run_folder.new_run(tmp_path / "run") as temporary:
        (temporary / run_folder.MODEL).write_text("1")
    assert not list(tmp_path.iterdir())


def test_new_run_in_a_file_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError) as caught, run_folder.new_run(workdir):
            pass
        assert caught.value.filename == str(workdir)


@pytest.mark.parametrize("name", run_folder.OUTPUTS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_new_run_leaves_a_folder_of_others_as_it_is(tmp_path, name, overwrite):
    if name in (run_folder.STATE, run_folder.SWEEP_CANDIDATES):
        (tmp_path / name).mkdir()
        (tmp_path / name / "step_00000001.npz").write_text("theirs")
    else:
        (tmp_path / name).write_text("theirs")
    before = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    with pytest.raises(FileExistsError, match=f"holds {name}, and nothing says"):
        write_run(tmp_path, "1", overwrite=overwrite)
    assert {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")} == before


def test_new_run_deletes_temporary_folders_of_its_own_only(tmp_path):
    theirs, ours = tmp_path / ".tmp-theirs", tmp_path / ".tmp-ours"
    for path in (theirs, ours):
        path.mkdir()
        (path / "file").write_text("1")
    run_folder.mark(ours)
    (tmp_path / ".tmp-link").symlink_to(ours)
    write_run(tmp_path, "1")
    assert (theirs / "file").read_text() == "1"
    assert not ours.exists()
    assert (tmp_path / ".tmp-link").is_symlink()


def test_new_run_removes_its_states_and_nothing_beside_them(tmp_path):
    with run_folder.new_run(tmp_path) as temporary:
        for name in run_folder.FILES:
            (temporary / name).write_text("1")
        states = tmp_path / run_folder.STATE
        states.mkdir()
        run_folder.mark(states)
        for name in ("step_00000001.npz", ".step_00000002.npz.x", "notes.txt"):
            (states / name).write_text("1")
    assert {path.name for path in states.iterdir()} == {run_folder.MARKER, "notes.txt"}


@pytest.mark.parametrize("training", ["pretrain", "finetune", "sweep"])
def test_an_empty_path_is_no_folder_of_a_run(training):
    import keras_vit

    source = () if training == "pretrain" else ("missing.npz",)
    options = {"recipe": "table4_cifar"} if training == "sweep" else {}
    with pytest.raises(ValueError, match="path of a run's folder must not be empty"):
        getattr(keras_vit, training)(*source, "digits", "", **options)


@pytest.mark.parametrize("training", ["pretrain", "finetune", "sweep"])
def test_a_folder_of_others_is_refused_before_the_work(tmp_path, training):
    import keras_vit

    (tmp_path / "metrics.json").write_text("theirs")
    source = () if training == "pretrain" else ("missing.npz",)
    options = {"recipe": "table4_cifar"} if training == "sweep" else {}
    with pytest.raises(FileExistsError, match="nothing says that keras_vit wrote it"):
        getattr(keras_vit, training)(*source, "digits", tmp_path, overwrite=True, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
