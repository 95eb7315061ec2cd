"""The reports of a training as TensorBoard reads them."""

import pathlib

import keras
import tensorflow as tf

from keras_vit.training.optimizers import rate_at

FOLDER = "tensorboard"
# What `tf.summary.scalar` says of a number; that function needs TensorBoard to be installed.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
)


class TensorBoard(keras.callbacks.Callback):
    """Writes a row of the history after each report, one scalar for each of its columns.

    A run that is resumed writes a further file; what both hold is the same.  Put it after the
    callbacks that measure.

    Args:
        folder: Where the files of events are.
        report_steps: Number of steps in an epoch.
        total_steps: Number of steps of the training.
        begins: Whether events that are there are of another training and are removed.
    """

    def __init__(self, folder, report_steps, total_steps, begins=False):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.report_steps = report_steps
        self.total_steps = total_steps
        self.begins = begins
        self._writer = None

    def on_train_begin(self, logs=None):
        if self.begins:
            for path in self.folder.glob("events.out.tfevents.*"):
                path.unlink()
        self._writer = tf.summary.create_file_writer(str(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        step = min((epoch + 1) * self.report_steps, self.total_steps)
        row = {"learning_rate": rate_at(self.model.optimizer, step - 1), **(logs or {})}
        with self._writer.as_default(step=step):
            for name, value in row.items():
                tf.summary.write(name, tf.constant(float(value), tf.float32), metadata=_SCALAR)
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()
