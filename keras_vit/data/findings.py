"""What is worth a warning about pictures that can be trained on all the same."""

import collections

import numpy as np

from keras_vit.data.splits import TEST, TRAIN
from keras_vit.data.survey import groups_of, survey

# A class below this has too few pictures to learn much or to measure anything.
FEW_TRAIN, FEW_TEST = 10, 5
_NAMED = 3  # paths or classes in a sentence


def findings(info, *, progress=None):
    """Says what is odd about the pictures of a data set of files.

    Args:
        info: `DatasetInfo`; one that is not of files has no findings.
        progress: A function of the number of pictures, which returns a context manager of a
            function that is called after each; None shows nothing.

    Returns:
        A list of sentences: classes with few pictures, the same picture in two splits or in two
        classes, pictures of one colour, and files that are not decoded.
    """
    parts = [(s, p, info.source.labels(s)) for s in info.split_sizes if (p := info.source.paths(s))]
    if not parts or any(labels.ndim != 1 or labels.dtype.kind != "i" for *_, labels in parts):
        return []
    paths = [path for _, files, _ in parts for path in files]
    splits = np.array([split for split, files, _ in parts for _ in files], object)
    labels = np.concatenate([labels for _, _, labels in parts])
    if progress is None:
        pictures = survey(paths, max_pixels=info.max_pixels)
    else:
        with progress(len(paths), "looking at the pictures") as advance:
            pictures = survey(paths, max_pixels=info.max_pixels, progress=advance)
    constant = [path for path, seen in zip(paths, pictures, strict=True) if seen.is_constant]
    broken = [
        f"{p} ({seen.problem})" for p, seen in zip(paths, pictures, strict=True) if seen.problem
    ]
    found = [
        *_few(info, splits, labels),
        *_shared(paths, pictures, splits, "leaks between splits: {} in {} and in {}"),
        *_shared(
            paths,
            pictures,
            np.array(info.class_names, object)[labels],
            "{} in the class {} and in the class {}",
        ),
    ]
    if constant:
        found.append(f"{_count(constant, 'picture')} of one colour: {_some(constant)}")
    if broken:
        found.append(f"{_count(broken, 'file')} not decoded: {_some(broken)}")
    return found


def _count(items, what):
    return f"1 {what} is" if len(items) == 1 else f"{len(items)} {what}s are"


def _some(names):
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more


def _few(info, splits, labels):
    for split, least, why in (
        (TRAIN, FEW_TRAIN, "too few to learn from"),
        (TEST, FEW_TEST, "too few to measure by"),
    ):
        if split not in info.split_sizes:
            continue
        counts = np.bincount(labels[splits == split], minlength=info.num_classes)
        few = [f"{info.class_names[k]!r} {counts[k]}" for k in np.flatnonzero(counts < least)]
        if few:
            classes = "1 class has" if len(few) == 1 else f"{len(few)} classes have"
            yield f"{classes} fewer than {least} pictures in {split!r}, {why}: {_some(few)}"


def _shared(paths, pictures, sides, sentence):
    """A sentence for each two sides that have the same picture."""
    members = collections.defaultdict(dict)
    for number, path, side in zip(groups_of(pictures), paths, sides, strict=True):
        members[number].setdefault(side, path)
    pairs = collections.defaultdict(list)
    for found in members.values():
        names = sorted(found)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                pairs[first, second].append(f"{found[first]} is like {found[second]}")
    for (first, second), examples in sorted(pairs.items()):
        count = _count(examples, "picture")
        yield f"{sentence.format(count, repr(first), repr(second))}: {_some(examples)}"
