"""One checkpoint format from another: where to, what happens to each array, and the proof."""
