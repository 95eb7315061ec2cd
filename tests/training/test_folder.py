import pytest

from keras_vit.training import folder


def write_run(workdir, content, **arguments):
    with folder.new_run(workdir, **arguments) as temporary:
        for name in folder.FILES:
            (temporary / name).write_text(content)


def test_new_run_publishes_all_files_and_nothing_else(tmp_path):
    write_run(tmp_path / "a" / "b", "1")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {
        *folder.FILES,
        folder.MARKER,
    }


def test_new_run_refuses_a_finished_run_unless_told(tmp_path):
    write_run(tmp_path, "1")
    with pytest.raises(FileExistsError, match="holds a finished run .*overwrite"):
        write_run(tmp_path, "2")
    assert (tmp_path / folder.MODEL).read_text() == "1"
    write_run(tmp_path, "2", overwrite=True)
    assert {(tmp_path / name).read_text() for name in folder.FILES} == {"2"}


def test_new_run_that_fails_leaves_what_was_there(tmp_path):
    write_run(tmp_path / "old", "1")
    for workdir in (tmp_path / "old", tmp_path / "new" / "run"):
        with (  # noqa: PT012
            pytest.raises(KeyboardInterrupt),
            folder.new_run(workdir, overwrite=True) as temporary,
        ):
            (temporary / folder.MODEL).write_text("2")
            raise KeyboardInterrupt
    assert {(tmp_path / "old" / name).read_text() for name in folder.FILES} == {"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert len(list((tmp_path / "old").iterdir())) == len(folder.FILES) + 1  # the marker


def test_new_run_with_a_file_missing_publishes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), folder.new_run(tmp_path / "run") as temporary:
        (temporary / folder.MODEL).write_text("1")
    assert not list(tmp_path.iterdir())


def test_new_run_in_a_file_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError) as caught, folder.new_run(workdir):
            pass
        assert caught.value.filename == str(workdir)


@pytest.mark.parametrize("name", folder.OUTPUTS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_new_run_leaves_a_folder_of_others_as_it_is(tmp_path, name, overwrite):
    if name in (folder.STATE, folder.SWEEP_CANDIDATES):
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
    folder.mark(ours)
    (tmp_path / ".tmp-link").symlink_to(ours)
    write_run(tmp_path, "1")
    assert (theirs / "file").read_text() == "1"
    assert not ours.exists()
    assert (tmp_path / ".tmp-link").is_symlink()


def test_new_run_removes_its_states_and_nothing_beside_them(tmp_path):
    with folder.new_run(tmp_path) as temporary:
        for name in folder.FILES:
            (temporary / name).write_text("1")
        states = tmp_path / folder.STATE
        states.mkdir()
        for name in ("step_00000001.npz", ".step_00000002.npz.x", "notes.txt"):
            (states / name).write_text("1")
    assert [path.name for path in states.iterdir()] == ["notes.txt"]
