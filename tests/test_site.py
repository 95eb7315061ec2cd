"""The documentation's site: every page is in its menu; built strictly and opened in a browser."""

import functools
import http.server
import importlib.util
import pathlib
import re
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location(
    "keras_vit_test_browser", ROOT / "tests" / "analysis" / "browser.py"
)
browsers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(browsers)


def test_every_page_is_in_the_menu_of_the_site():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    named = set(re.findall(r"[\w/]+\.md", menu)) - {"index.md", "changelog.md", "zoo.md"}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert named == pages


def test_every_module_of_the_api_pages_exists():
    for page in ROOT.glob("docs/api/*.md"):
        names = re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
        assert names, f"{page} lists nothing"
        for name in names:
            path = ROOT / name.replace(".", "/")
            found = (path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py"))
            assert any(map(pathlib.Path.exists, found)), f"{page.name}: {name}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


FAILED_IMAGES = """return [...document.images].filter(i => i.complete && !i.naturalWidth)
                            .map(i => i.src)"""
TYPE_INTO_SEARCH = """
document.querySelector('#__search').checked = true;
const field = document.querySelector('.md-search__input');
field.focus();
field.value = 'few-shot';
field.dispatchEvent(new Event('keyup', {bubbles: true}));
field.dispatchEvent(new Event('input', {bubbles: true}));
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None or None in (browsers.CHROMIUM, browsers.DRIVER),
    reason="needs the extra `docs` and Debian's packages chromium and chromium-driver",
)
def test_pages_open_without_errors_and_ask_for_nothing_elsewhere(site, address, tmp_path):
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert "index.html" in pages
    with browsers.browser(tmp_path / "profile") as browser:
        for page in pages:
            for width in (360, 1440):
                browser.open(f"{address}/{page}", width)
                assert not browser.console() or page == "404.html", (page, width)
                assert browser.evaluate(FAILED_IMAGES) == [], (page, width)
                assert all(url.startswith((address, "data:")) for url in browser.requested())
        browser.open(f"{address}/index.html", 1440)
        browser.evaluate(TYPE_INTO_SEARCH)
        count = "return document.querySelectorAll('.md-search-result__item').length"
        for _ in range(100):
            if browser.evaluate(count):
                break
            threading.Event().wait(0.1)
        assert browser.evaluate(count)
