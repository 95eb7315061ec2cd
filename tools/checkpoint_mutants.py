"""Damaged checkpoint files, drawn from a seed: what `fuzz_checkpoints.py` loads.

A mutant is made from the bytes of a good file.  `byte_mutant` knows nothing of the container;
`STRUCTURED` takes it apart, changes one or two things and puts it together again with checksums and
lengths that are right, so that it reaches the code behind the first tests.
"""

import io
import json
import struct
import warnings
import zipfile
import zlib

import h5py
import ml_dtypes
import numpy as np

# How far from either end of a file its structure mostly lies.
STRUCTURE_BYTES = 4096
NUMBERS = (0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def pick(rng, values):
    """One of a list, whatever its members are."""
    return values[rng.integers(len(values))]


def byte_mutant(rng, good):
    """One to four changed bytes, a cut, a block that is moved, doubled or blanked."""
    data, size = bytearray(good), len(good)

    def place():
        if rng.random() < 0.5:
            return int(rng.integers(size))
        offset = int(rng.integers(min(size, STRUCTURE_BYTES)))
        return offset if rng.random() < 0.5 else size - 1 - offset

    match rng.integers(8):
        case 0:
            del data[place() :]
        case 1:
            start, length = place(), int(rng.integers(1, 600))
            del data[start : start + length]
        case 2:
            start, length = place(), int(rng.integers(1, 600))
            data[start:start] = data[start : start + length]
        case 3:
            start, length = place(), int(rng.integers(1, 64))
            data[start : start + length] = bytes(len(data[start : start + length]))
        case _:
            for _ in range(rng.integers(1, 5)):
                data[place()] ^= 1 << rng.integers(8) if rng.random() < 0.5 else rng.integers(256)
    return bytes(data)


def damaged_values(rng, array):
    """An array as float32 with what no weights hold, or of another shape or type."""
    array = np.array(array, np.float32)
    match rng.integers(7):
        case 0:
            array.reshape(-1)[rng.integers(array.size)] = pick(rng, (np.nan, np.inf, -np.inf))
            return array
        case 1:
            return array[..., None]
        case 2:
            return array.reshape(-1)[: rng.integers(array.size)]
        case 3:
            return np.concatenate([array, array])
        case 4:
            return array.astype(pick(rng, ("<i4", "<i8", "<u2", "|b1", "<c8", "|S4", "<U3")))
        case 5:
            return np.zeros((0, *array.shape[1:]), np.float32)
        case _:
            return array.reshape(-1)


def changed_name(rng, name):
    """Another name than a file's own."""
    place = int(rng.integers(len(name)))
    return pick(
        rng,
        (
            name[:place] + name[place + 1 :],
            name[:place] + chr(rng.integers(33, 1000)) + name[place + 1 :],
            name + "_1",
            f"../{name}",
            f"/{name}",
            name.upper() if name != name.upper() else name.lower(),
            "",
            "surprise",
        ),
    )


def same_values(rng, arrays):
    """The same arrays in a form that must load, to the same bits."""
    kind = rng.integers(3)
    if kind == 0:
        return {k: a.astype("<f8") for k, a in arrays.items()}
    names = list(arrays)
    rng.shuffle(names)
    return {name: arrays[name] for name in names}


# ---- .npz ----------------------------------------------------------------------------------------

DESCRIPTORS = (
    "<i4", "|O", "<f8", "<f2", "|V4", "|V2", "|S4", "<U1", "<c8", "|b1", "", "f4,", "<f16", "|V0",
)  # fmt: skip
SHAPES = (
    "()", "(1,)", "(0,)", "(1000000000000000,)", "(-1,)", "(1.5,)", "((2, 3),)", "(2**9,)", "[3]",
    "(True,)", "(" * 300 + ")" * 300, "('a',)", "(" + "1, " * 40 + ")", "(99999999999999999999,)",
)  # fmt: skip


def npy(array, change=None):
    """An array as a `.npy` member; `change` edits the header's text."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
    if change is None:
        return buffer.getvalue()
    data = buffer.getvalue()
    length = struct.unpack_from("<H", data, 8)[0]
    text = change(data[10 : 10 + length].decode("latin1")).encode("latin1", "replace")
    return data[:8] + struct.pack("<H", min(len(text), 65535)) + text + data[10 + length :]


def zipped(members, compression=zipfile.ZIP_STORED, comment=b""):
    """An archive of (name, bytes) pairs, doubled names among them."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of doubled names
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name) if name else zipfile.ZipInfo("x"), data)
            archive.infolist()[-1].compress_type = compression
        archive.comment = comment
    return buffer.getvalue()


def central_directory(data):
    """Offsets of the directory's entries in an archive."""
    offset = struct.unpack_from("<L", data, len(data) - 6)[0]
    while data[offset : offset + 4] == b"PK\x01\x02":
        yield offset
        name, extra, comment = struct.unpack_from("<3H", data, offset + 28)
        offset += 46 + name + extra + comment


def zip_field(rng, data):
    """A number in the archive's directory, in its end, or before a member, that is another one."""
    data = bytearray(data)
    entries = list(central_directory(data))
    entry = pick(rng, entries)
    start = struct.unpack_from("<L", data, entry + 42)[0]
    other = struct.unpack_from("<L", data, pick(rng, entries) + 42)[0]
    # (offset, size): flags, method, checksum, both sizes, lengths, attributes, place of the member.
    places = [(entry + 8, 2), (entry + 10, 2), (entry + 16, 4), (entry + 20, 4), (entry + 24, 4)]
    places += [(entry + 28, 2), (entry + 30, 2), (entry + 32, 2), (entry + 38, 4), (entry + 42, 4)]
    places += [(start + 8, 2), (start + 26, 2), (start + 28, 2)]
    places += [(len(data) - 22 + at, size) for at, size in ((8, 2), (10, 2), (12, 4), (16, 4))]
    offset, size = pick(rng, places)
    old = int.from_bytes(data[offset : offset + size], "little")
    symbolic_link = 0o120777 << 16
    new = pick(rng, (*NUMBERS, old + 1, old - 1, old * 2, old ^ 1, other, start, symbolic_link))
    data[offset : offset + size] = (new % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def npz_mutant(rng, good):
    """A structured mutant of a `.npz` file."""
    with np.load(io.BytesIO(good)) as file:
        arrays = {name: file[name] for name in file.files}
    kind = rng.integers(12)
    if kind == 0:
        return zip_field(rng, good)
    if kind == 1:
        arrays = same_values(rng, arrays)
    members = {f"{name}.npy": npy(array) for name, array in arrays.items()}
    name = pick(rng, list(members))
    array = arrays[name[:-4]]
    match kind:
        case 1:
            method = pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            return zipped(members.items(), method)
        case 2:
            del members[name]
        case 3:
            members[pick(rng, ("surprise.npy", "notes.txt", "a/b.npy"))] = npy(np.ones(3, "f4"))
        case 4:
            doubled = pick(rng, (members[name], npy(np.zeros_like(array))))
            return zipped([*members.items(), (name, doubled)])
        case 5:
            data = members.pop(name)
            members[changed_name(rng, name)] = data
        case 6:
            members[name] = npy(damaged_values(rng, array))
        case 7:
            descriptor = pick(rng, DESCRIPTORS)
            members[name] = npy(array, lambda text: text.replace("<f4", descriptor))
        case 8:
            shape = pick(rng, SHAPES)
            members[name] = npy(array, lambda text: text.replace(str(array.shape), shape))
        case 9:
            cuts = sorted(rng.integers(0, 70, 2))
            junk = pick(rng, ("", "{" * 500, "\0", "'", "__import__('os')", "#", "é", ", " * 999))
            members[name] = npy(array, lambda text: text[: cuts[0]] + junk + text[cuts[1] :])
        case 10:
            data = members[name]
            members[name] = pick(rng, (data[:-1], data + b"\0", data[:9], b"", data[:6] + data[7:]))
        case 11:
            method = pick(rng, (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED))
            data = zipped(members.items(), method, comment=b"?" * int(rng.integers(3)))
            junk = rng.integers(0, 256, 40, np.uint8).tobytes()
            return pick(rng, (data, junk + data, data + junk, data + data))
    return zipped(members.items())


# ---- .safetensors --------------------------------------------------------------------------------


def safetensors_file(header, data):
    """A file of a header, a table or its text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_mutant(rng, good):
    """A structured mutant of a `.safetensors` file."""
    (length,) = struct.unpack_from("<Q", good)
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = pick(rng, names)
    entry, text = header[name], good[8 : 8 + length]
    begin, end = entry["data_offsets"]
    values = (*NUMBERS, None, -1, 1.5, 1e300, "F32", True, [], {}, [[1]], "a" * 99)
    match rng.integers(12):
        case 0:
            del header[name]
        case 1:
            header["surprise"] = pick(rng, (entry, {**entry, "data_offsets": [0, 0]}, 3, None))
        case 2:
            header[changed_name(rng, name)] = header.pop(name)
        case 3:
            kinds = ("F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "", 3, None, "f32")
            entry["dtype"] = pick(rng, kinds)
        case 4:
            shape = entry["shape"]
            changed = (shape[::-1], [*shape, 1], shape[1:], [-s for s in shape], [10**15], [0], 7)
            entry["shape"] = pick(rng, (*changed, [pick(rng, values)], pick(rng, values)))
        case 5:
            shift = int(pick(rng, (-4, 4, 1, 10**9, 2**63)))
            moved = ([begin + shift, end + shift], [begin, end + shift], [end, begin], [begin])
            entry["data_offsets"] = pick(rng, (*moved, [pick(rng, values), end]))
        case 6:
            other = header[pick(rng, names)]
            entry["data_offsets"] = other["data_offsets"]
        case 7:
            key = json.dumps(name).encode()
            double = key + b": " + json.dumps(entry).encode() + b", "
            return safetensors_file(b"{" + double + text.strip()[1:], data)
        case 8:
            entry[pick(rng, ("dtype", "shape", "data_offsets", "more"))] = pick(rng, values)
        case 9:
            values = np.frombuffer(data[begin:end], "<f4").copy()
            values[rng.integers(values.size)] = pick(rng, (np.nan, np.inf, -np.inf))
            data = data[:begin] + values.tobytes() + data[end:]
        case 10:
            data = pick(
                rng, (data[:-4], data + b"\0" * 4, data[:begin] + data[end:], b"", data * 2)
            )
        case 11:
            place = int(rng.integers(len(text)))
            wrong = struct.pack(
                "<Q", int(pick(rng, (*NUMBERS, len(text) - 1, len(text) + 1))) % 2**64
            )
            junk = (b"[" * 5000, b"\xff", b'"', b"}" * 3, b"9" * 5000, b"\\ud800", b"NaN")
            return pick(
                rng,
                (
                    wrong + text + data,
                    safetensors_file(text[:place] + pick(rng, junk) + text[place:], data),
                    safetensors_file(
                        {**header, "__metadata__": pick(rng, (3, [], {"a": {}}))}, data
                    ),
                ),
            )
    return safetensors_file(header, data)


# ---- .weights.h5 ---------------------------------------------------------------------------------


def h5_marks(data):
    """Offsets of the structures in an HDF5 file: trees, nodes, heaps, and the superblock."""
    marks = [0]
    for signature in (b"TREE", b"SNOD", b"HEAP", b"GCOL"):
        place = data.find(signature)
        while place >= 0:
            marks.append(place)
            place = data.find(signature, place + 4)
    return marks


def h5_field(rng, good):
    """A number in the structures of an HDF5 file that is another one."""
    data, marks = bytearray(good), h5_marks(good)
    size = int(pick(rng, (1, 2, 4, 8, 8)))
    offset = pick(rng, marks) + int(rng.integers(0, 160)) // size * size
    offset = min(offset, len(data) - size)
    old = int.from_bytes(data[offset : offset + size], "little")
    others = (pick(rng, marks), pick(rng, marks), len(data), len(data) - 8)
    new = int(pick(rng, (*NUMBERS, old + 1, old - 1, old * 2, old + 8, old ^ 1, *others)))
    data[offset : offset + size] = (new % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def h5_mutant(rng, good):
    """A structured mutant of a `.weights.h5` file."""
    if rng.random() < 0.4:
        return h5_field(rng, good)
    buffer, places = io.BytesIO(good), []
    with h5py.File(buffer, "r+") as file:
        file.visititems(
            lambda name, item: places.append(name) if isinstance(item, h5py.Dataset) else None
        )
        place = pick(rng, places)
        values, group = file[place][()], file[place].parent
        _change_h5(rng, file, group, place, values, places)
    return buffer.getvalue()


def _change_h5(rng, file, group, place, values, places):
    leaf, extra = place.rpartition("/")[2], pick(rng, ("99", "07", "surprise", "-1"))
    match rng.integers(16):
        case 0:
            del file[place]
        case 1:
            file.move(place, f"{group.name}/{extra}")
        case 2:
            group[extra] = pick(rng, (values, np.ones(3, "f4"), np.arange(3)))
        case 3:
            group[extra] = file[place]
        case 4:
            del group[leaf]
            group[leaf] = h5py.SoftLink(f"/{pick(rng, places)}")
        case 5:
            del group[leaf]
            group[leaf] = h5py.ExternalLink("/etc/hostname", "/a")
        case 6:
            del group[leaf]
            damaged = damaged_values(rng, values)
            # HDF5 has no arrays of UTF-32.
            group[leaf] = damaged.astype("S4") if damaged.dtype.kind == "U" else damaged
        case 7:
            del group[leaf]
            options = (
                {"chunks": True},
                {"compression": "gzip"},
                {"shuffle": True},
                {"fletcher32": True},
                {"maxshape": (None,) * values.ndim},
            )
            group.create_dataset(leaf, data=values, **pick(rng, options))
        case 8:
            del group[leaf]
            layout = h5py.VirtualLayout(values.shape, "f4")
            layout[...] = h5py.VirtualSource("/etc/hostname", "a", values.shape)
            group.create_virtual_dataset(leaf, layout)
        case 9:
            del group[leaf]
            shape = pick(rng, (values.shape, (10**12,), (2**40, 2**20)))
            chunks = pick(rng, (None, (1,) * len(shape)))
            group.create_dataset(leaf, shape, "f4", chunks=chunks, fillvalue=1.0)
        case 10:
            del group[leaf]
            size = values.nbytes
            group.create_dataset(leaf, values.shape, "f4", external=[("/etc/hostname", 0, size)])
        case 11:
            del group[leaf]
            group.create_dataset(leaf, data=values.astype(pick(rng, ("<f8", "<f8", ">f8"))))
        case 12:
            del group[leaf]
            group.create_dataset(
                leaf, data=values.astype(pick(rng, (np.float16, ml_dtypes.bfloat16)))
            )
        case 13:
            names = ("images", "head", "", "é" * 40, 3, np.arange(3), b"raw", "embedding")
            group.attrs["name"] = pick(rng, names)
        case 14:
            if "name" in group.attrs:
                del group.attrs["name"]
            group.attrs["more"] = pick(rng, ("x" * 3000, np.ones(9), "text"))
        case 15:
            other = file.create_group(
                pick(rng, ("surprise", "layers/surprise/vars")), track_order=True
            )
            other["0"] = values


# ---- .keras --------------------------------------------------------------------------------------

OBJECTS = (
    {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}},
    {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp"}},
    {"module": "os", "class_name": "system", "config": "true", "registered_name": "system"},
    {"module": "keras.utils", "class_name": "get_file", "config": {"origin": "http://127.0.0.1"}},
    {"class_name": "__tuple__", "items": [1, 2]},
)


def keras_mutant(rng, good):
    """A structured mutant of a `.keras` file."""
    kind = rng.integers(10)
    if kind == 0:
        return zip_field(rng, good)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    fields = config["config"]["config"]
    values = (*OBJECTS, *NUMBERS, None, -1, 0.5, 1e300, "", "a" * 5000, True, [], [1], [2, 3], {})
    match kind:
        case 1 | 2:
            table = pick(rng, (fields, fields, config["config"]["preprocessing"], config["config"]))
            table[pick(rng, list(table))] = pick(rng, values)
        case 3:
            table = pick(rng, (fields, config["config"], config))
            del table[pick(rng, list(table))]
        case 4:
            table = pick(rng, (fields, config["config"], config, config["config"]["preprocessing"]))
            table[pick(rng, ("more", "Lambda", "build_config", "compile_config"))] = pick(
                rng, values
            )
        case 5:
            chosen = pick(rng, OBJECTS)
            config = pick(
                rng, (chosen, {**config, **chosen}, {**config, "config": chosen}, [config])
            )
        case 6:
            members["model.weights.h5"] = h5_mutant(rng, members["model.weights.h5"])
        case 7:
            name = pick(rng, list(members))
            data = members.pop(name)
            if rng.random() < 0.7:
                members[changed_name(rng, name)] = data
        case 8:
            names = ("assets/x", "../../x", "model.weights.npz", "config.json/", "/etc/x", "x.py")
            members[pick(rng, names)] = pick(rng, (b"", b"import os", good))
            if rng.random() < 0.3:
                return zipped([*members.items(), ("config.json", members["config.json"])])
        case 9:
            method = pick(rng, (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED))
            text = members["config.json"]
            place = int(rng.integers(len(text)))
            junk = (b"", b"[" * 5000, b"\xff", b"NaN", b"1e999", b"\\ud800", b'"a": 1, "a": 2,')
            members["config.json"] = text[:place] + pick(rng, junk) + text[place:]
            return zipped(members.items(), method)
    if kind in (1, 2, 3, 4, 5):
        members["config.json"] = json.dumps(config).encode()
    return zipped(members.items())


# ---- folders: arrays and the config.json beside them --------------------------------------------

ARRAYS, CONFIG = "model.safetensors", "config.json"


def packed(files):
    """A folder's files, name -> bytes, as one."""
    return zipped(sorted(files.items()))


def unpacked(data):
    """The inverse of `packed`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def json_mutant(rng, text):
    """A `config.json` that says something else, or is none."""
    config = json.loads(text)
    parts = [config, *(part for part in config.values() if isinstance(part, dict) and part)]
    part = pick(rng, parts)
    name = pick(rng, list(part))
    old = part[name]
    values = (*NUMBERS, None, -1, 1.5, 1e300, True, False, "gelu", "", [], {}, [[1]], "a" * 9999)
    match rng.integers(6):
        case 0:
            del part[name]
        case 1 if isinstance(old, int | float):
            part[name] = pick(rng, (old + 1, old - 1, old * 2, -old, float(old), not old, str(old)))
        case 2:
            part[name] = pick(rng, list(part.values()))
        case 3:
            part[changed_name(rng, name)] = part.pop(name)
        case 4:
            place = int(rng.integers(len(text)))
            junk = (b"", b"[" * 5000, b"\xff", b"NaN", b"1e999", b"\\ud800", b'"a": 1, "a": 2,')
            return text[:place] + pick(rng, junk) + text[place:]
        case _:
            part[name] = pick(rng, values)
    return json.dumps(config).encode()


def folder_mutant(rng, good, change_arrays=safetensors_mutant, change_config=json_mutant):
    """A mutant of a `packed` folder: of its arrays or of its config.json."""
    files = unpacked(good)
    if rng.random() < 0.5:
        files[CONFIG] = change_config(rng, files[CONFIG])
    else:
        files[ARRAYS] = change_arrays(rng, files[ARRAYS])
    return packed(files)


STRUCTURED = {
    "npz": npz_mutant,
    "safetensors": safetensors_mutant,
    "keras": keras_mutant,
    "h5": h5_mutant,
    "folder": folder_mutant,
}


def mutant(seed, container, kind, index, good):
    """One mutant, the same for the same arguments.

    Args:
        seed: of the run.
        container: a key of `STRUCTURED`.
        kind: `"bytes"` or `"structured"`.
        index: of the mutant.
        good: bytes of the file that it is made from.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{container} {kind}".encode()), index])
    if container == "folder" and kind == "bytes":
        return folder_mutant(rng, good, byte_mutant, byte_mutant)
    return byte_mutant(rng, good) if kind == "bytes" else STRUCTURED[container](rng, good)
