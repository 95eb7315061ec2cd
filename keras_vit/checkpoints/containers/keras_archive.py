"""What Keras writes for our models: `.keras` archives and `.weights.h5` files, read as data.

Keras itself would make whatever objects a file asks for, and assign layer after layer.  Here
a configuration is a table of plain values for one of three known classes, and arrays are found by
the names of their layers, which Keras writes beside them: nothing is found by position.

An array's key is the path of its layer and its place among that layer's variables:
`encoderblock_0/attention/3`.
"""

import dataclasses
import pathlib
import re
import zlib
from collections.abc import Mapping

from keras_vit.checkpoints.containers import hdf5, zip_archive
from keras_vit.checkpoints.containers.arrays import first_bytes, impostor, read_stored
from keras_vit.checkpoints.containers.safetensors import parse_json
from keras_vit.errors import CheckpointError

KERAS = "(a zip archive with a configuration and weights)"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_JSON_BYTES = 2 << 20
# Groups of a compiled model's file that are no weights of it.
NOT_WEIGHTS = ("optimizer", "metrics", "_metrics", "_loss_tracker", "loss_tracker")
CRC_BYTES = 1 << 20
PACKAGE = "keras_vit"
# A model of ours behind its preprocessing: the group of its layer is one further down.
WRAPPER = "PixelModel"


@dataclasses.dataclass(frozen=True)
class KerasWeights:
    """Arrays of a Keras file of which nothing but the headers has been read.

    Attributes:
        path: the file.
        headers: key -> `StoredArray`.
        member: the archive's member that they are in, or None.
    """

    path: pathlib.Path
    headers: Mapping
    member: zip_archive.Member | None = None

    def match(self, shapes):
        """Finds every variable's array.

        Args:
            shapes: variable path -> shape, of all variables, those of a layer in their order.

        Returns:
            Variable path -> `StoredArray`.

        Raises:
            CheckpointError: unless the file has exactly these; lists all differences.
        """
        keys, counts = {}, {}
        for path in shapes:
            owner = path.rpartition("/")[0]
            keys[path] = f"{owner}/{counts.setdefault(owner, 0)}"
            counts[owner] += 1
        problems = [
            f"- {path} {shape} is missing"
            for path, shape in shapes.items()
            if keys[path] not in self.headers
        ]
        expected = set(keys.values())
        problems += [
            f"+ {key} {header.shape} has no place in the model"
            for key, header in self.headers.items()
            if key not in expected
        ]
        problems += [
            f"{path} has the shape {self.headers[key].shape}, expected {shapes[path]}"
            for path, key in keys.items()
            if key in self.headers and self.headers[key].shape != shapes[path]
        ]
        if problems:
            raise CheckpointError(self.path, problems)
        return {path: self.headers[key] for path, key in keys.items()}

    def read(self, arrays, int8=()):
        """Reads arrays as float32.

        Args:
            arrays: any key -> `StoredArray`.
            int8: the keys of those that must be int8.

        Returns:
            A dict with the same keys.

        Raises:
            CheckpointError: if the archive's checksum is wrong, data is cut off, or a value is not
                finite; names every such array.
        """
        if self.member is not None:
            _check_sum(self.path, self.member)
        return read_stored(self.path, arrays, int8)


def open_weights(path):
    """The `KerasWeights` of a `.weights.h5` file.

    Raises:
        CheckpointError: if it is missing, damaged, or not what Keras writes.
    """
    path = pathlib.Path(path)
    return KerasWeights(path, _by_layer(path, hdf5.read_file(path, skip=NOT_WEIGHTS)))


def open_model(path):
    """What a `.keras` file of one of our models holds.

    Args:
        path: a file.

    Returns:
        (name of the model's class, what its `get_config` returned, `KerasWeights`).

    Raises:
        CheckpointError: if it is missing, damaged, or of anything else than one model of ours.
    """
    path = pathlib.Path(path)
    start = first_bytes(path, ".keras")
    if not start.startswith(b"PK"):
        raise CheckpointError(path, f"not a .keras file {impostor(start, KERAS)}")
    found, problems = zip_archive.read_directory(path)
    members = {member.name: member for member in found}
    problems += [f"- {name} is missing" for name in (CONFIG, WEIGHTS) if name not in members]
    known = {CONFIG, METADATA, WEIGHTS}
    problems += [f"+ {name} is not known" for name in members if name not in known]
    if problems:
        raise CheckpointError(path, problems)
    try:
        text = zip_archive.read_member(path, members[CONFIG], MAX_JSON_BYTES)
    except (ValueError, OSError, zlib.error) as error:
        raise CheckpointError(path, f"{CONFIG} {error}") from error
    class_name, config = _our_class(path, parse_json(path, text, CONFIG))
    is_wrapped = class_name == WRAPPER
    if is_wrapped:
        network = config.get("network")
        class_name, config = _our_class(path, network if isinstance(network, dict) else {})
    member = members[WEIGHTS]
    if member.is_deflated:
        raise CheckpointError(path, f"{WEIGHTS} is compressed, which Keras does not do")
    weights = hdf5.read_file(path, start=member.start, size=member.size, skip=NOT_WEIGHTS)
    return class_name, config, KerasWeights(path, _by_layer(path, weights, is_wrapped), member)


def class_name_of(path):
    """Class of the model of ours in a `.keras` file by its configuration alone, or None."""
    path = pathlib.Path(path)
    if not first_bytes(path, ".keras").startswith(b"PK"):
        return None
    found = {member.name: member for member in zip_archive.read_directory(path)[0]}
    if CONFIG not in found:
        return None
    try:
        text = zip_archive.read_member(path, found[CONFIG], MAX_JSON_BYTES)
        return _our_class(path, parse_json(path, text, CONFIG))[0]
    except (ValueError, OSError, zlib.error, CheckpointError):
        return None  # whoever opens the file says what is wrong with it


def _our_class(path, description):
    package, _, class_name = str(description.get("registered_name")).partition(">")
    config = description.get("config")
    if package != PACKAGE or not isinstance(config, dict):
        kind = str(description.get("class_name"))[:60]
        raise CheckpointError(path, f"holds a {kind} and no model of keras_vit")
    return class_name, config


def _by_layer(path, file, is_wrapped=False):
    """Key -> `StoredArray`, from where Keras puts arrays and the names that it gives groups."""
    headers, problems = {}, []
    outer = 2 if is_wrapped else 0  # the groups of the model in a model
    for place, header in file.arrays.items():
        *groups, variables, index = place.split("/") if "/" in place else ("", "", place)
        names = []
        # The first group holds the layers and has no name of its own.
        for depth in range(outer + 2, len(groups) + 1):
            group = "/".join([*groups[:depth], "vars"])
            names.append((file.attributes.get(group) or {}).get("name"))
        is_layers = all(group == "layers" for group in (*groups[:1], *groups[outer : outer + 1]))
        is_layers = is_layers and len(groups) > outer and names and all(names)
        if not is_layers or variables != "vars" or not re.fullmatch(r"0|[1-9]\d{0,5}", index):
            problems.append(f"+ {place} {header.shape} is not where Keras puts a layer's variable")
            continue
        key = "/".join([*names, index])
        if key in headers:
            problems.append(f"+ {place} {header.shape} is of {key}, which is there twice")
        headers[key] = dataclasses.replace(header, name=key)
    if problems:
        raise CheckpointError(path, problems)
    return headers


def _check_sum(path, member):
    try:
        with zip_archive.opened(path, member) as fill:
            buffer, left = memoryview(bytearray(CRC_BYTES)), member.size
            while left:
                fill(buffer[: min(left, CRC_BYTES)])
                left -= min(left, CRC_BYTES)
    except (ValueError, OSError) as error:
        raise CheckpointError(path, f"{member.name} {error}") from error
