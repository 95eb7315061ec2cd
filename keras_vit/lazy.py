"""Submodules that are imported when they are first asked for."""

import importlib
import importlib.util


def submodules_of(package):
    """Returns a module's `__getattr__` that imports the submodules of a package.

    With it `import keras_vit` is enough for `keras_vit.training.schedules`, and costs nothing.

    Args:
        package: Dotted name of the package.
    """

    def __getattr__(name):
        full_name = f"{package}.{name}"
        if name.startswith("_") or importlib.util.find_spec(full_name) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(full_name)

    return __getattr__
