import pytest

from keras_vit.checkpoints.download import class_names as names
from keras_vit.errors import DownloadError


@pytest.fixture(autouse=True)
def _offline_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_VIT_MIRROR", raising=False)
    monkeypatch.setenv("KERAS_VIT_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_VIT_OFFLINE", "1")
    (tmp_path / "bit_models").mkdir()


def _put(tmp_path, file, text):
    (tmp_path / "bit_models" / file).write_bytes(text.encode())


def test_class_names_reads_the_cached_list_in_order(tmp_path):
    lines = [f"word {i}, Latin {i}" for i in range(1_000)]
    _put(tmp_path, "ilsvrc2012_wordnet_lemmas.txt", "\n".join(lines) + "\n")
    assert names.class_names(1_000) == tuple(lines)
    _put(tmp_path, "ilsvrc2012_wordnet_lemmas.txt", "\r\n".join(lines))
    assert names.class_names(1_000) == tuple(lines)
    assert names.class_names(1_000, download=True) == tuple(lines)


def test_class_names_21k_has_names_and_ids(tmp_path):
    _put(tmp_path, "imagenet21k_wordnet_lemmas.txt", "".join(f"é{i}\n" for i in range(21_843)))
    _put(tmp_path, "imagenet21k_wordnet_ids.txt", "".join(f"n{i:08d}\n" for i in range(21_843)))
    assert names.class_names(21_843)[-1] == "é21842"
    assert names.wordnet_ids(21_843)[1] == "n00000001"


def test_class_names_without_a_list_is_none():
    assert names.class_names(10, download=True) is None
    assert names.wordnet_ids(1_000) is None
    assert names.class_names(1_000) is None


def test_class_names_download_in_offline_mode_says_what_to_fetch():
    with pytest.raises(DownloadError, match="ilsvrc2012_wordnet_lemmas.txt elsewhere and put it"):
        names.class_names(1_000, download=True)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a\n" * 999, "must have 1000 lines, none empty. Received: 999 lines, 0 empty"),
        ("a\n" * 1_001, "Received: 1001 lines"),
        ("a\n" * 999 + "\n", "Received: 1000 lines, 1 empty"),
        ("a\n" * 500 + "\n" + "a\n" * 500, "Received: 1001 lines, 1 empty"),
        ("", "Received: 0 lines"),
    ],
)
def test_class_names_wrong_list_is_an_error(tmp_path, text, match):
    _put(tmp_path, "ilsvrc2012_wordnet_lemmas.txt", text)
    with pytest.raises(ValueError, match=match):
        names.class_names(1_000)


def test_class_names_binary_file_is_an_error(tmp_path):
    (tmp_path / "bit_models" / "ilsvrc2012_wordnet_lemmas.txt").write_bytes(b"\xff\xfe" * 1_000)
    with pytest.raises(ValueError, match="is not a list of class names"):
        names.class_names(1_000)
