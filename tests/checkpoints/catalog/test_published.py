"""The table of what timm publishes."""

from keras_vit.checkpoints.catalog import hub
from keras_vit.checkpoints.catalog.published import get_published, list_published
from keras_vit.checkpoints.formats.timm_arguments import named_models


def test_every_row_is_of_a_known_architecture_and_has_an_address():
    names = list_published()
    assert len(names) > 300
    for name in names:
        row = get_published(name)
        assert row.architecture in named_models()
        assert hub.find(f"hf://{row.repository}").repository == row.repository
        assert min(row.image_size) >= 64


def test_rows_are_found_by_pattern_licence_and_name():
    assert "vit_small_patch14_dinov2.lvd142m" in list_published("*dinov2*", licence="apache-2.0")
    assert list_published("*dinov2*", licence="none such") == []
    row = get_published("timm/vit_base_patch16_224")
    assert row.repository == "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert get_published("vit_base_patch16_225") is None
    assert hub.find("vit_base_patch16_224").repository == row.repository
    assert hub.find("vit_base_patch16_225") is None
