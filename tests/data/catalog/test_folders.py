import os
import pathlib
import shutil
import socket
import time

import pytest

from keras_vit.data.catalog import folders


def test_read_folder_sorts_classes_and_files(image_folder):
    for extra in (".DS_Store", "train/.hidden", "train/cat/._0.jpg", "__MACOSX"):
        (image_folder / extra).write_bytes(b"x")
    class_names, splits = folders.read_folder(image_folder)
    assert class_names == ("cat", "dog")
    assert list(splits) == ["train", "test"]
    assert splits["train"].labels == (0,) * 5 + (1,) * 4
    names = [pathlib.Path(path).relative_to(image_folder) for path in splits["test"].paths]
    assert [str(name) for name in names] == ["test/cat/0.jpg", "test/cat/1.jpg", "test/dog/0.jpg"]


def test_read_folder_unicode_names_are_kept(image_folder):
    for split in ("train", "test"):
        (image_folder / split / "cat").rename(image_folder / split / "Kätzchen 猫")
    assert folders.read_folder(image_folder)[0] == ("Kätzchen 猫", "dog")
    (image_folder / "train" / "dog" / "0.jpg").rename(image_folder / "train" / "dog" / "é 犬.jpg")
    assert folders.read_folder(image_folder)[1]["train"].paths[-1].endswith("é 犬.jpg")


def _empty_class(root):
    (root / "train" / "ant").mkdir()
    (root / "test" / "ant").mkdir()


def _class_in_one_split(root):
    (root / "test" / "ant").mkdir()


def _unknown_split(root):
    (root / "train").rename(root / "training")


def _loose_file(root):
    (root / "train" / "readme.txt").write_text("x")


def _subfolder(root):
    (root / "train" / "cat" / "more").mkdir()


def _pipe(root):
    os.mkfifo(root / "train" / "cat" / "9.jpg")


def _link_out(root):
    outside = root.parent / "outside.jpg"
    outside.write_bytes(b"x")
    (root / "train" / "cat" / "9.jpg").symlink_to(outside)


def _loop(root):
    (root / "train" / "cat" / "loop").symlink_to(root / "train" / "cat")


def _linked_class(root):
    (root / "train" / "ant").symlink_to(root / "train" / "cat")


def _not_utf8(root):
    name = os.fsencode(root / "train" / "cat") + b"/\xff.jpg"
    with open(name, "wb"):
        pass


def _unicode_twins(root):
    shutil.copytree(root / "train" / "cat", root / "train" / "caf\u00e9")
    shutil.copytree(root / "train" / "cat", root / "train" / "cafe\u0301")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty_class, "A class must have images. Received: .*train/ant"),
        (_class_in_one_split, r"same classes(.|\n)*pets/test(.|\n)* \+ ant"),
        (_unknown_split, r"must hold \('train', 'validation', 'test'\).*\['training'\]"),
        (_loose_file, "class folders only. Received: .*readme.txt"),
        (_subfolder, "regular files only. Received: .*cat/more, a folder"),
        (_pipe, "regular files only. Received: .*cat/9.jpg, a special file"),
        (_link_out, "may not leave .*Received: .*cat/9.jpg -> .*outside.jpg"),
        (_loop, "regular files only. Received: .*cat/loop, a folder"),
        (_linked_class, "class folders only. Received: .*train/ant"),
        (_not_utf8, r"valid UTF-8. Received: b'\\xff.jpg'"),
        (_unicode_twins, "look the same"),
    ],
)
def test_read_folder_bad_entry_raises(image_folder, damage, message):
    damage(image_folder)
    with pytest.raises(ValueError, match=message):
        folders.read_folder(image_folder)


def test_read_folder_broken_link_raises_with_its_path(image_folder):
    (image_folder / "train" / "cat" / "9.jpg").symlink_to(image_folder / "nothing")
    with pytest.raises(FileNotFoundError, match=r"cat/9.jpg"):
        folders.read_folder(image_folder)


def test_read_folder_without_splits_raises(tmp_path):
    with pytest.raises(ValueError, match="with nothing"):
        folders.read_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="notes.txt"):
        folders.read_folder(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="no class"):
        folders.read_folder(tmp_path)


def test_read_folder_link_that_repeats_a_file_is_dropped(image_folder):
    cats = image_folder / "train" / "cat"
    (cats / "9.jpg").symlink_to(cats / "0.jpg")
    (cats / "8.jpg").symlink_to(image_folder / "test" / "cat" / "0.jpg")
    _, splits = folders.read_folder(image_folder)
    names = [pathlib.Path(path).name for path in splits["train"].paths[:6]]
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "8.jpg"]


def test_image_files_expands_folders_and_keeps_files(image_folder):
    (image_folder / "notes.txt").write_text("x")
    (image_folder / "train" / "loop").symlink_to(image_folder)
    os.mkfifo(image_folder / "pipe.jpg")
    found = folders.image_files([image_folder / "notes.txt", str(image_folder)])
    assert found[0] == image_folder / "notes.txt"
    assert [str(path.relative_to(image_folder)) for path in found[1:4]] == [
        "test/cat/0.jpg",
        "test/cat/1.jpg",
        "test/dog/0.jpg",
    ]
    assert len(found) == 1 + 12


def test_image_files_missing_or_empty_path_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or folder. Received: .*cat.jpg"):
        folders.image_files([tmp_path / "cat.jpg"])
    with pytest.raises(ValueError, match="must hold JPEG, PNG, WebP, GIF or BMP images"):
        folders.image_files([tmp_path])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a special file"):
        folders.image_files([tmp_path / "pipe"])


def test_read_folder_of_many_files_is_quick(tmp_path):
    # A tenth of what must take less than 10 s.
    for name in "abcdefghij":
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for k in range(1000):
            os.close(os.open(folder / f"{k}.jpg", os.O_CREAT))
    start = time.process_time()
    _, splits = folders.read_folder(tmp_path)
    assert time.process_time() - start < 1
    assert len(splits["train"].paths) == 10_000


def test_read_folder_socket_and_longest_name_have_their_outcome(image_folder):
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(image_folder / "train" / "cat", os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{folder}/9.jpg")  # a socket's path is short
        finally:
            os.close(folder)
        with pytest.raises(ValueError, match="9.jpg, a special file"):
            folders.read_folder(image_folder)
    (image_folder / "train" / "cat" / "9.jpg").unlink()
    longest = image_folder / "train" / "cat" / ("x" * 251 + ".jpg")
    longest.write_bytes(b"x")
    assert str(longest) in folders.read_folder(image_folder)[1]["train"].paths


def test_read_folder_refuse_gets_everything_at_once(image_folder):
    for damage in (_pipe, _loop, _loose_file, _subfolder, _not_utf8, _empty_class):
        damage(image_folder)
    found = []
    class_names, splits = folders.read_folder(
        image_folder, lambda path, message, is_structure=False: found.append((path, is_structure))
    )
    names = [(os.path.relpath(path, image_folder), structure) for path, structure in found]
    assert sorted(names) == [
        ("test/ant", True),
        ("train/ant", True),
        ("train/cat/9.jpg", False),
        ("train/cat/\\xff.jpg", False),
        ("train/cat/loop", False),
        ("train/cat/more", False),
        ("train/readme.txt", False),
    ]
    assert class_names == ("ant", "cat", "dog")
    assert len(splits["train"].paths) == 9


def test_read_folder_without_permission_is_named(image_folder):
    if os.geteuid() == 0:
        pytest.skip("the superuser may read everything")
    locked = image_folder / "train" / "dog"
    locked.chmod(0)
    try:
        with pytest.raises(PermissionError, match="train/dog"):
            folders.read_folder(image_folder)
        found = []
        folders.read_folder(image_folder, lambda path, *_, **__: found.append(path))
        assert str(locked) in found
    finally:
        locked.chmod(0o700)
