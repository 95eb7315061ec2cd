"""What is said about unknown names."""

from keras_vit.names import close_names, did_you_mean


def test_close_names_finds_what_stands_behind_a_folder():
    known = ["sam/ViT-B_32", "imagenet21k/ViT-B_16", "imagenet21k/ViT-L_16", "bit/R50"]
    assert close_names("ViT-B_16", known)[0] == "imagenet21k/ViT-B_16"
    assert close_names("VIT-b_16", known)[0] == "imagenet21k/ViT-B_16"
    assert close_names("qqqq", known) == []


def test_close_names_takes_any_object_and_any_length():
    assert close_names(None, ["none"]) == ["none"]
    assert close_names("x" * 10**6, ["x"]) == []


def test_did_you_mean_lists_no_more_than_a_line():
    assert did_you_mean("q", map(str, range(1_000))).endswith("29, ... is expected")
