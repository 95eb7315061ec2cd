import pytest

from keras_vit.checkpoints.download import urls


def test_locate_bucket_file_by_either_address():
    layout = ("vit_models", "imagenet21k", "R50+ViT-B_16.npz")
    assert urls.locate("gs://" + "/".join(layout)) == (None, layout)
    official = "https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz"
    assert urls.locate(official) == (None, layout)
    assert urls.join(urls.OFFICIAL_BASE, layout) == official


def test_locate_other_file_is_kept_below_its_host():
    url = "http://127.0.0.1:8000/a/b%20c.npz"
    assert urls.locate(url) == (url, ("https", "127.0.0.1_8000", "a", "b c.npz"))
    _, layout = urls.locate(f"{url}?version=2")
    assert layout[:3] + layout[4:] == ("https", "127.0.0.1_8000", "a", "b c.npz")
    assert layout != urls.locate(f"{url}?version=3")[1]


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("http://example.org/x.npz", "must be gs:// or https://"),
        ("ftp://example.org/x.npz", "must be gs:// or https://"),
        ("file:///etc/passwd", "must be gs:// or https://"),
        ("x.npz", "must be gs:// or https://"),
        ("https://user:secret@example.org/x.npz", "no user, password"),
        ("https://example.org/x y.npz", "fragment or space"),
        ("gs://bucket", "must name a file"),
        ("gs://bucket/a/../../x", "without empty, `.` or `..`"),
        ("gs://bucket/a//x", "without empty"),
        ("gs://bucket/", "without empty"),
        ("https://example.org/%2e%2e/x", "without empty"),
        ("https://storage.googleapis.com/bucket/%2e%2e/x", "without empty"),
        ("https://example.org/a%5Cx", "without empty"),
    ],
)
def test_locate_address_that_must_not_be_fetched_is_an_error(url, match):
    with pytest.raises(ValueError, match=match):
        urls.locate(url)


def test_join_plain_http_mirror_is_allowed_for_that_host_only():
    layout = ("vit_models", "x.npz")
    assert urls.join("http://mirror.lan/a/", layout) == "http://mirror.lan/a/vit_models/x.npz"
    with pytest.raises(ValueError, match="must be gs:// or https://"):
        urls.join("ftp://mirror.lan", layout)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_VIT_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert urls.cache_folder() == tmp_path / "keras_vit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert urls.cache_folder() == tmp_path / ".cache" / "keras_vit"
    monkeypatch.setenv("KERAS_VIT_HOME", str(tmp_path / "home"))
    assert urls.cache_folder() == tmp_path / "home"
    assert urls.cache_folder(tmp_path / "given") == tmp_path / "given"
