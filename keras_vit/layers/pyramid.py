"""ViTDet's simple feature pyramid (arXiv:2203.16527): maps of several strides from one map.

Shapes: B batch, h w grid, D hidden, F channels of the pyramid.
"""

import keras

from keras_vit.layers.trainable import CompositeLayer

_EPSILON = 1e-6
LEVELS = ("P2", "P3", "P4", "P5", "P6")
# Level -> what comes before its two convolutions, as (name, kind, divisor of D).
_STEPS = {
    "P2": (("p2_up_1", "up", 2), ("p2_norm", "norm", 2), ("p2_up_2", "up", 4)),
    "P3": (("p3_up", "up", 2),),
    "P4": (),
    "P5": (("p5_pool", "pool", 1),),
}


@keras.saving.register_keras_serializable(package="keras_vit")
class SimpleFeaturePyramid(CompositeLayer):
    """Maps at 4, 2, 1, 1/2 and 1/4 of a map's resolution, as in detectron2.

    P2 is two transposed convolutions with a norm and GELU between them, P3 one, P4 the map itself,
    P5 its maxima; each then has a 1 x 1 and a 3 x 3 convolution without bias, each with a norm over
    the channels.  P6 is every second pixel of P5.

    Args:
        channels: F; 256 in the paper.

    Call arguments:
        features: (B, h, w, D), of stride 16 in the paper, without the final norm.

    Returns:
        A dict from `"P2"` ... `"P6"` to (B, 4 h, 4 w, F) ... (B, h / 4, w / 4, F), rounded up at
        P6 and down at P5.
    """

    def __init__(self, channels=256, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape):
        size, policy = input_shape[-1], self.dtype_policy
        for level, steps in _STEPS.items():
            width = size
            for name, kind, divisor in steps:
                layer = {
                    "up": lambda n, d: keras.layers.Conv2DTranspose(
                        size // d, 2, strides=2, dtype=policy, name=n
                    ),
                    "norm": lambda n, d: _norm(policy, n),
                    "pool": lambda n, d: keras.layers.MaxPooling2D(2, dtype=policy, name=n),
                }[kind](name, divisor)
                layer.build((None, None, None, width))
                setattr(self, name, layer)
                width = size // divisor
            for kernel, fan_in in ((1, width), (3, self.channels)):
                name = f"{level.lower()}_conv_{kernel}"
                conv = keras.layers.Conv2D(
                    self.channels,
                    kernel,
                    padding="same",
                    use_bias=False,
                    dtype=policy,
                    name=name,
                )
                conv.build((None, None, None, fan_in))
                norm = _norm(policy, f"{name}_norm")
                norm.build((None, None, None, self.channels))
                setattr(self, conv.name, conv)
                setattr(self, norm.name, norm)
        self.restore_parts()

    def call(self, features):
        outputs = {}
        for level, steps in _STEPS.items():
            x = features
            for name, kind, _ in steps:
                x = getattr(self, name)(x)
                if kind == "norm":
                    x = keras.ops.gelu(x, approximate=False)
            for kernel in (1, 3):
                name = f"{level.lower()}_conv_{kernel}"
                x = getattr(self, f"{name}_norm")(getattr(self, name)(x))
            outputs[level] = x
        outputs["P6"] = outputs["P5"][:, ::2, ::2]
        return outputs

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape

        def scaled(side):
            half = None if side is None else side // 2
            if side is None:
                return (None,) * 5
            return 4 * side, 2 * side, side, half, -(-half // 2)

        sides = zip(scaled(height), scaled(width), strict=True)
        return {
            level: (batch, rows, columns, self.channels)
            for level, (rows, columns) in zip(LEVELS, sides, strict=True)
        }

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


def _norm(policy, name):
    return keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=policy, name=name)
