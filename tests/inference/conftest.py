from tests.serving.conftest import (  # noqa: F401
    exported,
    images,
    make_model,
    marked,
    model,
    pngs,
)
