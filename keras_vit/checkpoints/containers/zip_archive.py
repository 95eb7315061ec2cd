"""Zip archives, whose directory is not believed: what `.npz` and `.keras` files are."""

import contextlib
import dataclasses
import os
import stat
import struct
import zipfile
import zlib

from keras_vit.checkpoints.containers.arrays import aligned_bytes
from keras_vit.errors import CheckpointError
from keras_vit.files import open_regular

# Several times what a training state of the largest model needs.
MAX_MEMBERS = 10_000
MAX_DIRECTORY_BYTES = 8 << 20
# Trained weights hardly shrink: what unpacks to more than this, and to more than so many times the
# file's size, is no model.
MAX_FREE_BYTES = 64 << 20
MAX_RATIO = 20
CHUNK_BYTES = 1 << 20

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4s16x")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s22x2H")
_ENTRY = struct.Struct("<4s24x3H12x")


@dataclasses.dataclass(frozen=True)
class Member:
    """A member that has not been read: sizes and checksum as the directory says, and its place."""

    name: str
    start: int
    stored_size: int
    size: int
    checksum: int
    is_deflated: bool


def read_directory(path):
    """The members of a zip archive, without reading their data.

    Args:
        path: a file that can be read.

    Returns:
        (list of `Member` in the archive's order, list of what is wrong with others: links, names
        that lead elsewhere or are there twice, encryption, other compression).

    Raises:
        CheckpointError: if the archive is damaged, its members lie within each other, or they
            unpack to more than a model does.
    """
    try:
        with open_regular(path) as file:
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
            problems, found, names = [], [], set()
            for member in members:
                try:
                    found.append(_member(file, member, names))
                except ValueError as error:
                    problems.append(f"array {member.filename.removesuffix('.npy')!r} {error}")
            file_size = file.seek(0, os.SEEK_END)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(path, f"the zip archive is damaged or cut off: {error}") from error
    except (zipfile.BadZipFile, struct.error, EOFError) as error:
        raise CheckpointError(path, f"the zip archive is damaged or cut off: {error}") from error
    misplaced = _space_problems(found, file_size)
    if misplaced:
        raise CheckpointError(path, misplaced)
    return found, problems


def _check_end(file):
    """Looks at the record at the end before anything is read on its word."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END.size - _END64_LOCATOR.size - _END64.size, 0))
    tail = file.read()
    if len(tail) < _END.size:
        raise ValueError("it is shorter than an empty archive")
    signature, *_, count, length, _, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("it does not end as zip archives do")
    # Archives of more than 4 GiB have a second record before it.
    if tail[-_END.size - _END64_LOCATOR.size :].startswith(b"PK\x06\x07"):
        signature, *_, count, length, _ = _END64.unpack(tail[: _END64.size])
        if signature != b"PK\x06\x06":
            raise ValueError("its directory is not where it says")
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise ValueError(f"it has {count} members and a directory of {length} bytes")
    # The count is only what the archive says; Python makes an object of each entry that is there.
    file.seek(max(size - len(tail) + _start_of_end(tail) - length, 0))
    found = _count_entries(file.read(length))
    if found != count:
        raise ValueError(f"its directory has {found} members where it says {count}")


def _start_of_end(tail):
    """Where in the last bytes of an archive the directory has ended."""
    is_large = tail[-_END.size - _END64_LOCATOR.size :].startswith(b"PK\x06\x07")
    return 0 if is_large else len(tail) - _END.size


def _count_entries(directory):
    """How many entries a directory has, at most one more than `MAX_MEMBERS`."""
    count, position = 0, 0
    while position + _ENTRY.size <= len(directory) and count <= MAX_MEMBERS:
        signature, *lengths = _ENTRY.unpack_from(directory, position)
        if signature != b"PK\x01\x02":
            break
        count, position = count + 1, position + _ENTRY.size + sum(lengths)
    return count


def _member(file, member, names):
    """The `Member` of a directory entry; ValueError says what is wrong with it."""
    name, mode = member.filename, member.external_attr >> 16
    if name != member.orig_filename or name.startswith("/") or "\\" in name:
        raise ValueError("has a name that leads out of the archive")
    if ".." in name.split("/") or any(ord(letter) < 32 for letter in name):
        raise ValueError("has a name that leads out of the archive")
    if name in names:
        raise ValueError("is in the file twice")
    names.add(name)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise ValueError("is a link or folder and no file")
    if member.flag_bits & 0x1:
        raise ValueError("is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("uses a compression other than deflate")
    is_deflated = member.compress_type == zipfile.ZIP_DEFLATED
    if not is_deflated and member.compress_size != member.file_size:
        raise ValueError("is damaged: it is not compressed but has two sizes")
    file.seek(member.header_offset)
    local = file.read(_LOCAL.size)
    signature, name_length, extra_length = _LOCAL.unpack(local.ljust(_LOCAL.size, b"\0"))
    stored_name = file.read(name_length)
    if signature != b"PK\x03\x04" or stored_name.decode("utf-8", "replace") != name:
        raise ValueError("is damaged: it does not start where the archive says")
    start = member.header_offset + _LOCAL.size + name_length + extra_length
    return Member(name, start, member.compress_size, member.file_size, member.CRC, is_deflated)


def _space_problems(members, file_size):
    total, position = sum(member.size for member in members), 0
    if total > MAX_FREE_BYTES and total > MAX_RATIO * file_size:
        return [f"unpacks to {total} bytes, {total // file_size} times its size, as no model does"]
    problems = []
    for member in sorted(members, key=lambda member: member.start):
        if member.start < position or member.start + member.stored_size > file_size:
            problems.append(f"array {member.name!r} lies within another or beyond the end")
        position = member.start + member.stored_size
    return problems


def start_of(file, member, count):
    """The first bytes of a member's contents, as many as there are, without a test.

    Args:
        file: the archive, open for reading bytes.
        member: `Member`.
        count: how many.
    """
    raw = bytearray(min(count, member.size))
    contents, done = _contents(file, member), 0
    while done < len(raw):
        got = contents.readinto(memoryview(raw)[done:])
        if not got:
            break
        done += got
    return bytes(raw[:done])


@contextlib.contextmanager
def opened(path, member):
    """A function that fills arrays of bytes with a member's contents, one after the other.

    The checksum is tested, and that nothing is left over, when the context ends.

    Raises:
        ValueError: if the data is damaged, shorter or longer than the directory says.
    """
    with open_regular(path, buffering=0) as file:
        contents, checksum = _contents(file, member), 0

        def fill(raw):
            nonlocal checksum
            view, done = memoryview(raw), 0
            while done < len(view):
                count = contents.readinto(view[done : done + CHUNK_BYTES])
                if not count:
                    raise ValueError("is cut off")
                checksum = zlib.crc32(view[done : done + count], checksum)
                done += count

        yield fill
        if contents.readinto(memoryview(bytearray(1))):
            raise ValueError("is damaged: it is longer than it says")
        if checksum != member.checksum:
            raise ValueError("is damaged: its checksum is wrong")


def _contents(file, member):
    file.seek(member.start)
    return _Deflated(file, member) if member.is_deflated else _Stored(file, member)


class _Stored:
    """Reads no further than the member reaches."""

    def __init__(self, file, member):
        self.file, self.left = file, member.stored_size

    def readinto(self, view):
        """Fills what it can; 0 at the end."""
        count = self.file.readinto(view[: self.left])
        self.left -= count
        return count


class _Deflated:
    """Inflates no more at a time than there is room for."""

    def __init__(self, file, member):
        self.file, self.left = file, member.stored_size
        self.inflater, self.pending = zlib.decompressobj(-zlib.MAX_WBITS), b""

    def readinto(self, view):
        """Fills what it can; 0 at the end."""
        while not self.inflater.eof:
            if not self.pending:
                self.pending = self.file.read(min(self.left, CHUNK_BYTES // 4))
                self.left -= len(self.pending)
                if not self.pending:
                    raise ValueError("is cut off")
            chunk = self.inflater.decompress(self.pending, len(view))
            self.pending = self.inflater.unconsumed_tail
            if chunk:
                view[: len(chunk)] = chunk
                return len(chunk)
        return 0


def read_member(path, member, max_bytes):
    """A small member's contents.

    Raises:
        ValueError: if it is larger than `max_bytes`, or damaged.
    """
    if member.size > max_bytes:
        raise ValueError(f"has {member.size} bytes, more than {max_bytes}")
    raw = aligned_bytes(member.size)
    with opened(path, member) as fill:
        fill(raw)
    return raw.tobytes()
