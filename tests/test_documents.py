"""README and docs: every Python block runs, links lead somewhere, commands and flags exist.

Blocks run on small stand-ins: names of the catalogue and files that are not there are a tiny model,
data sets are a folder of 40 pictures, recipes take two steps.  A block that cannot run follows
`<!-- not run: REASON -->`.
"""

import csv
import dataclasses
import importlib
import pathlib
import re
import shlex

import keras
import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit.checkpoints.catalog import augreg, lookup
from keras_vit.checkpoints.catalog import resolve as checkpoint_names
from keras_vit.checkpoints.download import class_names
from keras_vit.cli import flags, main
from keras_vit.training import run

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKDOWN = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
SHELLS = ("", "bash", "console", "sh")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, *languages):
    """Yields (number of the first line, code, why it is not run) of the blocks of a page."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if found["language"] in languages:
            line = text.count("\n", 0, found.start("code")) + 1
            yield line, found["code"], found["reason"]


# ---- Python ----------------------------------------------------------------------------------


def tiny_model(num_classes=1000):
    return keras_vit.create_model(
        "ViT-Ti/16", hidden_size=16, mlp_dim=32, num_heads=2, depth=2, num_classes=num_classes
    )


def save_pictures(folder):
    """Two classes of 12, 4 and 4 pictures in the splits train, validation and test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.jpg")


def save_lists(folder):
    """Lists with several labels and with a value over some of these pictures."""
    labels, values = ["path,labels,split"], ["path,value,split"]
    for split in ("train", "validation", "test"):
        for index in range(4):
            labels.append(
                f"photos/{split}/cat/{index}.jpg,cat|{'in' if index % 2 else 'out'},{split}"
            )
            values.append(f"photos/{split}/dog/{index}.jpg,{10 + index},{split}")
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "ages.csv").write_text("\n".join(values))


def save_augreg_index(path):
    fields = dict.fromkeys(augreg._COLUMNS, "")
    fields |= {"name": "R26+S/32", "ds": "i21k", "epochs": 300, "lr": 0.001, "aug": "none"}
    fields |= {"wd": 0.1, "do": 0.0, "sd": 0.0, "final_val": 0.4, "adapt_lr": 0.03}
    fields["filename"] = "R26_S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fields)
        table.writeheader()
        for dataset, pixels in (("imagenet2012", 384), ("cifar100", 224)):
            tuning = {"adapt_ds": dataset, "adapt_resolution": pixels, "adapt_final_test": 0.8}
            ending = f"--{dataset}-steps_20k-lr_0.03-res_{pixels}"
            names = {"adapt_steps": 20_000, "adapt_filename": fields["filename"] + ending}
            table.writerow({**fields, **tuning, **names})
    return path


@pytest.fixture
def small_world(monkeypatch, tmp_path, digits_dir):
    """A folder in which names, data sets and recipes of the documents are small and local."""
    from keras_vit.data.catalog import resolve as data_names

    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "photos")
    save_lists(tmp_path)
    Image.new("RGB", (40, 32), "red").save("photo.jpg")

    locate, resolve_tfds = checkpoint_names.locate, data_names._resolve_tfds
    get_recipe, fit = run.get_recipe, keras.Model.fit

    def locate_here(source, sha256=None):
        is_here = pathlib.Path(source).exists()
        return locate(source, sha256) if is_here else (tmp_path / "stand_in.npz", None)

    def resolve_here(name, data_dir, download):
        if name.startswith("digits"):
            return resolve_tfds(name, digits_dir, download)
        return data_names.resolve(tmp_path / "photos")

    def shortened(recipe, **overrides):
        small = {"steps": 2, "epochs": None, "warmup_steps": 1, "report_steps": 1, "batch_size": 4}
        return dataclasses.replace(get_recipe(recipe, **overrides), **small)

    def fit_briefly(self, *data, steps_per_epoch=None, epochs=1, initial_epoch=0, **options):
        steps = steps_per_epoch and min(steps_per_epoch, 2)
        epochs = min(epochs, initial_epoch + 2)
        options |= {"steps_per_epoch": steps, "epochs": epochs, "initial_epoch": initial_epoch}
        return fit(self, *data, **options)

    def fetch_names(url, cache_dir=None):
        path = tmp_path / "names.txt"
        path.write_text("".join(f"name {index}\n" for index in range(1000)))
        return path

    index = save_augreg_index(tmp_path / "index.csv")
    monkeypatch.setattr(checkpoint_names, "locate", locate_here)
    monkeypatch.setattr(data_names, "_resolve_tfds", resolve_here)
    monkeypatch.setattr(run, "get_recipe", shortened)
    monkeypatch.setattr(keras.Model, "fit", fit_briefly)
    monkeypatch.setattr(class_names, "fetch", fetch_names)
    monkeypatch.setattr(augreg.fetch, "fetch", lambda url: index)
    return tmp_path


def stand_ins(page):
    """What the blocks of a page take as given."""
    import tensorflow as tf

    from keras_vit.data import pipeline

    images = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), np.uint8)
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(8) % 2))
    if page == "README.md":
        return {"train_dataset": data, "validation_dataset": data.take(4)}
    if page == "docs/analysis.md":
        return {"images": images / np.float32(127.5) - 1, "pixels": images}
    if page == "docs/evaluation.md":
        return {"model": tiny_model()}
    info = pipeline.resolve("photos")
    given = {"info": info, "model": tiny_model(num_classes=2), "keras_vit": keras_vit}
    given["batches"] = pipeline.training_dataset(
        info, "train", given["model"].preprocessing, batch_size=4, seed=0
    )
    return given


def pages_that_run():
    """The pages with blocks that are run; those whose blocks train or export are slow."""
    names = ("analysis", "checkpoints", "data", "datasets", "fashion_mnist_vit_mini_4")
    quick = {f"docs/{name}.md" for name in names}
    for page in PAGES:
        if any(reason is None for _, _, reason in blocks(page, "python")):
            marks = () if name_of(page) in quick else pytest.mark.slow
            yield pytest.param(page, marks=marks, id=name_of(page))


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("page", pages_that_run())
def test_the_python_blocks_of_a_page_run(page, small_world):
    keras_vit.save_pretrained(tiny_model(), small_world / "stand_in.npz")
    namespace = stand_ins(name_of(page))
    for line, code, reason in blocks(page, "python"):
        if reason is None:
            # Errors name the page and its line.
            exec(compile("\n" * (line - 1) + code, name_of(page), "exec"), namespace)


def test_few_python_blocks_are_not_run():
    left_out = {
        (name_of(page), reason) for page in PAGES for _, _, reason in blocks(page, "python")
    }
    known = {None, "needs another library", "needs several processes or a TPU"}
    assert {reason for _, reason in left_out} <= known
    names = ("coming_from", "fine_tuning", "serving", "tasks", "tpu")
    pages = {f"docs/{name}.md" for name in names}
    assert {page for page, reason in left_out if reason} == pages


# ---- commands --------------------------------------------------------------------------------


def commands():
    """Yields (page, arguments after `keras-vit`) of each command line in the documents."""
    for page in PAGES:
        for _, code, _ in blocks(page, *SHELLS):
            for line in code.replace("\\\n", " ").splitlines():
                if "keras-vit " not in line or "keras-vit: " in line:
                    continue
                tokens = shlex.split(line, comments=True)
                tokens = tokens[tokens.index("keras-vit") + 1 :]
                end = next((i for i, t in enumerate(tokens) if t in ("|", ">", "&&")), None)
                yield name_of(page), tokens[:end]


@pytest.mark.parametrize(("page", "arguments"), commands(), ids=lambda value: str(value)[:60])
def test_commands_of_the_documents_exist_with_their_flags(page, arguments):
    name, *arguments = arguments
    flag_values = flags.make_flag_values(importlib.import_module(main.COMMANDS[name]))
    if any("..." in argument or argument.endswith("=NAME") for argument in arguments):
        for argument in arguments:
            if argument.startswith("--"):
                assert argument[2:].partition("=")[0] in flag_values
    else:
        flags.parse(flag_values, arguments, name)


def test_the_page_of_the_command_has_every_subcommand():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    assert set(main.COMMANDS) <= set(rows)


def test_programs_of_the_documents_exist():
    programs = {
        program
        for page in PAGES
        for program in re.findall(
            r"(?<![\w/])(?:tools|examples)/[\w.]+\.(?:py|sh)", page.read_text()
        )
    }
    assert programs
    assert [program for program in sorted(programs) if not (ROOT / program).is_file()] == []


# ---- links -----------------------------------------------------------------------------------


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text())
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_local_links_lead_to_files_and_headings(page):
    for link in LINK.finditer(BLOCK.sub("", page.read_text())):
        if "://" in link["path"]:
            continue
        target = page.parent / link["path"] if link["path"] else page
        assert target.exists(), f"{name_of(page)}: {link['path']}"
        if link["anchor"]:
            # The second heading of a name has -1 behind it.
            anchor = re.sub(r"-\d$", "", link["anchor"])
            assert anchor in set(anchors(target)), f"{name_of(page)}: {link[0]}"


def test_every_page_can_be_reached_from_the_readme():
    linked = {link["path"] for link in LINK.finditer(PAGES[0].read_text())}
    assert {name_of(page) for page in PAGES[1:]} <= linked


def test_the_card_of_the_model_in_the_package_says_what_the_catalogue_says():
    text = (ROOT / "docs/fashion_mnist_vit_mini_4.md").read_text()
    row = lookup.get_checkpoint("fashion_mnist/ViT-mini_4")
    assert f"{row.num_bytes:,} bytes" in text
    assert row.sha256 in text
    assert f"| 10,000 test images | {row.accuracy / 100:.4f} |" in text
    assert f"{keras_vit.from_pretrained(row.name).count_params():,} parameters" in text


def test_the_readme_is_short_and_has_a_picture():
    text = PAGES[0].read_text()
    assert len(text.splitlines()) < 150
    assert "](docs/images/" in text
