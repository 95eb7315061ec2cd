"""The rows of the table against published numbers, and how splits are cut."""

import pytest

from keras_vit.data.catalog import names, rows

# TFDS slices as big_vision's and scenic's published configurations write them; the numbers of test
# images are those of the papers.
VTAB = {
    "caltech101": (102, "train[2754:2954]", "test", 6_084),
    "cifar100": (100, "train[45000:45200]", "test", 10_000),
    "dtd": (47, "validation[0:200]", "test", 1_880),
    "oxford_flowers102": (102, "validation[0:200]", "test", 6_149),
    "oxford_iiit_pet": (37, "train[2944:3144]", "test", 3_669),
    "sun397": (397, "validation[0:200]", "test", 21_750),
    "svhn": (10, "train[65931:66131]", "test", 26_032),
    "patch_camelyon": (2, "validation[0:200]", "test", 32_768),
    "eurosat": (10, "train[16200:16400]", "train[21600:27000]", 5_400),
    "resisc45": (45, "train[18900:19100]", "train[25200:31500]", 6_300),
    "diabetic_retinopathy": (5, "validation[0:200]", "test", 42_670),
    "clevr_count": (8, "train[63000:63200]", "validation", 15_000),
    "clevr_distance": (6, "train[63000:63200]", "validation", 15_000),
    "dmlab": (6, "validation[0:200]", "test", 22_735),
    "kitti_distance": (4, "validation[0:200]", "test", 711),
    "dsprites_location": (16, "train[589824:590024]", "train[663552:737280]", 73_728),
    "dsprites_orientation": (16, "train[589824:590024]", "train[663552:737280]", 73_728),
    "smallnorb_azimuth": (18, "test[0:200]", "test[12150:24300]", 12_150),
    "smallnorb_elevation": (9, "test[0:200]", "test[12150:24300]", 12_150),
}
# The development parts of section B.1.1: 1 % of ImageNet, 2 % of CIFAR, 10 % of Pets and Flowers;
# Fashion-MNIST as these.
MINIVALS = {
    "imagenet2012": (1_000, 1_268_355, 12_812, 1_281_167, 50_000),
    "cifar10": (10, 49_000, 1_000, 50_000, 10_000),
    "cifar100": (100, 49_000, 1_000, 50_000, 10_000),
    "oxford_iiit_pet": (37, 3_312, 368, 3_680, 3_669),
    "oxford_flowers102": (102, 918, 102, 1_020, 6_149),
    "fashion_mnist": (10, 54_000, 6_000, 60_000, 10_000),
}
TESTS = {
    "imagenet2012_real": (50_000, rows.ANY_LABEL),
    "imagenet_v2/matched-frequency": (10_000, rows.TOP_1),
    "imagenet_v2/threshold-0.7": (10_000, rows.TOP_1),
    "imagenet_v2/topimages": (10_000, rows.TOP_1),
    "imagenet_a": (7_500, rows.SHARED_CLASSES),
    "imagenet_r": (30_000, rows.SHARED_CLASSES),
    "imagenet_sketch": (50_889, rows.TOP_1),
    "objectnet": (18_574, rows.SHARED_CLASSES),
}


def test_no_row_is_missing_from_these_tables():
    known = {f"vtab/{task}" for task in VTAB} | {*MINIVALS, *TESTS}
    known |= {"digits/all", "digits/upstream", "digits/downstream"}  # test_digits.py
    known |= {"imagenet21k", "imagenet21k/folders"}  # test_imagenet21k.py
    assert set(names.list_datasets()) == known
    assert len(VTAB) == 19


@pytest.mark.parametrize("task", VTAB)
def test_vtab_splits_are_the_published_ones(task):
    row = names.get_dataset(f"vtab/{task}")
    num_classes, validation, test, num_test = VTAB[task]
    assert row.num_classes == num_classes
    assert row.tfds_slices(row.whole) == {
        "train": "train[0:800]",
        "validation": validation,
        "trainval": f"train[0:800]+{validation}",
        "test": test,
    }
    assert row.sizes == {"train": 800, "validation": 200, "trainval": 1_000, "test": num_test}


@pytest.mark.parametrize("name", MINIVALS)
def test_minival_splits_are_the_official_ones(name):
    row = names.get_dataset(name)
    assert (row.num_classes, *(row.sizes[split] for split in rows.SPLITS)) == MINIVALS[name]
    slices = row.tfds_slices(row.whole)
    train, trainval = row.sizes["train"], row.sizes["trainval"]
    assert slices["train"] == f"train[0:{train}]"
    assert slices["validation"] == f"train[{train}:{trainval}]"
    assert slices["trainval"] == "train"
    assert slices["test"] == ("validation" if name == "imagenet2012" else "test")


@pytest.mark.parametrize("name", TESTS)
def test_sets_for_tests_only_have_no_other_split(name):
    row = names.get_dataset(name)
    assert (row.sizes, row.evaluation) == ({"test": TESTS[name][0]}, TESTS[name][1])
    assert row.num_classes == 1_000


def test_slices_of_each_form():
    sizes = {"train": 1_005, "validation": 7}
    for spec, expected in (
        ("train", [("train", 0, 1_005)]),
        ("train[:99%]", [("train", 0, 994)]),
        ("train[99%:]", [("train", 994, 1_005)]),
        ("train[60%:80%]", [("train", 603, 804)]),
        ("train[:5]+train[90%:+20]", [("train", 0, 5), ("train", 904, 924)]),
        ("train+validation", [("train", 0, 1_005), ("validation", 0, 7)]),
        ("validation[5:]", [("validation", 5, 7)]),
    ):
        assert rows.slices(spec, sizes) == expected


def test_slices_of_too_small_a_split_raise():
    with pytest.raises(ValueError, match=r"'train\[:800\]' needs more .* Received: 799 in 'train'"):
        rows.slices("train[:800]", {"train": 799})
    with pytest.raises(ValueError, match="needs more examples"):
        rows.slices("train[90%:+200]", {"train": 1_000})


def test_tfds_slices_of_a_set_that_was_prepared_in_part_leave_the_others_out():
    row = names.get_dataset("imagenet2012")
    assert row.tfds_slices({"validation": 50_000}) == {"test": "validation"}


def test_padded_labels_fills_up_and_refuses_more():
    assert rows.padded_labels([3, 5]).numpy().tolist() == [3, 5] + [-1] * 14
    with pytest.raises(Exception, match="non-negative|>= 0"):
        rows.padded_labels(list(range(17)))


def test_list_datasets_takes_a_pattern():
    assert names.list_datasets("cifar*") == ["cifar10", "cifar100"]
    assert names.find_dataset("cifar11") is None
    with pytest.raises(ValueError, match="Received: 'vtab/svnh'; did you mean 'vtab/svhn'"):
        names.get_dataset("vtab/svnh")
