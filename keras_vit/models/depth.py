"""How deep each variable of a model lies: its stem, its blocks one after the other, what follows.

Read off variable paths, so that it holds for a model of this package, one that was cut from one,
and one with a head of one's own alike.
"""

import dataclasses
import re

# In front of the blocks of a Transformer; the ResNet of a hybrid is a stem as well.
_STEM = re.compile(
    r"(embedding|cls|dist|mask|registers|posembed_input|pre_norm|\w+_root|root_conv"
    r"|block\d+_unit\d+)/"
)
_BLOCK = re.compile(r"(?:encoderblock|posembed)_(\d+)/")
_RESNET_STEM = re.compile(r"(\w+_root|root_\w+)/")
_STAGE = re.compile(r"block(\d+)_unit\d+/")
# Behind the blocks, and no head.
_NECK = re.compile(r"(encoder_norm|pooled_norm|pooling|pre_logits|norm_pre_head)/")


@dataclasses.dataclass(frozen=True)
class Depths:
    """Where the variables of a model lie.

    Attributes:
        num_blocks: Number of encoder blocks; of a ResNet, of stages.
        is_transformer: Whether it has encoder blocks.
    """

    num_blocks: int
    is_transformer: bool

    @classmethod
    def of(cls, model):
        """The `Depths` of a model.

        Raises:
            ValueError: For a model in which there are neither encoder blocks nor stages.
        """
        paths = [variable.path for variable in model.weights]
        for pattern, first in ((re.compile(r"encoderblock_(\d+)/"), 0), (_STAGE, 1)):
            found = {int(match.group(1)) for path in paths if (match := pattern.match(path))}
            if found:
                return cls(max(found) + 1 - first, first == 0)
        raise ValueError(
            "a model must have the encoder blocks or the stages of this package's models. "
            f"Received: {model.name!r}, which has neither"
        )

    def depth(self, path):
        """0 for the stem, i for block i counted from 1, and `num_blocks` + 1 for what follows.

        Args:
            path: Of a variable.  Positions that are added between blocks belong to the block that
                follows them.

        >>> depths = Depths(num_blocks=12, is_transformer=True)
        >>> [depths.depth(p) for p in ("cls/token", "encoderblock_0/mlp/dense_1/bias", "head/bias")]
        [0, 1, 13]
        """
        block = (_BLOCK if self.is_transformer else _STAGE).match(path)
        if block:
            return int(block.group(1)) + self.is_transformer
        is_stem = (_STEM if self.is_transformer else _RESNET_STEM).match(path)
        return 0 if is_stem else self.num_blocks + 1

    def is_head(self, path):
        """Whether a variable is of a head: this package's, or what somebody has put there."""
        return self.depth(path) == self.num_blocks + 1 and not _NECK.match(path)
