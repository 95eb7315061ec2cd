"""What a trained model is worth, in numbers.

`Classification`, `MultiLabel`, `Regression`, `MeanIoU`, `Calibration`, `FewShot`, `KNN`,
`LinearProbe` and `VTAB` are evaluators: they measure a model in a training and after it.  They are
imported when they are first asked for.
"""

import importlib

from keras_vit.lazy import submodules_of

_submodule = submodules_of(__name__)

# class -> module
_CLASSES = {
    "Calibration": "calibration",
    "Classification": "classification",
    "Every": "base",
    "Evaluator": "base",
    "FewShot": "fewshot",
    "KNN": "knn",
    "LinearProbe": "linear_probe",
    "MeanIoU": "segmentation",
    "MultiLabel": "multilabel",
    "Regression": "regression",
    "VTAB": "vtab",
}
__all__ = list(_CLASSES)


def __getattr__(name):
    if name in _CLASSES:
        return getattr(importlib.import_module(f"{__name__}.{_CLASSES[name]}"), name)
    return _submodule(name)
