"""Writes two tables of timm's plain-ViT models: their arguments, and what is published of them.

    pip install torch==2.13.0 safetensors pyyaml numpy pillow
    pip install --no-deps timm==1.0.31
    python tools/timm_models.py keras_vit/checkpoints/formats/timm_models.json \
        keras_vit/checkpoints/catalog/timm_tags.json

Run it in an environment of its own: keras_vit itself needs neither timm nor torch.  Nothing is
built or downloaded: the function of each name is called with a stand-in for timm's builder.
"""

import functools
import importlib.abc
import importlib.machinery
import inspect
import json
import pathlib
import sys
import types

MODULES = ("vision_transformer", "deit", "vision_transformer_hybrid")
# What timm imports of other packages, and these models do not need.
STUBBED = ("torchvision", "httpx", "huggingface_hub")
# Arguments of timm's builder, and those that change nothing that is computed at inference.
LEFT_OUT = {
    *("pretrained_filter_fn", "feature_cfg", "pretrained_strict", "pretrained_cfg", "cache_dir"),
    *("pretrained_cfg_overlay", "weight_init", "fix_init", "drop_path_rate", "drop_rate"),
    *("dynamic_img_size", "pretrained_custom_load"),
}


class _AnyName(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Stub(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyName(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in STUBBED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Stub(spec.name)

    def exec_module(self, module):
        pass


class _Captured(Exception):
    """Carries what timm's builder was called with."""


def _capture(model_class, variant, pretrained=False, **arguments):
    raise _Captured(model_class, variant, arguments)


def import_timm():
    """timm and the modules of its plain ViTs, whose builder is replaced by `_capture`."""
    sys.meta_path.insert(0, _StubFinder())
    timm = importlib.import_module("timm")
    return timm, [importlib.import_module(f"timm.models.{name}") for name in MODULES]


def plain(value):
    """An argument as JSON has it: classes by the name that `model_args` may have for them."""
    if isinstance(value, functools.partial):
        named = plain(value.func)
        keywords = {k: plain(v) for k, v in value.keywords.items()}
        if named == "GluMlp":
            return "swiglu_packed" if keywords == {"act_layer": "silu", "gate_last": False} else "?"
        return {"name": named, **keywords} if named != "HybridEmbed" else "hybrid"
    if isinstance(value, type):
        names = {"LayerNorm": "layernorm", "RmsNorm": "rmsnorm", "SiLU": "silu", "GELU": "gelu"}
        return names.get(value.__name__, value.__name__)
    return list(value) if isinstance(value, tuple) else value


def models():
    """(timm's version, name -> arguments that differ from timm's defaults)."""
    timm, modules = import_timm()
    for module in modules:
        module.build_model_with_cfg = _capture
    defaults = inspect.signature(modules[0].VisionTransformer.__init__).parameters
    table = {}
    for module in MODULES:
        for name in timm.list_models(module=module):
            try:
                timm.model_entrypoint(name)()
            except _Captured as captured:
                model_class, _, arguments = captured.args
                kept = {k: plain(v) for k, v in arguments.items() if k not in LEFT_OUT}
                table[name] = {k: v for k, v in sorted(kept.items()) if v != defaults[k].default}
                if model_class.__name__ == "VisionTransformerDistilled":
                    table[name]["distilled"] = True
    registry = importlib.import_module("timm.models._registry")
    for old, new in registry._deprecated_models.items():
        if new and new.partition(".")[0] in table:
            table.setdefault(old, table[new.partition(".")[0]])
    return timm.__version__, dict(sorted(table.items()))


def tags(table):
    """Name with tag -> what timm's registry says of the published file."""
    registry = importlib.import_module("timm.models._registry")
    found = {}
    for name, config in registry._model_pretrained_cfgs.items():
        if name.partition(".")[0] not in table or not config.has_weights or not config.hf_hub_id:
            continue
        found[name] = {
            "hub": f"timm/{name}" if config.hf_hub_id == "timm/" else config.hf_hub_id,
            "image_size": list(config.input_size[1:]),
            "num_classes": config.num_classes,
            "interpolation": config.interpolation,
            "crop_pct": config.crop_pct,
            "license": config.license,
        }
    return dict(sorted(found.items()))


def write(path, version, name, rows):
    """A row a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    pathlib.Path(path).write_text(f'{{"timm": {json.dumps(version)}, "{name}": {{\n{lines}\n}}}}\n')


def main(models_path, tags_path):
    version, table = models()
    write(models_path, version, "models", table)
    published = tags(table)
    write(tags_path, version, "tags", published)
    print(f"{len(table)} models and {len(published)} tags of timm {version}")


if __name__ == "__main__":
    main(*sys.argv[1:])
