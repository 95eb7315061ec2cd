"""The HDF5 container, as far as Keras uses it: groups, names, and arrays that lie in one piece.

Read here and not with the HDF5 library, which follows links into other files, unpacks filters,
makes up what a file does not hold, and is made for files that mean well.  What Keras writes is a
small part of the format ("HDF5 File Format Specification Version 3.0"): superblock 0, old-style
groups (III.A.1, III.C to III.E), version 1 object headers (IV.A.1.a), arrays in one piece, and
attributes that hold one string.  Anything else is refused by name.  The data has no checksum, as
the format has none.
"""

import dataclasses
import math
import pathlib
import struct

import ml_dtypes
import numpy as np

from keras_vit.checkpoints.containers.arrays import StoredArray, first_bytes, impostor
from keras_vit.errors import CheckpointError
from keras_vit.files import open_regular

MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5 = "(an HDF5 file)"
UNDEFINED = (1 << 64) - 1
# Several times what the largest model needs.
MAX_OBJECTS = 10_000
MAX_DEPTH = 16
MAX_NAME_BYTES = 255
MAX_PART_BYTES = 1 << 20
MAX_METADATA_BYTES = 32 << 20
MAX_CONTINUATIONS = 64
MAX_RANK = 16


def _datatypes():
    """Datatype message (IV.A.2.d), padded to eight bytes -> dtype."""
    messages = {
        # What h5py makes of bfloat16: two bytes without a type.
        struct.pack("<4BI", 0x15, 0, 0, 0, 2): np.dtype(ml_dtypes.bfloat16),
    }
    # Where the sign is, then the places of all bits, and the bias of the exponent.
    floats = {
        "f2": (0x0F, 2, (16, 10, 5, 0, 10, 15)),
        "f4": (0x1F, 4, (32, 23, 8, 0, 23, 127)),
        "f8": (0x3F, 8, (64, 52, 11, 0, 52, 1023)),
    }
    for order, flag in (("<", 0), (">", 1)):
        for name, (sign, size, bits) in floats.items():
            head = struct.pack("<4BI", 0x11, 0x20 | flag, sign, 0, size)
            messages[head + struct.pack("<2xH4BI4x", *bits)] = np.dtype(order + name)
        for kind, sign in (("u", 0x00), ("i", 0x08)):
            for size in (1, 2, 4, 8):
                head = struct.pack("<4BI", 0x10, sign | flag, 0, 0, size)
                name = f"{order}{kind}{size}"
                messages[head + struct.pack("<2xH4x", 8 * size)] = np.dtype(name)
    return messages


DATATYPES = _datatypes()

# Messages of an object header (IV.A.2) that mean more than can be read here.
_REFUSED = {
    0x0002: "is a group of a newer kind than Keras writes",
    0x0006: "is a group with links of a newer kind than Keras writes",
    0x0007: "has its data in another file, which is never opened",
    0x000A: "is a group of a newer kind than Keras writes",
    0x000B: "is compressed or filtered, which Keras does not do",
}
_DATASPACE, _DATATYPE, _LAYOUT, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = (
    0x0001, 0x0003, 0x0008, 0x000C, 0x0010, 0x0011,
)  # fmt: skip
# Nothing, fill values (unused: every array is in the file), modification times, comments.
_IGNORED = {0x0000, 0x0004, 0x0005, 0x000D, 0x000E, 0x0012}


@dataclasses.dataclass(frozen=True)
class Hdf5File:
    """What a file holds.

    Attributes:
        arrays: path -> `StoredArray`, in the order of the data.
        attributes: path of a group or array -> attribute name -> string, for those that have any.
    """

    arrays: dict
    attributes: dict


def read_headers(path):
    """What an HDF5 file holds, without reading its data.

    Args:
        path: a file.

    Returns:
        A dict: path of the array in the file -> `StoredArray`, in the order of the data.

    Raises:
        CheckpointError: as `read_file` does.
    """
    return read_file(path).arrays


def read_file(path, *, start=0, size=None, skip=()):
    """What an HDF5 file holds, without reading its data.

    Args:
        path: a file.
        start: where in it the HDF5 file begins, for one within an archive.
        size: its size in bytes; None for all that follows.
        skip: names of groups at the top that are left out.

    Returns:
        `Hdf5File`.

    Raises:
        CheckpointError: if the file is missing, not of this format, truncated, damaged, or holds
            something else than Keras writes.
    """
    path = pathlib.Path(path)
    first = first_bytes(path, ".weights.h5")
    if start == 0 and not first.startswith(MAGIC):
        raise CheckpointError(path, f"not an HDF5 file {impostor(first, HDF5)}")
    if size is None:
        size = path.stat().st_size - start
    try:
        with open_regular(path) as file:
            return _Reader(path, file, start, size, frozenset(skip)).read()
    except (ValueError, IndexError, struct.error, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(path, f"the HDF5 file is damaged or cut off: {error}") from error


class _Reader:
    """Walks the groups of one file; ValueError says what is wrong where."""

    def __init__(self, path, file, start, size, skip):
        self.path, self.file, self.start, self.size, self.skip = path, file, start, size, skip
        self.arrays, self.attributes, self.seen = {}, {}, set()
        self.collections, self.metadata_bytes = {}, 0

    def read(self):
        superblock = self.part(0, 96)
        if not superblock.startswith(MAGIC):
            raise ValueError("it does not start as HDF5 files do")
        if superblock[8] != 0 or superblock[13:15] != b"\x08\x08":
            raise CheckpointError(
                self.path, "is an HDF5 file of another version than Keras writes (superblock 0)"
            )
        base, _, end, driver = struct.unpack_from("<4Q", superblock, 24)
        if (base, driver) != (0, UNDEFINED) or end != self.size:
            raise ValueError(f"{self.size} bytes, expected {end}")
        root = struct.unpack_from("<Q", superblock, 64)[0]
        problems = []
        self.walk(root, "", 0, problems)
        if problems:
            raise CheckpointError(self.path, problems)
        if not self.arrays:
            raise CheckpointError(self.path, "the file holds no arrays")
        return Hdf5File(self.in_order(), self.attributes)

    def in_order(self):
        """The arrays by their places, none of which may be within another's."""
        ordered = sorted(self.arrays.items(), key=lambda item: (item[1].start, item[1].num_bytes))
        position = self.start
        for name, array in ordered:
            if array.num_bytes and array.start < position:
                raise ValueError(f"array {name!r} begins within another")
            position = max(position, array.start + array.num_bytes)
        return dict(ordered)

    def part(self, offset, size):
        """Bytes of the file; ValueError if they are not all within it, or too many."""
        if size > MAX_PART_BYTES or offset > self.size or size > self.size - offset:
            raise ValueError(f"{size} bytes at {offset} are not within it")
        self.metadata_bytes += size
        if self.metadata_bytes > MAX_METADATA_BYTES:
            raise ValueError("there is too much beside the data")
        self.file.seek(self.start + offset)
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError("it is cut off")
        return data

    def walk(self, address, name, depth, problems):
        """One object and all below it; what is wrong with arrays goes to `problems`."""
        if address in self.seen:
            raise ValueError(f"{name or '/'!r} is an object that is there under two names")
        self.seen.add(address)
        if len(self.seen) > MAX_OBJECTS or depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_OBJECTS} objects, or {MAX_DEPTH} groups in groups")
        messages = self.messages(address, name or "/")
        attributes = dict(self.attribute(data) for data in messages.get(_ATTRIBUTE, ()))
        if attributes:
            self.attributes[name] = attributes
        if _SYMBOL_TABLE in messages:
            for child, child_address in self.links(messages[_SYMBOL_TABLE][0], name or "/"):
                if depth or child not in self.skip:
                    self.walk(
                        child_address, f"{name}/{child}" if name else child, depth + 1, problems
                    )
            return
        try:
            self.arrays[name] = self.array(messages, name)
        except ValueError as error:
            problems.append(f"array {name!r} {error}")

    def messages(self, address, name):
        """Type -> data of each message in a version 1 object header."""
        version, _, count, _, length = struct.unpack("<BBHII", self.part(address, 12))
        if version != 1:
            raise ValueError(f"{name!r} is no object, or one of a newer kind than Keras writes")
        blocks, messages = [(address + 16, length)], {}
        for offset, size in blocks:
            block, position = self.part(offset, size), 0
            while position + 8 <= size and count:
                kind, data_size, flags = struct.unpack_from("<HHB", block, position)
                data = block[position + 8 : position + 8 + data_size]
                if len(data) != data_size:
                    raise ValueError(f"{name!r} has a message that is cut off")
                position, count = position + 8 + data_size, count - 1
                if kind in _REFUSED:
                    raise CheckpointError(self.path, f"{name!r} {_REFUSED[kind]}")
                if kind == _CONTINUATION:
                    if len(blocks) > MAX_CONTINUATIONS:
                        raise ValueError(f"{name!r} goes on and on")
                    blocks.append(struct.unpack("<QQ", data))
                elif kind not in _IGNORED:
                    # Bit 1: the message is elsewhere, such as a type with a name of its own.
                    if flags & 0x02:
                        raise ValueError(f"{name!r} has a message that is shared")
                    messages.setdefault(kind, []).append(data)
        known = {_DATASPACE, _DATATYPE, _LAYOUT, _ATTRIBUTE, _SYMBOL_TABLE}
        if not set(messages) <= known or count:
            raise ValueError(f"{name!r} has messages that are not known, or too few")
        if any(len(data) > 1 for kind, data in messages.items() if kind != _ATTRIBUTE):
            raise ValueError(f"{name!r} has a message twice")
        return messages

    def links(self, symbol_table, name):
        """(name, address of its object header) for each member of an old-style group."""
        tree, heap = struct.unpack("<QQ", symbol_table)
        signature, heap_size, _, heap_address = struct.unpack("<8sQQQ", self.part(heap, 32))
        if signature != b"HEAP\0\0\0\0":
            raise ValueError(f"{name!r} has no local heap")
        names, found = self.part(heap_address, heap_size), {}
        for node in self.leaves(tree, name):
            signature, count = struct.unpack("<6sH", self.part(node, 8))
            if signature != b"SNOD\x01\0":
                raise ValueError(f"{name!r} has no symbol table node")
            for entry in struct.iter_unpack("<QQI20x", self.part(node + 8, 40 * count)):
                offset, address, cache = entry
                # A soft link has no object of its own, and is cached as type 2.
                if cache not in (0, 1) or address == UNDEFINED:
                    raise CheckpointError(
                        self.path, f"{name!r} holds a link, which is never followed"
                    )
                child = names[offset : offset + MAX_NAME_BYTES + 1].partition(b"\0")
                if not child[1]:
                    raise ValueError(f"{name!r} has a member whose name is cut off or too long")
                child = child[0].decode()
                if not child or child in (".", "..") or "/" in child or child in found:
                    raise ValueError(f"{name!r} has a member called {child!r}, or has it twice")
                found[child] = address
        return found.items()

    def leaves(self, root, name):
        """Addresses of the symbol table nodes that a version 1 B-tree leads to."""
        nodes, height, visited = [root], None, 0
        while height != 0:
            below, heights = [], set()
            visited += len(nodes)
            if visited > MAX_OBJECTS:
                raise ValueError(f"{name!r} has an endless B-tree")
            for node in nodes:
                signature, kind, level, count = struct.unpack("<4sBBH", self.part(node, 8))
                if signature != b"TREE" or kind != 0:
                    raise ValueError(f"{name!r} has no B-tree")
                heights.add(level)
                pairs = self.part(node + 24, 16 * count)
                below += [child for _, child in struct.iter_unpack("<QQ", pairs)]
            if len(heights) != 1 or (height is not None and heights != {height - 1}):
                raise ValueError(f"{name!r} has a B-tree of several heights")
            nodes, height = below, heights.pop()
        return nodes

    def attribute(self, data):
        """(name, string) of an attribute message; None in place of what is no string."""
        version, _, name_size, type_size, space_size = struct.unpack_from("<BBHHH", data)
        if version not in (1, 3):
            raise ValueError("an attribute is of another version than Keras writes")
        position, padding = (8, 8) if version == 1 else (9, 1)
        parts = []
        for size in (name_size, type_size, space_size):
            parts.append(data[position : position + size])
            position += size + -size % padding
        name, value = parts[0].rstrip(b"\0").decode(), data[position:]
        # Class 9, variable length, of kind 1: a string, which lies in the global heap.
        if parts[1][:2] != b"\x19\x01" or len(value) < 16:
            return name, None
        length, collection, index = struct.unpack_from("<IQI", value)
        text = self.global_heap(collection).get(index, b"")
        if len(text) < length:
            raise ValueError(f"the string of attribute {name!r} is cut off")
        return name, text[:length].decode()

    def global_heap(self, address):
        """Index -> bytes of a global heap collection (III.E)."""
        if address in self.collections:
            return self.collections[address]
        if len(self.collections) > MAX_OBJECTS:
            raise ValueError("there are too many global heaps")
        signature, size = struct.unpack("<8sQ", self.part(address, 16))
        if signature != b"GCOL\x01\0\0\0":
            raise ValueError("a global heap is not where an attribute says")
        data, position, objects = self.part(address, size), 16, {}
        while position + 16 <= size:
            index, _, length = struct.unpack_from("<HH4xQ", data, position)
            if index == 0:
                break
            objects[index] = data[position + 16 : position + 16 + length]
            position += 16 + length + -length % 8
        self.collections[address] = objects
        return objects

    def array(self, messages, name):
        """The `StoredArray` of a data set; ValueError says what is wrong with it."""
        if not {_DATASPACE, _DATATYPE, _LAYOUT} <= set(messages):
            raise ValueError("has no shape, type or place")
        space, datatype, layout = (messages[k][0] for k in (_DATASPACE, _DATATYPE, _LAYOUT))
        if len(space) < 4 or len(layout) < 2:
            raise ValueError("has a shape or a place that is cut off")
        version, rank = space[0], space[1]
        if version not in (1, 2) or rank > MAX_RANK or (version == 2 and space[3] > 1):
            raise ValueError("has a shape of another kind than Keras writes")
        shape = struct.unpack_from(f"<{rank}Q", space, 8 if version == 1 else 4)
        dtype = DATATYPES.get(datatype)
        if dtype is None:
            raise ValueError("is of another type than plain numbers")
        if layout[0] != 3 or layout[1] not in (0, 1):
            raise ValueError("does not lie in the file in one piece, as what Keras writes does")
        if layout[1] == 0:
            raise ValueError("lies within its header, where Keras does not put it")
        address, num_bytes = struct.unpack_from("<QQ", layout, 2)
        expected = math.prod(shape) * dtype.itemsize
        if num_bytes != expected:
            raise ValueError(f"has {num_bytes} bytes where its shape {shape} needs {expected}")
        if num_bytes and (address > self.size or num_bytes > self.size - address):
            raise ValueError(f"is not in the file: {num_bytes} bytes at {address}")
        start = self.start + (address if num_bytes else 0)
        return StoredArray(name, shape, dtype, self.path, start, num_bytes)


def write(file, arrays):
    """Writes arrays as Keras does: one dataset each, in the groups that their keys name.

    Args:
        file: binary file, open for reading and writing.
        arrays: key -> float32, float16 or bfloat16 array.
    """
    import h5py  # Keras brings it; only writing needs it.

    # Without times: the same arrays give the same bytes at any time.
    with h5py.File(file, "w", track_order=False) as target:
        for key, array in arrays.items():
            dataset = target.create_dataset(key, data=array, track_times=False)
            if array.dtype == ml_dtypes.bfloat16:
                dataset.attrs["dtype"] = "bfloat16"
