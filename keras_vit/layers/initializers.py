"""The official code's initialisers, and a way to leave them out where weights are loaded anyway."""

import contextlib
import contextvars
import math

import keras

_BLANK = contextvars.ContextVar("blank", default=None)


@contextlib.contextmanager
def blank_initialization(blank):
    """The initialisers that are made inside give `blank(shape, dtype)` in place of their values.

    For models whose weights are loaded at once: drawing 86M random numbers, and even writing 86M
    zeros, takes longer than reading them from a file.
    """
    token = _BLANK.set(blank)
    try:
        yield
    finally:
        _BLANK.reset(token)


@keras.saving.register_keras_serializable(package="keras_vit")
class _Blank(keras.initializers.Initializer):
    """Calls the function that `blank_initialization` was given.

    A configuration holds the initialiser in whose place it stands, and gives that.
    """

    def __init__(self, blank, initializer):
        self.blank = blank
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        return self.blank(shape, keras.backend.standardize_dtype(dtype))

    def get_config(self):
        return {"initializer": keras.saving.serialize_keras_object(self.initializer)}

    @classmethod
    def from_config(cls, config):
        return keras.saving.deserialize_keras_object(config["initializer"])


def _unless_blank(initializer):
    blank = _BLANK.get()
    return initializer if blank is None else _Blank(blank, initializer)


def zeros():
    """Zeros, for arrays large enough to matter: the kernel of a head."""
    return _unless_blank(keras.initializers.Zeros())


def constant(value):
    """One value, for the bias of a head: 0, or -10 for sigmoid pre-training."""
    return keras.initializers.Constant(value) if value else keras.initializers.Zeros()


def lecun_normal():
    """Flax's default for kernels: truncated normal with variance 1 / fan_in."""
    return _unless_blank(keras.initializers.LecunNormal())


def normal(stddev):
    """N(0, stddev^2): 0.02 for position embeddings, 1e-6 for the biases of the MLPs."""
    return _unless_blank(keras.initializers.RandomNormal(stddev=stddev))


def xavier_uniform(fan_in, fan_out):
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)).

    The fans are given and not read off the shape: an attention kernel (D, k, d) is the matrix
    (D, k d) to Flax, and a convolution to `keras.initializers.GlorotUniform`, whose bound would be
    six times too small for ViT-B.
    """
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return _unless_blank(keras.initializers.RandomUniform(-bound, bound))


def truncated_normal(stddev):
    """N(0, stddev^2) within two deviations, as Segmenter's decoders start."""
    return _unless_blank(keras.initializers.TruncatedNormal(stddev=stddev))
