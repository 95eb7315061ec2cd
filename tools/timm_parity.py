"""How many of timm's plain ViTs does keras_vit load with the same outputs?

Two steps, as timm and keras_vit live in environments of their own (see `tools/timm_models.py`):

    python tools/timm_parity.py make FOLDER           with torch and timm
    python tools/timm_parity.py compare FOLDER        with keras_vit

`make` builds every architecture that has pre-trained tags, made narrow and shallow, with random
weights, and lets timm write it (`save_for_hf`) beside its outputs on random images.  `compare`
loads each folder, compares, writes it back, and counts tags.
"""

import collections
import importlib
import json
import pathlib
import sys
import tempfile

TOLERANCE = 1e-5
SEED = 7
# Patches in each direction.
GRID = 4


def _small(arguments):
    """The arguments that make a named model small; its heads and its options stay."""
    heads = arguments.get("num_heads", 12)
    side = arguments.get("patch_size", 16)
    if arguments.get("embed_layer"):
        return {"depth": 2}
    return {"depth": 2, "embed_dim": 8 * heads, "img_size": GRID * side, "num_classes": 5}


def make(folder, names=None):
    """Writes a folder for each architecture with pre-trained tags, or for those named."""
    import timm_models

    _, table = timm_models.models()
    for name in list(sys.modules):
        if name.partition(".")[0] == "timm":
            del sys.modules[name]
    timm = importlib.import_module("timm")
    torch = importlib.import_module("torch")
    tags = collections.Counter()
    for tag in timm.list_pretrained():
        if tag.partition(".")[0] in table:
            tags[tag.partition(".")[0]] += 1
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tags.json").write_text(json.dumps(tags))
    for name in names or tags:
        make_one(timm, torch, name, _small(table[name]), folder / name)


def make_one(timm, torch, name, arguments, folder, seed=SEED):
    """One architecture with random weights, as timm writes it, and what it computes."""
    import numpy as np

    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(name, **arguments).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            # Also what starts at one or zero: norms, LayerScale, tokens, biases.
            noise = torch.randn(value.shape, generator=generator)
            scale = value.shape[-1] ** -0.5 if value.ndim == 2 else 0.1
            near_one = value.ndim == 1 and not key.endswith("bias")
            value.copy_(noise * scale + near_one)
        height, width = model.patch_embed.img_size
        images = torch.rand((2, model.in_chans, height, width), generator=generator) * 2 - 1
        logits = model(images)
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    np.savez(
        folder / "ref.npz",
        images=images.permute(0, 2, 3, 1).contiguous().numpy(),
        logits=logits.numpy(),
    )


def compare(folder):
    """Prints a line for each folder, and how many tags are right, refused and wrong."""
    import keras
    import numpy as np

    import keras_vit
    from keras_vit.checkpoints.containers import safetensors
    from keras_vit.checkpoints.containers.arrays import read_stored
    from keras_vit.errors import CheckpointError

    def stored(path):
        return read_stored(path, safetensors.read_headers(path))

    folder = pathlib.Path(folder)
    tags, counts = json.loads((folder / "tags.json").read_text()), collections.Counter()
    for case in sorted(path.parent for path in folder.glob("*/ref.npz")):
        weight = tags.get(case.name, 0)
        try:
            model = keras_vit.from_pretrained(case)
        except CheckpointError as error:
            print(f"refused  {case.name} ({weight}): {str(error.problems[0])[:150]}")
            counts["refused"] += weight
            continue
        with np.load(case / "ref.npz") as file:
            found = keras.ops.convert_to_numpy(model(file["images"], training=False))
            expected = file["logits"]
        error = np.abs(found - expected).max() / np.abs(expected).max()
        with tempfile.TemporaryDirectory() as temporary:
            path = keras_vit.save_pretrained(model, pathlib.Path(temporary) / "model.safetensors")
            arrays, again = stored(case / "model.safetensors"), stored(path)
            same = arrays.keys() == again.keys() and all(
                arrays[key].tobytes() == again[key].tobytes() for key in arrays
            )
            same = same and keras_vit.from_pretrained(path).config == model.config
        verdict = "wrong" if error > TOLERANCE else "right" if same else "not back"
        counts[verdict] += weight
        print(f"{verdict:8} {case.name} ({weight}): {error:.1e}")
        keras.utils.clear_session()
    total = sum(counts.values())
    for verdict, count in counts.items():
        print(f"{verdict}: {count} of {total} tags, {100 * count / max(total, 1):.1f} %")


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:3], *filter(None, [sys.argv[3:]]))
