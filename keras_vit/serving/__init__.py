"""Models outside of training: predictions on image files, and exports for servers.

Import the submodules by name.
"""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
