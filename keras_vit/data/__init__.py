"""Data sets, decoding, preprocessing and tf.data pipelines; import the submodules by name."""
