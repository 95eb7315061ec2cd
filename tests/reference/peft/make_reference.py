"""Makes the folders beside this file with PEFT and transformers, which the tests do not need.

    python make_reference.py make all_kernels    # transformers 4: base/, and the adapter with it
    python make_reference.py make rank_stabilized  # transformers 5, on the same base/
    python make_reference.py make dinov2           # transformers 5, on base_dinov2/
    python make_reference.py check NAME FOLDER     # an adapter of ours in PEFT

`check` takes a folder that `keras_vit.zoo.adapters.save_adapter` has written for that name's base,
with an `ours.npz` of `images` and `logits` in it, and prints the largest difference of the logits.
"""

import pathlib
import sys

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

HERE = pathlib.Path(__file__).parent
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": 3,
}
# name -> the modules' last names, and other arguments of `LoraConfig`
ADAPTERS = {
    "all_kernels": (
        ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
        {"r": 2, "lora_alpha": 5, "modules_to_save": ["classifier"]},
    ),
    "rank_stabilized": (("q_proj", "v_proj"), {"r": 4, "lora_alpha": 3, "use_rslora": True}),
    "dinov2": (
        ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
        {"r": 2, "lora_alpha": 5, "modules_to_save": ["classifier"]},
    ),
}


def randomized(module, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "lora_" not in str(module):
                noise = torch.randn(parameter.shape, generator=generator) * scale
                parameter.copy_(noise + ("norm" in name and name.endswith("weight")))


def base_model(name):
    folder = HERE / ("base_dinov2" if name == "dinov2" else "base")
    if not folder.exists():
        if name == "dinov2":
            model = Dinov2ForImageClassification(Dinov2Config(mlp_ratio=2, **SIZES))
        else:
            model = ViTForImageClassification(ViTConfig(intermediate_size=32, **SIZES))
        randomized(model, 0, 0.2)
        model.save_pretrained(folder)
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def make(name):
    targets, options = ADAPTERS[name]
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    model = base_model(name)
    with torch.no_grad():
        base = model(pixels).logits.numpy()
        model = get_peft_model(model, LoraConfig(target_modules=list(targets), **options)).eval()
        randomized(model, 1, 0.3)
        logits = model(pixels).logits.numpy()
    base_name = "base_dinov2" if name == "dinov2" else "base"
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(HERE / name)
    (HERE / name / "README.md").unlink()
    np.savez(HERE / name / "ref.npz", images=images, base=base, logits=logits)
    print(name, base, logits)


def check(name, folder):
    ours = np.load(pathlib.Path(folder) / "ours.npz")
    pixels = torch.from_numpy(ours["images"].transpose(0, 3, 1, 2).copy())
    model = PeftModel.from_pretrained(base_model(name), folder).eval()
    with torch.no_grad():
        logits = model(pixels).logits.numpy()
        merged = model.merge_and_unload()(pixels).logits.numpy()
    print(np.abs(logits - ours["logits"]).max(), np.abs(merged - ours["logits"]).max())


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
