"""Zip archives: what is in them, or one `CheckpointError` before anything is unpacked."""

import stat
import struct
import zipfile

import numpy as np
import pytest

from keras_vit.checkpoints.containers import zip_archive
from keras_vit.errors import CheckpointError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.zip"


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def contents(path):
    members, problems = zip_archive.read_directory(path)
    assert not problems
    return {member.name: zip_archive.read_member(path, member, 10**6) for member in members}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_back(path, compression):
    stored = {"a": b"x" * 5000, "b/c.npy": bytes(range(256)), "empty": b""}
    write(path, stored, compression)
    assert contents(path) == stored


def test_a_directory_of_the_large_kind_is_read(path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    write(path, {"a": b"x" * 500, "b": b"y" * 500})
    assert b"PK\x06\x07" in path.read_bytes()
    assert contents(path) == {"a": b"x" * 500, "b": b"y" * 500}


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a\\b", "a\x01b"])
def test_names_that_lead_elsewhere_are_problems(path, name):
    write(path, {"good": b"", name: b"x"})
    members, problems = zip_archive.read_directory(path)
    assert [member.name for member in members] == ["good"]
    assert "has a name that leads out of the archive" in problems[0]


def test_links_doubled_encrypted_and_foreign_members_are_problems(path):
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good", "x")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("good", "x")
        archive.writestr("other", "x", zipfile.ZIP_BZIP2)
    members, problems = zip_archive.read_directory(path)
    assert [member.name for member in members] == ["good"]
    assert len(problems) == 3
    for problem, part in zip(problems, ("is a link", "in the file twice", "other"), strict=True):
        assert part in problem
    write(path, {"secret": b"x"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert zip_archive.read_directory(path) == ([], ["array 'secret' is encrypted"])


def test_what_unpacks_to_more_than_a_model_does_is_refused(path):
    write(path, {"a": b"\0" * (zip_archive.MAX_FREE_BYTES + 1)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="times its size, as no model does"):
        zip_archive.read_directory(path)


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_short(path):
    write(path, {"a": b"\0" * 10**6}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<L", 100)
    path.write_bytes(data)
    (member,), _ = zip_archive.read_directory(path)
    assert member.size == 100
    with pytest.raises(ValueError, match="longer than it says"):
        zip_archive.read_member(path, member, 1000)


def test_members_within_each_other_are_refused(path):
    write(path, {"a": b"x" * 1000, "b": b"y" * 1000})
    data = bytearray(path.read_bytes())
    sizes = data.index(b"PK\x01\x02") + 20
    data[sizes : sizes + 8] = struct.pack("<2L", 1500, 1500)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="lies within another"):
        zip_archive.read_directory(path)


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (10, struct.pack("<H", 60_000), "60000 members"),
        (12, struct.pack("<L", 1 << 30), "a directory of 1073741824 bytes"),
        (0, b"PK\x05\x07", "does not end as zip archives do"),
        (20, b"\x01\0", "does not end as zip archives do"),
    ],
)
def test_the_end_is_looked_at_before_it_is_believed(path, offset, field, message):
    write(path, {"a": b"x"})
    data = bytearray(path.read_bytes())
    place = len(data) - 22 + offset
    data[place : place + len(field)] = field
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        zip_archive.read_directory(path)


def test_damaged_contents_are_refused(path):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        write(path, {"a": np.random.default_rng(0).bytes(1000)}, compression)
        data = bytearray(path.read_bytes())
        data[500] ^= 1
        path.write_bytes(data)
        (member,), _ = zip_archive.read_directory(path)
        with pytest.raises(ValueError, match="its checksum is wrong"):
            zip_archive.read_member(path, member, 10**4)
        with pytest.raises(ValueError, match="1000 bytes, more than 100"):
            zip_archive.read_member(path, member, 100)


def test_a_false_count_does_not_pass_the_limit(path):
    num_members = zip_archive.MAX_MEMBERS + 5
    name = b"%07d"
    local = b"PK\x03\x04" + bytes(22) + struct.pack("<2H", 7, 0)
    data = b"".join(local + name % i for i in range(num_members))
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<3H", 7, 0, 0) + bytes(8)
    directory = b"".join(entry + struct.pack("<I", i * 37) + name % i for i in range(num_members))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(directory), len(data), 0)
    path.write_bytes(data + directory + end)
    with pytest.raises(CheckpointError, match=r"directory has 10001 members where it says 3"):
        zip_archive.read_directory(path)
