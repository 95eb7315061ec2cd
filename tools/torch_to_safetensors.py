"""Makes a safetensors file of a PyTorch checkpoint (`.pth`, `.pt`, `.bin`), where PyTorch is.

    pip install torch safetensors
    python tools/torch_to_safetensors.py FILE.pth model.safetensors

keras_vit never opens a pickle; this script does, with `weights_only=True`, which refuses code.
Dictionaries around the weights (`model`, `state_dict`, `model_state`, `teacher`) are taken off.
"""

import sys

WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "teacher", "module")


def weights_of(loaded):
    """The table of arrays in what a checkpoint holds."""
    while isinstance(loaded, dict):
        inner = [key for key in WRAPPERS if isinstance(loaded.get(key), dict)]
        if not inner:
            return loaded
        loaded = loaded[inner[0]]
    return loaded.state_dict()


def main(source, target):
    import torch
    from safetensors.torch import save_file

    weights = weights_of(torch.load(source, map_location="cpu", weights_only=True))
    arrays = {k: v.contiguous().clone() for k, v in weights.items() if torch.is_tensor(v)}
    save_file(arrays, target)
    print(f"{len(arrays)} arrays written to {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
