"""What the functions of an export compute, and what they refuse."""

import concurrent.futures
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_vit
from keras_vit.data.images.decode import decode_image
from keras_vit.data.images.preprocess import evaluation_image
from keras_vit.serving.options import ServingOptions
from keras_vit.serving.signatures import ServingModule

# float32: the graph fuses operations that `predict` does not.
TOLERANCE = 1e-5


def assert_close(received, expected):
    scale = np.max(np.abs(expected))
    assert scale > 0.1
    np.testing.assert_allclose(received, expected, rtol=0, atol=TOLERANCE * scale)


def test_serving_default_bytes_give_logits_of_predict(
    model, exported, pngs, signatures, expected_logits
):
    answer = signatures(exported)["serving_default"](image_bytes=tf.constant(pngs))
    logits = expected_logits(model, pngs)
    assert_close(answer["scores"], logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    order = np.argsort(-logits, axis=-1)[:, :3]
    np.testing.assert_array_equal(answer["class_ids"], order)
    np.testing.assert_allclose(
        answer["probabilities"], np.take_along_axis(probabilities, order, axis=-1), rtol=1e-4
    )
    names = [[name.decode() for name in row] for row in answer["classes"].numpy()]
    assert names == [[model.class_names[i] for i in row] for row in order]


def test_serving_default_jpeg_gives_logits_of_predict(
    model, exported, images, signatures, expected_logits
):
    jpeg = tf.io.encode_jpeg(images[0]).numpy()
    answer = signatures(exported)["serving_default"](image_bytes=tf.constant([jpeg]))
    assert_close(answer["scores"], expected_logits(model, [jpeg]))


def test_images_and_tensors_give_logits_of_predict(
    model, exported, images, pngs, signatures, expected_logits
):
    functions = signatures(exported)
    logits = expected_logits(model, pngs)
    answer = functions["images"](images=tf.constant(images[2][np.newaxis]))
    assert_close(answer["scores"], logits[2:])
    tensors = tf.stack([evaluation_image(image, model.preprocessing) for image in images])
    assert_close(functions["tensors"](tensors=tensors)["logits"], logits)


def test_preprocessing_in_the_graph_is_that_of_evaluation_bit_for_bit(
    model, exported, pngs, signatures
):
    functions = signatures(exported)
    pixels = [evaluation_image(decode_image(png), model.preprocessing) for png in pngs]
    answer = functions["serving_default"](image_bytes=tf.constant(pngs))
    logits = functions["tensors"](tensors=tf.stack(pixels))["logits"]
    np.testing.assert_array_equal(answer["scores"], logits)


def test_features_are_those_of_pre_logits(model, exported, pngs, signatures):
    pixels = np.stack([evaluation_image(decode_image(png), model.preprocessing) for png in pngs])
    expected = keras.Model(model.input, model.get_layer("pre_logits").output)(pixels)
    answer = signatures(exported)["features"](image_bytes=tf.constant(pngs))
    assert_close(answer["features"], keras.ops.convert_to_numpy(expected))


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photograph(mode="RGB"):
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((56, 40), Image.Resampling.BICUBIC).convert(mode)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    return encode(photograph(), "JPEG", exif=exif)


def deep_png():
    values = np.random.default_rng(0).integers(0, 65536, (24, 20, 3), dtype=np.uint16)
    return tf.io.encode_png(values).numpy()


PHOTOGRAPHS = {
    "jpeg_444": lambda: encode(photograph(), "JPEG", subsampling=0),
    "jpeg_422": lambda: encode(photograph(), "JPEG", subsampling=1),
    "jpeg_420": lambda: encode(photograph(), "JPEG", subsampling=2),
    "jpeg_progressive": lambda: encode(photograph(), "JPEG", progressive=True),
    "jpeg_grey": lambda: encode(photograph("L"), "JPEG"),
    "jpeg_cmyk": lambda: encode(photograph("CMYK"), "JPEG"),
    "jpeg_rotated": rotated,
    "png_grey": lambda: encode(photograph("L"), "PNG"),
    "png_grey_alpha": lambda: encode(photograph("LA"), "PNG"),
    "png_palette": lambda: encode(photograph().quantize(16), "PNG"),
    "png_alpha": lambda: encode(photograph("RGBA"), "PNG"),
    "png_16_bit": deep_png,
}


def test_serving_default_every_kind_of_file_gives_logits_of_predict(
    model, exported, signatures, expected_logits
):
    encoded = [make() for make in PHOTOGRAPHS.values()]
    scores = signatures(exported)["serving_default"](image_bytes=tf.constant(encoded))["scores"]
    assert_close(scores, expected_logits(model, encoded))
    # The photographs differ by little and in known ways; all must be the same photograph.
    assert len(np.unique(np.argmax(scores.numpy()[:7], axis=-1))) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        {"name": "R+ViT-Ti/16", "depth": 1, "patch_size": 1},
        {"name": "BiT-R50x1", "stage_depths": (1, 1)},
    ],
)
def test_export_hybrid_and_bit_reproduce_predict(
    make_model, overrides, pngs, tmp_path, signatures, expected_logits
):
    model = make_model(**overrides)
    encoded = [*pngs, *(make() for make in PHOTOGRAPHS.values())]
    answer = signatures(keras_vit.export(model, tmp_path))["serving_default"](
        image_bytes=tf.constant(encoded)
    )
    assert_close(answer["scores"], expected_logits(model, encoded))


@pytest.mark.parametrize(
    "shape", [(), (3,), (32, 32), (32, 32, 3), (1, 33, 32, 3), (1, 1, 32, 32, 3)]
)
def test_tensors_wrong_shape_is_an_error_and_no_abort(exported, shape, signatures):
    function = signatures(exported)["tensors"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        function(tensors=tf.zeros(shape))


@pytest.mark.parametrize("shape", [(), (32, 32, 3), (1, 32, 32, 4), (1, 1, 32, 32, 3)])
def test_images_wrong_shape_is_an_error_and_no_abort(exported, shape, signatures):
    function = signatures(exported)["images"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        function(images=tf.zeros(shape, tf.uint8))


def test_serving_default_wrong_rank_is_an_error(exported, pngs, signatures):
    function = signatures(exported)["serving_default"]
    for value in (pngs[0], [[pngs[0]]]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible"):
            function(image_bytes=tf.constant(value))


def test_empty_batch_is_an_error(exported, signatures):
    functions = signatures(exported)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must hold 1 to 256 images, it has 0"):
        functions["tensors"](tensors=tf.zeros((0, 32, 32, 3)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must hold 1 to 256 images, it has 0"):
        functions["serving_default"](image_bytes=tf.constant([], tf.string))


def test_serving_default_bad_images_are_named_by_index(exported, pngs, signatures):
    function = signatures(exported)["serving_default"]
    message = "image 1: a GIF must have a picture .*; image 3: .* it is empty"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        function(image_bytes=tf.constant([pngs[0], b"GIF89a", pngs[1], b""]))


def test_attention_is_that_of_the_last_block(model, marked, pngs, signatures):
    answer = signatures(marked)["attention"](image_bytes=tf.constant(pngs))
    pixels = np.stack([evaluation_image(decode_image(png), model.preprocessing) for png in pngs])
    (expected,) = model.attention_weights(pixels, blocks=[-1])
    np.testing.assert_allclose(answer["attention"], expected, atol=TOLERANCE)
    assert answer["attention"].shape == (3, 3, 5, 5)


def test_tensors_not_finite_is_an_error(exported, signatures):
    function = signatures(exported)["tensors"]
    for value in (np.nan, np.inf, -np.inf):
        tensors = np.zeros((2, 32, 32, 3), np.float32)
        tensors[1, 5, 6, 2] = value
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be finite"):
            function(tensors=tf.constant(tensors))


def test_signatures_too_many_images_is_an_error(marked, pngs, signatures):
    functions = signatures(marked)
    message = "must hold 1 to 64 images, it has 65"
    for name, request in {
        "serving_default": {"image_bytes": tf.constant([pngs[0]] * 65)},
        "images": {"images": tf.zeros((65, 8, 8, 3), tf.uint8)},
        "tensors": {"tensors": tf.zeros((65, 32, 32, 3))},
    }.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            functions[name](**request)


def test_images_too_large_or_without_pixels_is_an_error(marked, signatures):
    function = signatures(marked)["images"]
    for shape in ((1, 100, 51, 3), (2, 0, 7, 3), (1, 0, 0, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must have 1 to 5000 pixels"):
            function(images=tf.zeros(shape, tf.uint8))
    assert function(images=tf.zeros((1, 100, 50, 3), tf.uint8))["scores"].shape == (1, 4)


def test_serving_default_too_many_pixels_are_not_decoded(marked, signatures):
    bomb = encode(Image.new("1", (20000, 20000)), "PNG")
    answer = signatures(marked)["serving_default"](image_bytes=tf.constant([bomb]))
    assert b"at most 5000 pixels, its header says 20000 x 20000" in answer["error"].numpy()[0]


def test_thin_image_is_refused_where_its_short_side_is_resized(make_model):
    model = make_model("ViT-Ti/16", depth=1)
    preprocessing = keras_vit.Preprocessing(image_size=(32, 32), resize="short_side")
    functions = {"logits": lambda tensors: model(tensors, training=False)}
    thin = tf.io.encode_png(np.zeros((1, 60000, 3), np.uint8))  # 61 million pixels at 32 rows
    fine = tf.io.encode_png(np.zeros((30, 60, 3), np.uint8))
    names = [str(i) for i in range(4)]
    module = ServingModule(
        functions, [], preprocessing, names, ServingOptions(on_bad_image="mark", top_k=2)
    )
    answer = module.endpoints["serving_default"](tf.stack([thin, fine]))
    first, second = (error.decode() for error in answer["error"].numpy())
    assert "once its short side is 32, it is 1 x 60000" in first
    assert second == ""
    with pytest.raises(tf.errors.InvalidArgumentError, match="short side is 32, it is 1 x 60000"):
        module.endpoints["images"](tf.zeros((1, 1, 60000, 3), tf.uint8))


BAD = (b"", b"hello", b"GIF89a", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\xff\x0a\0\0")


@pytest.mark.parametrize("num_bad", [1, 8, 63, 64])
def test_marked_bad_images_change_no_neighbour(marked, pngs, signatures, num_bad):
    functions = signatures(marked)
    clean = [pngs[i % 3] for i in range(64)]
    places = np.random.default_rng(num_bad).permutation(64)[:num_bad]
    batch = list(clean)
    for i, place in enumerate(places):
        batch[place] = (*BAD, pngs[0][:-9])[i % 7]
    good = np.setdiff1d(np.arange(64), places)
    for name in ("serving_default", "features", "attention"):
        expected = functions[name](image_bytes=tf.constant(clean))
        answer = functions[name](image_bytes=tf.constant(batch))
        errors = answer.pop("error").numpy()
        assert [i for i in range(64) if errors[i]] == sorted(places)
        for output, value in answer.items():
            value = value.numpy()
            np.testing.assert_array_equal(value[good], expected[output].numpy()[good])
            neutral = {"class_ids": -1, "classes": b""}.get(output, 0)
            assert (value[places] == neutral).all()


def test_logits_of_an_image_do_not_depend_on_neighbours_threads_and_order(marked, signatures):
    function = signatures(marked)["tensors"]
    tensors = np.random.default_rng(0).uniform(-1, 1, (64, 32, 32, 3)).astype(np.float32)

    def logits(size, order):
        batches = [tensors[order][i : i + size] for i in range(0, 64, size)]
        answers = [function(tensors=tf.constant(batch))["logits"] for batch in batches]
        return np.concatenate(answers)[np.argsort(order)]

    orders = [np.random.default_rng(i).permutation(64) for i in range(4)]
    reference = logits(1, np.arange(64))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for other in pool.map(logits, [1] * 4, orders):
            np.testing.assert_array_equal(other, reference)
        for size in (2, 7, 32, 64):
            first, *again = pool.map(logits, [size] * 4, [orders[0]] * 4)
            for other in again:
                np.testing.assert_array_equal(other, first)
            # By the number of rows, and by the place among them, libraries choose their kernels.
            assert_close(logits(size, orders[1]), reference)


def test_signatures_have_one_trace_for_all_batch_sizes(model, tmp_path, make_model):
    traces = []

    def forward(tensors):
        traces.append(tensors.shape)
        return tf.zeros((tf.shape(tensors)[0], 4))

    options = ServingOptions(top_k=2)
    module = ServingModule({"logits": forward}, [], model.preprocessing, list("abcd"), options)
    for size in (1, 2, 3, 8):
        module.endpoints["tensors"](tf.zeros((size, 32, 32, 3)))
    assert len(traces) == 1
