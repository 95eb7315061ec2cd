"""The tables and figures of arXiv:2010.11929v2, as work that can be planned, run and compared.

`keras_vit.reproduce` is the function; the package has another name so that both can be there.
"""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
