"""Rules of the house that a machine can hold: who imports whom, banned calls, file sizes, names."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_vit"
MAX_LINES = 400

STANDARD = set(sys.stdlib_module_names)


def _table():
    """Folder or module -> (what of ours it may import, what of others): docs/architecture.md."""
    document = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)/?` \| .* \| (.*) \| (.*) \|$", document, re.MULTILINE)
    names = {row[0]: [{*cell.split(", ")} - {"-"} for cell in row[1:]] for row in rows}
    ground = {name for name in names if (PACKAGE / f"{name}.py").exists()}
    for ours, _ in names.values():
        if "ground" in ours:
            ours |= ground
    return names


RULES = {**_table(), "__init__": ({"everything"}, ()), "__main__": ({"cli"}, ())}
# Of the layers only positions.py computes constants with NumPy, only dynamic.py tests sizes while a
# graph of TensorFlow runs, only regularization.py asks
# TensorFlow which replica it is on, and only recompute.py tells a backend the order of its work.
# Of the models only the one that prepares pixels leaves a JAX program for that.
# Of the analysis only the gradients are a backend's own, and only the pictures need Matplotlib and
# Pillow.
EXCEPTIONS = {
    ("analysis/gradcam.py", "jax"),
    ("analysis/gradcam.py", "tensorflow"),
    ("analysis/plots.py", "PIL"),
    ("analysis/plots.py", "matplotlib"),
    ("layers/dynamic.py", "tensorflow"),
    ("layers/positions.py", "numpy"),
    ("models/pixel_model.py", "jax"),
    ("layers/recompute.py", "jax"),
    ("layers/recompute.py", "tensorflow"),
    ("layers/regularization.py", "tensorflow"),
    ("cli/streams.py", "tensorflow"),
}

BANNED_TEXTS = {
    "allow_pickle=True": "files are data; no loader runs code from them",
    "import pickle": "files are data; no loader runs code from them",
    "torch.load": "files are data; no loader runs code from them",
    "safe_mode=False": "files are data; no loader runs code from them",
    "enable_unsafe_deserialization": "files are data; no loader runs code from them",
    "except Exception: pass": "an error that is swallowed is a wrong result later",
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Dotted names of all that a module imports, at its top and inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path):
    relative = path.relative_to(PACKAGE)
    folder = relative.parts[0].removesuffix(".py")
    ours, others = RULES[folder]
    for name in imports(path):
        top, *rest = name.split(".")
        if top in STANDARD or (str(relative), top) in EXCEPTIONS or name == "absl.logging":
            continue
        if top == "keras_vit":
            used = rest[0] if rest else "__init__"
            allowed = (
                "everything" in ours or used in (folder, *ours) or name == "keras_vit.__version__"
            )
            hint = f"{folder} may import {sorted(ours)} of ours; move code or pass a value in"
            assert allowed, f"{relative} imports {name}; {hint}"
        else:
            assert top in others, f"{relative} imports {name}; {folder} may import {others}"


@pytest.mark.parametrize("text", BANNED_TEXTS)
def test_banned_calls_are_nowhere(text):
    found = [str(p.relative_to(PACKAGE)) for p in modules() if text in p.read_text()]
    assert not found, f"{text!r} in {found}: {BANNED_TEXTS[text]}"


def test_files_fit_in_a_head():
    long = {p.name: n for p in modules() if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines: {long}; split by what the parts are about"


def test_no_module_is_a_drawer():
    drawers = {"utils.py", "helpers.py", "common.py"}
    assert not [p for p in modules() if p.name in drawers]


def test_every_public_name_is_there_and_documented():
    import keras_vit

    for name in keras_vit.__all__:
        public = getattr(keras_vit, name)
        assert name == "__version__" or public.__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        keras_vit.nothing  # noqa: B018


def test_importing_the_package_leaves_the_heavy_ones_alone():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_vit; "
        "print(' '.join(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert set(output.split()) <= {"keras_vit"} | STANDARD


def test_importing_beside_the_foreign_distribution_says_what_to_uninstall(tmp_path):
    for name, record in (("keras_vit-0.0.1", "keras_vit/__init__.py,,"), ("other-1", "other.py,,")):
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.split('-')[0]}\nVersion: 1\n"
        )
        (tmp_path / f"{name}.dist-info" / "RECORD").write_text(record + "\n")
    done = subprocess.run(
        [sys.executable, "-c", "import keras_vit"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGE.parent}"},
    )
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert "pip uninstall keras-vit" in done.stderr
