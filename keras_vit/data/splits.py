"""The names of the splits that data sets have."""

TRAIN, VALIDATION, TRAINVAL, TEST = "train", "validation", "trainval", "test"
