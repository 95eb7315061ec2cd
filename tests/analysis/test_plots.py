"""Overlays against the authors' drawing; every figure can be drawn and names its axes."""

import importlib
import sys

import numpy as np
import PIL.Image
import pytest

from keras_vit import analysis
from keras_vit.analysis import plots

# Eight-bit steps of the authors' drawing.
OVERLAY_TOLERANCE = 2 / 255
PNG = b"\x89PNG\r\n\x1a\n"


def test_masks_are_drawn_as_the_authors_draw_them(case):
    rollout = analysis.attention_rollout(case.model, case.images)
    masks = plots.overlay_masks(rollout, case.images.shape[1:3])
    np.testing.assert_allclose(masks, case.expected["overlay_mask"], atol=OVERLAY_TOLERANCE)


def test_an_overlay_is_the_image_where_most_is_attended_to_and_black_where_least():
    maps = np.zeros((1, 4, 6))
    maps[0, 2, 3] = 0.5
    pixels = np.full((1, 64, 96, 3), 200, "uint8")
    shown = plots.overlay(pixels, maps)[0]
    assert shown.max() == 200
    assert shown.min() == 0
    assert np.unravel_index(shown[..., 0].argmax(), (64, 96)) == pytest.approx((39.5, 55.5), abs=8)
    assert not plots.overlay(pixels, np.zeros((1, 4, 6))).any()


def _draw_all(model, images):
    found = analysis.analyze(model, images)
    filters = analysis.embedding_filters(model)
    similarity = analysis.position_similarity(model)
    pixels = np.zeros((*images.shape[:3], 3), "uint8")
    distance = found.attention_distance
    kept = analysis.thresholded_attention(model, images)
    return {
        "filters": plots.filters_figure(filters),
        "positions": plots.positions_figure(similarity),
        "distance": plots.distance_figure(distance, "a", distance[:1], "b"),
        "figure_7": plots.figure_7(filters, similarity, distance),
        "rollout": plots.rollout_figure(pixels, found.rollout, ["$x", "\u202e", "c" * 99]),
        "heads": plots.heads_figure(pixels[0], found.last_block[0], kept[0]),
        "similarity": plots.similarity_figure(analysis.representation_similarity(model, images)),
        "history": plots.history_figure({"loss": {"training": ([1, 2], [3.0, 2.0])}}),
    }


def test_every_figure_is_a_png_with_named_axes(make_model):
    model, images = make_model("vit", in_channels=4)
    figures = _draw_all(model, images)
    for figure in figures.values():
        assert plots.to_png(figure).startswith(PNG)
    distance = figures["distance"].axes[0]
    assert distance.get_ylabel() == "Mean attention distance (pixels)"
    assert distance.get_xlabel() == "Network depth (layer)"
    positions, bar = figures["positions"].axes
    assert positions.get_xlabel() == "Input patch column"
    assert [label.get_text() for label in positions.get_yticklabels()] == ["1", "2", "3", "4"]
    assert bar.get_ylabel() == "Cosine similarity"
    assert figures["similarity"].axes[1].get_ylabel() == "Linear CKA"


def test_fine_grids_keep_every_number():
    similarity = np.zeros((37, 37, 37, 37), "float32")
    axes = plots.positions_figure(similarity).axes[0]
    assert len(axes.get_xticks()) <= 14
    assert np.isfinite(axes.images[0].get_array()).sum() == 37**4


def test_a_jpeg_is_the_picture():
    import io

    pixels = np.full((8, 8, 3), (250, 10, 10), "uint8")
    with PIL.Image.open(io.BytesIO(plots.to_jpeg(pixels))) as image:
        np.testing.assert_allclose(np.asarray(image), pixels, atol=8)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "keras_vit.analysis.plots")
    with pytest.raises(ImportError, match="the extra `plots`, and 'matplotlib' is not installed"):
        importlib.import_module("keras_vit.analysis.plots")
