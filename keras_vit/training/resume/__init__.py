"""Exact resumption of a training that was stopped anywhere."""

from keras_vit.lazy import submodules_of
from keras_vit.training.resume.exact_resume import ExactResume

__all__ = ["ExactResume"]

__getattr__ = submodules_of(__name__)
