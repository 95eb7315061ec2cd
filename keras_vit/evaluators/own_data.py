"""A data set as a model is measured on it: data of the user's take their classes from the model."""

from collections.abc import Mapping

from keras_vit.data.tasks import REGRESSION


def resolve_for(model, dataset, split, *, task=None, data_dir=None, class_names=None):
    """As `keras_vit.data.pipeline.resolve`, for a model that is to be measured.

    Arrays, a `tf.data.Dataset` and a `PyDataset` say no more of their classes than the labels that
    occur: what they leave open is what the model says.  A label is then the number of a logit, or
    the name of one.

    Args:
        model: As in `keras_vit.evaluate`.
        dataset: As in `keras_vit.evaluate`; one that is no dict of splits is the asked split.
        split: Name of the split.
        task: What the labels must be; None takes any.
        data_dir: As in `keras_vit.evaluate`.
        class_names: The model's classes in the order of its logits; None takes those that it has.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: As `resolve`, and for labels that are none of the model's classes.
    """
    from keras_vit.data import pipeline
    from keras_vit.data.sources.user import is_user_data

    if not is_user_data(dataset):
        return pipeline.resolve(dataset, data_dir, task=task)
    if not isinstance(dataset, Mapping):
        dataset = {split: dataset}
    if task == REGRESSION:
        return pipeline.resolve(dataset, task=task)
    number = model.output_shape[-1]
    names = class_names or getattr(model, "class_names", None) or [str(k) for k in range(number)]
    return pipeline.resolve(dataset, task=task, class_names=names)
