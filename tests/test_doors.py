"""Untrusted input comes in by doors: what reads files and numbers around them is found here.

Files, text and numbers from outside go through `keras_vit.files`, `keras_vit.untrusted` and
`containers.safetensors.parse_json`; a bare call in the folders below is an error, or a row of
`ALLOWED` with its reason.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_vit"
# Folders that read what others wrote.
GUARDED = ("checkpoints", "inference", "zoo")

# What is called -> what to call instead.
DOORS = {
    "open": "keras_vit.files.open_regular, or replacing to write",
    "read_text": "keras_vit.files.read_regular",
    "read_bytes": "keras_vit.files.read_regular",
    "write_text": "keras_vit.files.write_whole",
    "write_bytes": "keras_vit.files.write_whole",
    "int": "keras_vit.untrusted.parse_int or check_number",
    "float": "keras_vit.untrusted.parse_float or check_number",
    "loads": "containers.safetensors.parse_json",
    "urlsplit": "download.urls.parse",
    "urlparse": "download.urls.parse",
    "get_close_matches": "keras_vit.names.close_names",
}

# (module, function, call) -> why it is none of the input from outside, or is bounded there.
ALLOWED = {
    (
        "checkpoints/catalog/augreg.py",
        "augreg_index",
        "open",
    ): "a file of the cache",
    ("checkpoints/catalog/augreg.py", "_integer", "float"): "a cell of the verified index",
    ("checkpoints/catalog/augreg.py", "_integer", "int"): "a cell of the verified index",
    ("checkpoints/catalog/augreg.py", "resolve", "int"): "digits by a pattern",
    ("checkpoints/catalog/lookup.py", "_natural", "int"): "names of our table",
    ("checkpoints/download/headers.py", "retry_after", "float"): "parsed by parse_int",
    ("checkpoints/format.py", "_number", "int"): "a symbol of our tables",
    ("checkpoints/download/contents.py", "_is_no_json", "loads"): "bounded; looked at only",
    ("checkpoints/download/fetch.py", "_facts", "loads"): "bounded; written by us",
    ("checkpoints/download/urls.py", "parse", "urlsplit"): "the door itself",
    ("checkpoints/containers/safetensors.py", "parse_json", "loads"): "the door itself",
    ("checkpoints/formats/timm_arguments.py", "named_models", "loads"): "our own file",
    ("checkpoints/formats/timm_arguments.py", "named_models", "read_text"): "our own file",
    ("checkpoints/catalog/published.py", "_table", "loads"): "our own file",
    ("checkpoints/catalog/published.py", "_table", "read_text"): "our own file",
    ("checkpoints/matching.py", "indices", "int"): "at most nine digits by its pattern",
    ("inference/masks.py", "saved_segmentation", "loads"): "bounded, and its fields are checked",
    ("inference/masks.py", "_write_masks", "float"): "a number of ours",
    ("inference/masks.py", "_read_done", "loads"): "bounded; written by us, else it is left out",
    ("inference/output_folder.py", "_read", "loads"): "bounded; compared with what must be there",
    ("inference/predict.py", "_read_description", "loads"): "bounded, and its fields are checked",
    ("inference/predict.py", "__init__", "int"): "a model's shape",
    ("inference/answers.py", "said", "int"): "an index of ours",
    ("inference/answers.py", "said", "float"): "a number of ours",
}


def _is_text_like(call):
    """Whether `int` or `float` gets something that may be text: no sum, product or constant."""
    return not call.args or not isinstance(call.args[0], ast.BinOp | ast.Constant | ast.Compare)


def calls(path):
    """(function, call) for each call of a name in `DOORS`."""

    def walk(node, function):
        for child in ast.iter_child_nodes(node):
            inner = function
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = child.name
            if isinstance(child, ast.Call):
                name = getattr(child.func, "id", None) or getattr(child.func, "attr", None)
                is_method = isinstance(child.func, ast.Attribute)
                is_number = name in ("int", "float")
                is_other = is_method and (is_number or name == "open")
                if name in DOORS and not is_other and (not is_number or _is_text_like(child)):
                    yield inner, name
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text()), "")


def found():
    for folder in GUARDED:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            for function, name in calls(path):
                yield path.relative_to(PACKAGE).as_posix(), function, name


def test_what_comes_from_outside_comes_through_a_door():
    around = [f for f in found() if f not in ALLOWED and "formats/" not in f[0]]
    lines = [f"{m}, {f}: {name}() -> {DOORS[name]}" for m, f, name in around]
    assert not lines, "\n".join(["use the door, or say in ALLOWED why not:", *lines])


def test_formats_read_no_files_and_no_text_as_numbers():
    """Tables of keys: numbers come to them parsed, and are held against ranges in `zoo`."""
    around = [f for f in found() if "formats/" in f[0] and f[2] not in ("int", "float")]
    around = [f for f in around if f not in ALLOWED]
    assert not around


def test_no_exception_is_left_over():
    assert not set(ALLOWED) - set(found())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(x):\n    open(x)", [("f", "open")]),
        ("int(text)", [("", "int")]),
        ("int(2 * x)", []),
        ("zip_archive.open(x)", []),
        ("json.loads(x)", [("", "loads")]),
        ("path.read_text()", [("", "read_text")]),
    ],
)
def test_the_rule_sees_what_it_should(tmp_path, code, expected):
    (tmp_path / "x.py").write_text(code)
    assert list(calls(tmp_path / "x.py")) == expected
