"""Progress of long work, on stderr: stdout belongs to results."""

import contextlib
import sys

from absl import logging

_IMAGES_A_LINE = 50_000


@contextlib.contextmanager
def image_progress(total, title="checking"):
    """Shows on stderr how many of `total` images are done, in the log where that is no terminal.

    Args:
        total: Number of images.
        title: What is done with them.

    Yields:
        A function to call after each, or with their number after several.
    """
    if sys.stderr.isatty():
        import tqdm

        with tqdm.tqdm(total=total, desc=title, unit="image", leave=False) as bar:
            yield bar.update
        return
    count = 0

    def advance(number=1):
        nonlocal count
        before, count = count, count + number
        if before // _IMAGES_A_LINE < count // _IMAGES_A_LINE:
            logging.info("%s: %d of %d images", title, count, total)

    yield advance
