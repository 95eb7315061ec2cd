"""Reports of every family, with and without images, and of the folders of runs."""

import json
import sys

import numpy as np
import pytest

from keras_vit.analysis import html_page, report
from keras_vit.analysis.inspection import inspect
from keras_vit.analysis.pictures import Photographs


def _inspection(make_model, family="vit", **changes):
    model, images = make_model(family, **changes)
    names = tuple(f"photo {i}.jpg" for i in range(len(images)))
    return model, inspect(model, photographs=Photographs(names=names, images=images))


@pytest.mark.parametrize("family", ["vit", "hybrid", "bit"])
def test_every_family_has_a_page_with_its_parts(make_model, family):
    _, found = _inspection(make_model, family)
    page = report.render([found]).decode()
    for name in ("model", "filters", "images", "similarity", "statistics"):
        assert f'<section id="{name}"' in page
    has_attention = family != "bit"
    assert ('<section id="distances"' in page) == has_attention
    assert ('<section id="positions"' in page) == has_attention
    assert page.count("<img ") == page.count('alt="')
    assert "photo 2.jpg" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"pooling": "none"}, {"in_channels": 1}])
def test_models_of_other_kinds_have_a_page(make_model, changes):
    _, found = _inspection(make_model, **changes)
    assert b'<section id="images"' in report.render([found])


def test_without_images_the_page_is_about_the_weights(make_model):
    model, _ = make_model("vit")
    page = report.render([inspect(model)]).decode()
    assert '<section id="filters"' in page
    assert '<section id="images"' not in page
    assert "encoderblock_1/attention/query_kernel" in page


def test_json_has_the_numbers(make_model):
    model, found = _inspection(make_model)
    found.facts["weights"][0]["mean"] = float("nan")
    value = json.loads(report.render([found, found], "json"))
    first = value["models"][0]
    assert first["parameters"] == model.count_params()
    assert first["weights"][0]["mean"] is None
    assert np.shape(first["attention_distance"]) == (2, 3)
    assert np.shape(first["position_similarity"]) == (4, 3, 4, 3)
    assert np.shape(value["linear_cka"]["values"]) == (2, 2)
    image = first["images"][1]
    assert image["path"] == "photo 1.jpg"
    assert len(image["predictions"]) == 5
    assert sum(p["probability"] for p in image["predictions"]) == pytest.approx(1, abs=1e-4)
    assert np.shape(image["attention_rollout"]) == (4, 3)


def test_one_picture_shows_one_or_two_models(make_model):
    _, vit = _inspection(make_model)
    _, bit = _inspection(make_model, "bit")
    for found in ([vit], [vit, bit]):
        assert report.render(found, "png").startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="`format` must be one of.*'gif'"):
        report.render([vit], "gif")


def test_a_run_gets_its_report(make_model, tmp_path):
    model, _ = make_model("vit")
    (tmp_path / "recipe.json").write_text('{"optimizer": "<i>adam</i>"}')
    (tmp_path / "history.csv").write_text("step,loss,gradient_norm\n1,2,3\n2,1,2\n")
    (tmp_path / "metrics.json").write_text('{"test": {"accuracy": 0.875}, "steps": 2}')
    path = report.write_report(tmp_path, model)
    page = path.read_text()
    assert path == tmp_path / "report.html"
    assert "&lt;i&gt;adam&lt;/i&gt;" in page
    assert "training gradient_norm 2" in page
    assert "0.875" in page
    assert [entry.name for entry in tmp_path.iterdir() if "tmp" in entry.name] == []


def test_without_the_extra_or_a_place_a_run_goes_without(make_model, tmp_path, monkeypatch):
    model, _ = make_model("vit")
    (tmp_path / "file").write_text("")
    assert report.write_report(tmp_path / "file", model) is None
    (tmp_path / "file").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.write_report(tmp_path, model) is None
    assert list(tmp_path.iterdir()) == []


def test_text_is_shown_and_does_nothing():
    assert html_page.text("a<b>&\"'") == "<bdi>a&lt;b&gt;&amp;&quot;&#x27;</bdi>"
    assert html_page.visible("a\u202eb\x00\udce9\u200f\n") == r"a\u202eb\x00\udce9\u200f\n"
    assert html_page.attribute('x" onload="y') == "x&quot; onload=&quot;y"
    assert html_page.visible("Käse 日本語 😀") == "Käse 日本語 😀"
