"""The words of the official heads, from the official lists; never made up."""

from keras_vit.checkpoints.download.fetch import cached_path, fetch
from keras_vit.files import read_regular

_MAX_BYTES = 8 << 20

# The lists beside the BiT files are in the order of the heads of ViT and AugReg files too:
# number of classes -> the file with one class a line.
_LEMMAS = {
    1_000: "gs://bit_models/ilsvrc2012_wordnet_lemmas.txt",
    21_843: "gs://bit_models/imagenet21k_wordnet_lemmas.txt",
}
_WORDNET_IDS = {21_843: "gs://bit_models/imagenet21k_wordnet_ids.txt"}


def class_names(num_classes, download=False, cache_dir=None):
    """The names of an ImageNet-1k (1,000) or ImageNet-21k (21,843) head's classes, in its order.

    A head of another size has no official list; neither has one of those sizes for other data, so
    ask only for heads that the catalogue calls ImageNet's.

    Args:
        num_classes: size of the head.
        download: whether to fetch a list that is not in the cache.
        cache_dir: replaces the cache folder.

    Returns:
        Tuple of `num_classes` strings, each the synonyms of one class; None if there is no official
        list for that size, or it is not in the cache and was not to be fetched.

    Raises:
        ValueError: if the file is not a list of exactly `num_classes` lines.
        DownloadError: if it cannot be fetched.
    """
    return _read(_LEMMAS, num_classes, download, cache_dir)


def wordnet_ids(num_classes, download=False, cache_dir=None):
    """The WordNet identifiers of an ImageNet-21k head's classes; otherwise as `class_names`."""
    return _read(_WORDNET_IDS, num_classes, download, cache_dir)


def _read(lists, num_classes, download, cache_dir):
    url = lists.get(num_classes)
    if url is None:
        return None
    if download:
        path = fetch(url, cache_dir=cache_dir)
    else:
        path = cached_path(url, cache_dir)
        if not path.is_file():
            return None
    try:
        lines = read_regular(path, _MAX_BYTES).decode("utf-8").split("\n")
    except UnicodeDecodeError as e:
        raise ValueError(
            f"{path} is not a list of class names: {e}. Delete it and fetch {url}"
        ) from e
    if lines[-1] == "":
        lines.pop()
    names = tuple(line.removesuffix("\r").strip() for line in lines)
    if len(names) != num_classes or not all(names):
        raise ValueError(
            f"{path} must have {num_classes} lines, none empty. Received: {len(names)} lines, "
            f"{names.count('')} empty. Delete it and fetch {url}"
        )
    return names
