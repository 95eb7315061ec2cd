"""What `mkdocs build` does beside its own work.

README and CHANGELOG are pages of the site too, and so are the tables of models and checkpoints.
"""

import pathlib
import posixpath
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
# page of the site -> file of the repository
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
_LINK = re.compile(r"(\]\(|\]: )(?!https?:|#|mailto:)([^)\s#]+)")


def on_files(files, config):
    """Adds the pages that lie outside `docs/` or are made from tables."""
    sys.path.insert(0, str(ROOT))
    from tools import zoo_page

    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, "", config)))
    files.append(File.generated(config, "zoo.md", content=zoo_page.page()))
    files.append(File.generated(config, zoo_page.PLOT, content=zoo_page.plot()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links to files of the repository that are no pages into their names."""
    folder = posixpath.dirname(page.file.src_uri)
    return markdown if page.file.src_uri in PAGES else _relinked(markdown, f"docs/{folder}", config)


def _relinked(markdown, folder, config):
    places = {source: page for page, source in PAGES.items()}

    def replace(match):
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        if path in places:
            target = places[path]
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
        else:
            return f"{match[1]}{config.repo_url or 'index.html'}"
        start = folder.removeprefix("docs").strip("/")
        return match[1] + posixpath.relpath(target, start or ".")

    return _LINK.sub(replace, markdown)
