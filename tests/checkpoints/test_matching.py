"""The engine on a table of three rows."""

import dataclasses

import numpy as np
import pytest

from keras_vit.checkpoints.format import Architecture, Format, Row, Signature, entries
from keras_vit.checkpoints.matching import FileView, arrays_for_file, match_file
from keras_vit.errors import CheckpointError

ROWS = (
    Row("block", "block_{i}/query_kernel", "blocks.{i}.{q}.weight", "D k d", "k*d D"),
    Row("block", "block_{i}/gamma", "blocks.{i}.norm", "D", "{ones} D"),
    Row("head", "head/kernel", "head", "D Y", "1 1 D Y"),
)


def architecture(view):
    depth = len(view.indices("blocks.{}."))
    width = view.vote(*((f"blocks.{i}.norm", -1) for i in range(depth)))
    return Architecture("toy", {"depth": depth, "D": width}) if width else "no norm"


def scopes(arch):
    symbols = {"D": arch.fields["D"], "k": 2, "d": 3, "Y": 4}
    return {"block": [{**symbols, "i": i} for i in range(arch.fields["depth"])], "head": [symbols]}


TOY = Format(
    name="toy",
    families=("toy",),
    signatures=(Signature(("head",)),),
    prefixes=("", "params/"),
    layouts={"new": {"q": "query", "ones": ""}, "old": {"q": "q", "ones": "1 1"}},
    rows=ROWS,
    dropped=(r"opt/",),
    architecture=architecture,
    scopes=scopes,
    unsupported=lambda arch: [],
)


def shapes(layout="new", prefix="", depth=2):
    arch = Architecture("toy", {"depth": depth, "D": 6})
    return {prefix + e.theirs: e.file_shape for e in entries(TOY, arch, layout)}


def test_entries_fill_rows_for_every_set_of_symbols():
    assert shapes() == {
        "blocks.0.query.weight": (6, 6),
        "blocks.1.query.weight": (6, 6),
        "blocks.0.norm": (6,),
        "blocks.1.norm": (6,),
        "head": (1, 1, 6, 4),
    }


def test_arrays_are_turned_to_the_files_axes_and_back():
    entry = entries(TOY, Architecture("toy", {"depth": 1, "D": 5}), "new")[0]
    ours = np.arange(30.0).reshape(5, 2, 3)
    theirs = np.empty(entry.file_shape)
    entry.to_file(ours, theirs)
    np.testing.assert_array_equal(theirs, ours.reshape(5, 6).T)
    np.testing.assert_array_equal(entry.from_file(theirs), ours)


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("prefix", ["", "params/"])
def test_a_file_is_matched_in_any_layout_and_under_any_prefix(layout, prefix):
    match = match_file("f", TOY, {**shapes(layout, prefix), "opt/x": (3,)})
    assert (match.layout, match.prefix) == (layout, prefix)
    assert match.architecture.fields == {"depth": 2, "D": 6}


def test_all_differences_are_listed_together():
    found = shapes()
    del found["blocks.1.norm"]
    found |= {"extra": (1,), "blocks.0.query.weight": (6, 7)}
    with pytest.raises(CheckpointError) as caught:
        match_file("f", TOY, found)
    assert caught.value.problems == [
        "- blocks.1.norm (6,) is missing",
        "+ extra (1,) is not known",
        "blocks.0.query.weight has the shape (6, 7), expected (6, 6)",
    ]


def test_a_file_without_the_mark_of_the_format_is_refused():
    with pytest.raises(CheckpointError, match="has 'head' at one place, this one has it under no"):
        match_file("f", TOY, {"tail": (1,)})


def test_arrays_for_a_file_need_a_row_for_each_variable():
    arch = Architecture("toy", {"depth": 1, "D": 6})
    ours = {e.ours: np.ones(e.shape) for e in entries(TOY, arch)}
    written = arrays_for_file("f", TOY, arch, dict(ours), layout="old")
    assert {key: a.shape for key, a in written.items()} == shapes("old", depth=1)
    with pytest.raises(CheckpointError) as caught:
        arrays_for_file("f", TOY, arch, {**ours, "more": np.ones(1)})
    assert caught.value.problems == ["+ more has no place in the file"]
    with pytest.raises(CheckpointError, match="toy cannot hold a model of the family 'other'"):
        arrays_for_file("f", TOY, Architecture("other", {}), ours)


def test_a_vote_takes_the_most_frequent_size_and_ignores_what_is_absent():
    view = FileView({"a": (3,), "b": (2, 4), "c": (5, 4), "d": ()}, "", {})
    assert view.vote(("a", 0), ("b", 1), ("c", 1), ("d", 0), ("e", 0)) == 4
    assert view.vote(("e", 0)) is None


def test_parts_of_one_array_are_told_apart_and_put_together():
    rows = tuple(
        Row("block", f"block_{{i}}/{name}", "qkv", "D k d", f"i@L {part}@2*k*d D")
        for part, name in enumerate(("query", "key"))
    )
    stacked = dataclasses.replace(
        TOY,
        rows=rows,
        scopes=lambda arch: {"block": [{"D": 5, "k": 2, "d": 3, "L": 4, "i": i} for i in range(4)]},
    )
    arch = Architecture("toy", {})
    rng = np.random.default_rng(0)
    ours = {e.ours: rng.normal(size=(5, 2, 3)).astype("f4") for e in entries(stacked, arch)}
    (theirs,) = arrays_for_file("f", stacked, arch, dict(ours)).values()
    assert theirs.shape == (4, 12, 5)
    np.testing.assert_array_equal(theirs[3, 6:], ours["block_3/key"].reshape(5, 6).T)
    for entry in entries(stacked, arch):
        np.testing.assert_array_equal(entry.from_file(theirs), ours[entry.ours])


def test_other_spellings_of_keys_are_read_unless_two_fall_together():
    loose = dataclasses.replace(TOY, respelled=((r"norm_\d+$", "norm"),))
    found = {key.replace("1.norm", "1.norm_7"): shape for key, shape in shapes().items()}
    match = match_file("f", loose, found)
    read = match.arrays({"block_1/gamma"}, lambda keys: {key: np.ones(6) for key in keys})
    assert list(read) == ["block_1/gamma"]
    with pytest.raises(CheckpointError, match="1.norm_7 is the same array as blocks.1.norm"):
        match_file("f", loose, {**shapes(), "blocks.1.norm_7": (6,)})
