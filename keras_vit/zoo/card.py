"""The model card that a hub shows: what a model is, where it comes from, and how it is used."""

import json

from keras_vit.models import cost
from keras_vit.untrusted import printable

_LIBRARIES = {"timm": "timm", "huggingface": "transformers"}
_USES = {
    "timm": """\
```python
import timm

model = timm.create_model("local-dir:{name}", pretrained=True)
```
""",
    "huggingface": """\
```python
import transformers

model = transformers.AutoModel.from_pretrained("{name}")
```
""",
}


def model_card(model, format_name, name, licence=None, metrics=None):
    """The text of a `README.md` with the header that hubs read.

    Args:
        model: A model of this package.
        format_name: Name of the format that it is written in.
        name: Of the folder.
        licence: Identifier such as `"apache-2.0"`; None says that it is not known.
        metrics: Name of a metric -> value, such as a run's `metrics.json`; None for none.
    """
    library = next((v for k, v in _LIBRARIES.items() if format_name.startswith(k)), "keras")
    config, origin = model.config, model.origin or {}
    height, width = config.image_size
    header = {
        "library_name": library,
        "license": licence or "unknown",
        "pipeline_tag": "image-classification"
        if config.num_classes
        else "image-feature-extraction",
        "tags": ["keras_vit", "vision-transformer"],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in header.items()]
    facts = {
        "parameters": f"{cost.count_parameters(config):,}",
        "multiply-adds an image": f"{cost.count_multiply_adds(config) / 1e9:.2f} billion",
        "image size": f"{height} x {width}",
        "classes": config.num_classes or "none: features",
        "pixels": f"in {model.preprocessing.value_range}, resized by {model.preprocessing.resize}",
        "came from": ", ".join(f"{k} {v}" for k, v in origin.items()) or "training from scratch",
        "licence of the source": licence or "not known: see where it came from",
        **(metrics or {}),
    }
    table = "\n".join(f"| {key} | {printable(str(value))} |" for key, value in facts.items())
    use = next((text for key, text in _USES.items() if format_name.startswith(key)), "")
    return f"""---
{chr(10).join(lines)}
---

# {printable(name)}

{type(model).__name__} written by keras_vit in the format `{format_name}`.

| | |
|---|---|
{table}

```python
import keras_vit

model = keras_vit.from_pretrained("{printable(name)}")
```

{use.format(name=printable(name))}"""
