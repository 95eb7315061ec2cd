"""How a model is served: what a person chooses at export."""

import dataclasses

from keras_vit.data.images.image_problems import MAX_JPEG_PIXELS, MAX_PIXELS

ACTIVATIONS = ("softmax", "sigmoid", "none")
BAD_IMAGE_RULES = ("error", "mark")
DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("int8",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """What is built into the graph of an export.

    Args:
        top_k: number of classes in an answer; at most C are given.
        activation: one of `ACTIVATIONS`, makes probabilities of the logits; `"none"` leaves them as
            they are; None takes that of the model's task.
        on_bad_image: `"error"` fails a request that holds an image that cannot be decoded, with a
            message that names its index; `"mark"` says why in the output `error` of that image,
            whose scores are zeros, and answers all others.
        max_batch_size: the largest number of images that a request may hold.
        max_pixels: the largest height x width of an image that is decoded.
        attention: whether there is a signature for the attention of the last encoder block.
        jit: whether the model is compiled by XLA, once for each batch size.
        dtype: `"bfloat16"` computes all but the head and the softmaxes in it; None keeps the
            model's own.
        quantization: `"int8"` stores the kernels with 8 bits and a scale for each output channel,
            and computes with what these stand for; None keeps them.

    Raises:
        ValueError: for a number that is not positive, or an unknown name.
    """

    top_k: int = 5
    activation: str | None = None
    on_bad_image: str = "error"
    max_batch_size: int = 256
    max_pixels: int = MAX_PIXELS
    attention: bool = False
    jit: bool = False
    dtype: str | None = None
    quantization: str | None = None

    def __post_init__(self):
        for name in ("top_k", "max_batch_size", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}")
        if self.max_pixels > MAX_JPEG_PIXELS:
            raise ValueError(
                f"`max_pixels` must be at most {MAX_JPEG_PIXELS}, which no JPEG exceeds. "
                f"Received: {self.max_pixels}"
            )
        for name, known in (
            ("activation", (None, *ACTIVATIONS)),
            ("on_bad_image", BAD_IMAGE_RULES),
            ("dtype", (None, *DTYPES)),
            ("quantization", (None, *QUANTIZATIONS)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {known}. Received: {getattr(self, name)!r}"
                )
