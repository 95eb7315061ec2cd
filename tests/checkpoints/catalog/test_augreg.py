import csv

import pytest

from keras_vit.checkpoints.catalog import augreg

_STEM = "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"

# The order of the official file.
_HEADER_LINE = (
    "name,ds,epochs,lr,aug,wd,do,sd,best_val,final_val,final_test,adapt_ds,adapt_lr,adapt_steps,"
    "adapt_resolution,adapt_final_val,adapt_final_test,params,infer_samples_per_sec,filename,"
    "adapt_filename"
)
_HEADER = _HEADER_LINE.split(",")


def _line(name, ds, final_val, filename, adapt_ds="imagenet2012", **changes):
    line = dict(
        zip(
            _HEADER,
            f"{name},{ds},300,0.001,none,0.1,0.0,0.0,0.5,{final_val},,{adapt_ds},0.03,20000,384,"
            f"0.8,0.81,22050664,300.5,{filename},{filename}--{adapt_ds}".split(","),
            strict=True,
        )
    )
    return line | changes


def _write(path, lines, header=_HEADER):
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(header)
        writer.writerows([line[column] for column in header] for line in lines)
    return path


@pytest.fixture
def index(tmp_path):
    lines = [
        _line("S/16", "i21k", 0.41, "S_16-i21k-a"),
        _line("S/16", "i21k", 0.41, "S_16-i21k-a", adapt_ds="cifar100"),
        _line("S/16", "i21k", 0.47, "S_16-i21k-b"),
        _line("S/16", "i1k", 0.79, "S_16-i1k-c"),
        _line("S/16", "i21k_30", 0.60, "S_16-i21k-d", epochs="30"),
        _line("S/16", "i21k", "", "S_16-i21k-e"),
        _line("R26+S/32", "i21k", 0.44, "R26_S_32-i21k-f"),
    ]
    return augreg.augreg_index(_write(tmp_path / "index.csv", lines))


def test_parse_stem_upstream_reads_every_part():
    parts = augreg.parse_stem(_STEM)
    assert parts == augreg.AugRegName(
        name="B_16", ds="i21k", epochs=300, lr=0.001, aug="medium1", wd=0.1, do=0.0, sd=0.0
    )
    assert augreg.ARCHITECTURES[parts.name] == "ViT-B/16"


@pytest.mark.parametrize(("written", "true"), [("0k", 500), ("2k", 2_500), ("20k", 20_000)])
def test_parse_stem_finetuned_gives_the_true_steps(written, true):
    parts = augreg.parse_stem(f"{_STEM}--kitti-steps_{written}-lr_0.003-res_224")
    assert (parts.adapt_ds, parts.adapt_steps) == ("kitti", true)
    assert (parts.adapt_lr, parts.adapt_resolution) == (0.003, 224)


@pytest.mark.parametrize(
    ("stem", "match"),
    [
        (_STEM.replace("B_16", "B_17"), "`name` must be one of .*found 'B_17'"),
        (_STEM.replace("i21k", "i22k"), "`ds` must be one of i1k, i21k, found 'i22k'"),
        (_STEM.replace("300ep", "90ep"), "`epochs`"),
        (_STEM.replace("i21k-300ep", "i1k-30ep"), "`epochs` of i1k is always 300ep"),
        (_STEM.replace("lr_0.001", "lr_0.01"), "`lr`"),
        (_STEM.replace("wd_0.1", "wd_0.2"), "`wd`"),
        (_STEM.replace("do_0.0", "do_0.5"), "`do`"),
        (_STEM + ".npz", "`sd` must be .*found 'sd_0.0.npz'"),
        (_STEM.replace("-wd_0.1", ""), "expected 8 parts .*found 7"),
        (_STEM + "--imagenet-steps_20k-lr_0.01-res_384", "`adapt_ds`"),
        (_STEM + "--kitti-steps_5k-lr_0.01-res_384", "`adapt_steps`"),
        (_STEM + "--kitti-steps_2k-lr_1e3-res_384", "`adapt_lr` must be like lr_0.03"),
        (_STEM + "--kitti-steps_2k-lr_0.01-res_512", "`adapt_resolution`"),
        (_STEM + "--", "expected 4 parts"),
    ],
)
def test_parse_stem_ill_formed_says_which_part(stem, match):
    with pytest.raises(ValueError, match=match):
        augreg.parse_stem(stem)


def test_augreg_index_reads_typed_rows(index):
    assert len(index) == 7
    row = index[0]
    assert (row.name, row.epochs, row.wd, row.adapt_steps) == ("S/16", 300, 0.1, 20_000)
    assert type(row.params) is int
    assert row.infer_samples_per_sec == 300.5
    assert row.final_test is None
    assert index[5].final_val is None
    assert index.columns == tuple(_HEADER)
    with pytest.raises(AttributeError):
        row.name = "B/16"


def test_augreg_index_filter_selects_by_value_and_by_several(index):
    assert [row.filename for row in index.filter(ds="i1k")] == ["S_16-i1k-c"]
    assert len(index.filter(ds=("i1k", "i21k_30"), name="S/16")) == 2
    assert len(index.filter(epochs=300).filter(adapt_ds="cifar100")) == 1
    assert len(index.filter(final_val=None)) == 1
    assert len(index.filter(name="L/16")) == 0


def test_augreg_index_filter_unknown_column_or_type_is_an_error(index):
    with pytest.raises(ValueError, match="'adapt_res'.*Did you mean .*adapt_resolution"):
        index.filter(adapt_res=384)
    with pytest.raises(TypeError, match="`epochs` holds numbers.*'300'"):
        index.filter(epochs="300")
    with pytest.raises(TypeError, match="`ds` holds text"):
        index.filter(ds=21)


def test_augreg_index_wrong_columns_lists_both_differences(tmp_path):
    header = [column for column in _HEADER if column != "sd"] + ["seed"]
    path = _write(tmp_path / "index.csv", [], header)
    with pytest.raises(ValueError, match=r"columns differ:\n - sd\n \+ seed"):
        augreg.augreg_index(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r" - adapt_ds\n"):
        augreg.augreg_index(path)
    _write(path, [], [*_HEADER, "sd"])
    with pytest.raises(ValueError, match="one column twice"):
        augreg.augreg_index(path)


@pytest.mark.parametrize(
    ("column", "text", "match"),
    [
        ("epochs", "many", "line 2: column `epochs`: could not convert"),
        ("epochs", "1.5", "column `epochs`: '1.5' is not a whole number"),
        ("epochs", "inf", "column `epochs`"),
        ("final_val", "inf", "column `final_val` must not be 'inf'"),
        ("filename", "", "column `filename` must not be ''"),
    ],
)
def test_augreg_index_unreadable_value_names_line_and_column(tmp_path, column, text, match):
    line = _line("S/16", "i21k", 0.4, "S_16-i21k-a") | {column: text}
    with pytest.raises(ValueError, match=match):
        augreg.augreg_index(_write(tmp_path / "index.csv", [line]))


def test_augreg_index_short_line_is_an_error(tmp_path):
    path = _write(tmp_path / "index.csv", [])
    with open(path, "a", encoding="utf-8") as f:
        f.write("S/16,i21k\n")
    with pytest.raises(ValueError, match="line 2: expected 21 values, found 2"):
        augreg.augreg_index(path)


def test_augreg_index_without_path_reads_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_VIT_MIRROR", raising=False)
    monkeypatch.setenv("KERAS_VIT_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_VIT_OFFLINE", "1")
    folder = tmp_path / "vit_models" / "augreg"
    folder.mkdir(parents=True)
    _write(folder / "index.csv", [_line("S/16", "i21k", 0.4, "S_16-i21k-a")])
    assert len(augreg.augreg_index()) == 1


def test_best_upstream_is_the_i21k_file_with_the_highest_final_val(index):
    assert index.best_upstream("S_16") == "S_16-i21k-b"
    assert index.best_upstream("R26_S_32") == "R26_S_32-i21k-f"


def test_best_upstream_unknown_model_lists_close_names(index):
    with pytest.raises(ValueError, match="'R26_S32'.*Did you mean R26_S_32"):
        index.best_upstream("R26_S32")


@pytest.fixture
def tunings(tmp_path):
    """An index with several fine-tunings of one file, and one of another."""

    def line(filename, steps, resolution, accuracy, ds="imagenet2012"):
        return _line("S/16", "i21k", 0.4, filename) | {
            "adapt_ds": ds,
            "adapt_resolution": str(resolution),
            "adapt_final_test": accuracy,
            "adapt_filename": f"{filename}--{ds}-steps_{steps}-lr_0.03-res_{resolution}",
        }

    lines = [
        line("S_16-i21k-a", "10k", 384, "0.82"),
        line("S_16-i21k-a", "20k", 384, "0.83"),
        line("S_16-i21k-a", "0k", 384, ""),
        line("S_16-i21k-a", "20k", 224, "0.81"),
        line("S_16-i21k-b", "20k", 384, "0.99"),
        line("S_16-i21k-a", "2k", 224, "0.9", "cifar100"),
    ]
    lines[4]["final_val"] = "0.3"
    return augreg.augreg_index(_write(tmp_path / "index.csv", lines))


def test_best_finetuned_has_the_highest_test_accuracy_of_the_best_upstream(tunings):
    best = "S_16-i21k-a--imagenet2012-steps_20k-lr_0.03-res_384"
    assert tunings.best_finetuned("S_16") == best
    assert tunings.best_finetuned("S_16-i21k-a") == best
    assert tunings.resolve("S_16--imagenet2012-res_384") == best
    assert tunings.resolve("S_16-i21k-b--imagenet2012-res_384").startswith("S_16-i21k-b--")
    assert tunings.resolve("S_16--cifar100-res_224").endswith("cifar100-steps_2k-lr_0.03-res_224")
    assert tunings.resolve("S_16") == "S_16-i21k-a"


def test_best_finetuned_missing_names_what_there_is(tunings):
    with pytest.raises(ValueError, match="of S_16-i21k-b on cifar100 .* It has: imagenet2012-res"):
        tunings.best_finetuned("S_16-i21k-b", "cifar100", 224)
    with pytest.raises(ValueError, match="It has: none of that file"):
        tunings.best_finetuned("S_16-i21k-z")


def test_is_choice_leaves_full_names_alone():
    stem = "S_16-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0"
    assert not augreg.is_choice(stem)
    assert augreg.is_choice(f"{stem}--imagenet2012-res_384")
    assert not augreg.is_choice(f"{stem}--imagenet2012-steps_20k-lr_0.03-res_384")
    assert not augreg.is_choice("S_16--imagenet-res_384")
