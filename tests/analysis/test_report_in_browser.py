"""The page in a real browser: nothing is fetched, all is seen, and no name does anything."""

import importlib.util
import pathlib

import numpy as np
import pytest

from keras_vit.analysis import report
from keras_vit.analysis.inspection import inspect
from keras_vit.analysis.pictures import Photographs

_SPEC = importlib.util.spec_from_file_location(
    "keras_vit_test_browser", pathlib.Path(__file__).with_name("browser.py")
)
browsers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(browsers)

pytestmark = pytest.mark.skipif(
    browsers.CHROMIUM is None or browsers.DRIVER is None,
    reason="needs Debian's packages chromium and chromium-driver",
)

SCRIPT = "<script>document.title='taken'</script>"
QUOTES = "\"onerror=\"document.title='taken'\" x='"
TURNED = "photo\u202egnp.exe"
WIDTHS = (360, 1440)


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_model):
    folder = tmp_path_factory.mktemp("report")
    model, images = make_model("vit")
    model.class_names = (SCRIPT, QUOTES, TURNED, "\u05d0\u05d1", "x" * 300)
    other, _ = make_model("vit", class_token=False, pooling="mean")
    photographs = Photographs(
        names=(f"{SCRIPT}.png", QUOTES, TURNED),
        images=images,
        skipped=((f"{SCRIPT}{TURNED}", "<b>not an image</b>"),),
    )
    found = [
        inspect(model, label=f"runs/{SCRIPT}", photographs=photographs),
        inspect(other, label="another", photographs=photographs),
    ]
    report.write(folder / "report.html", found)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsers.browser(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_whole_alone(page, browser, width, dark):
    browser.open(page.as_uri(), width, dark=dark)
    images = browser.evaluate(
        "return [...document.images].map(i => [i.complete && i.naturalWidth > 0, "
        "i.checkVisibility() && i.getBoundingClientRect().width > 20, i.alt.length > 10])"
    )
    assert len(images) > 20
    assert np.all(images)
    assert browser.evaluate("return document.documentElement.scrollWidth") <= width
    requested = browser.requested()
    assert page.as_uri() in requested
    assert all(url.startswith(("data:", page.as_uri())) for url in requested)
    assert browser.console() == []
    dark_ink = browser.evaluate("return getComputedStyle(document.body).color")
    assert (dark_ink == "rgb(236, 236, 241)") == dark


def test_hostile_names_are_text(page, browser):
    browser.open(page.as_uri(), WIDTHS[1])
    assert browser.evaluate("return document.scripts.length") == 0
    assert browser.evaluate("return document.title").startswith("Inside runs/<script>")
    shown = browser.evaluate("return document.body.innerText")
    for name in (SCRIPT, QUOTES, "photo\\u202egnp.exe", "<b>not an image</b>", "\u05d0\u05d1"):
        assert name in shown
    assert "\u202e" not in browser.evaluate("return document.documentElement.outerHTML")
    attributes = browser.evaluate(
        "return [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
    )
    assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_people_without_a_mouse_or_a_screen_can_read_it(page, browser):
    browser.open(page.as_uri(), WIDTHS[0])
    first = browser.evaluate("return document.querySelector('a, summary, [tabindex]').outerHTML")
    assert 'href="#content"' in first
    levels = browser.evaluate(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert browser.evaluate(
        "return [...document.querySelectorAll('table')].every(t => t.caption && "
        "[...t.querySelectorAll('th')].every(h => h.scope))"
    )
    ids = browser.evaluate("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    links = browser.evaluate(
        "return [...document.querySelectorAll('a')].map(a => a.getAttribute('href').slice(1))"
    )
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    assert browser.evaluate("return document.documentElement.lang") == "en"
