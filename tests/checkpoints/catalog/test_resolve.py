"""What is said about names and files of other libraries."""

import pickle
import zipfile

import pytest

from keras_vit.checkpoints.catalog import resolve
from keras_vit.checkpoints.containers import files
from keras_vit.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B_16", "Did you mean imagenet21k/ViT-B_16,"),
        ("google/vit-base-patch16-224", "looks like a name on a hub .* and give that.*ViT-B_16"),
        ("vit_base_patch16_225", r"save_for_hf\(model, 'FOLDER'\)` and give the folder"),
        ("timm/vit_large_patch16_224.no_such_tag", "a name of timm's"),
        ("imagenet21k/ViT-B_61", "Unknown checkpoint.*Did you mean imagenet21k/ViT-B_16"),
        ("x" * 300, "there is no such file"),
        ("a\0b", "there is no such file"),
    ],
)
def test_unknown_names_get_what_helps(name, message):
    with pytest.raises(CheckpointError, match=message):
        resolve.locate(name)


def torch_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vit/data.pkl", pickle.dumps({}))
        archive.writestr("vit/data/0", b"\0" * 64)


def torch_pickle(path):
    path.write_bytes(pickle.dumps({}))


@pytest.mark.parametrize("name", ["vit.pth", "vit.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("write", [torch_archive, torch_pickle])
def test_files_of_pytorch_are_named_with_the_two_lines(tmp_path, name, write):
    write(tmp_path / name)
    path, _ = resolve.locate(tmp_path / name)
    with pytest.raises(CheckpointError) as error:
        files.open_container(path)
    assert len(error.value.problems) == 1
    assert "is a file of PyTorch's pickles" in str(error.value)
    assert "from safetensors.torch import save_file" in str(error.value)


def test_a_folder_of_pytorch_is_named(tmp_path):
    torch_archive(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin: is a file of PyTorch's pickles"):
        files.file_of(tmp_path)


def test_a_missing_file_of_pytorch_is_a_missing_file(tmp_path):
    path, _ = resolve.locate(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="there is no such file"):
        files.open_container(path)
