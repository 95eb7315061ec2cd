"""Keras models -> ONNX and LiteRT files for other runtimes, run there before they are written.

Both take preprocessed images: decoding is the caller's; a JSON file beside them describes the rest,
and a file of NumPy alone does it.

Shapes: B batch, h w pixels of the model's input, C classes, D features.
"""

import dataclasses
import importlib
import json
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from keras_vit import files
from keras_vit.errors import ExportError
from keras_vit.layers.attention import whole_products
from keras_vit.layers.trainable import get_quantized
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import network_of
from keras_vit.serving import numpy_preprocess, onnx_int8
from keras_vit.serving.checks import TOLERANCES, reference_outputs
from keras_vit.serving.export import checked_class_names, checked_num_classes, describe
from keras_vit.serving.forward import tensorflow_forward
from keras_vit.serving.options import ServingOptions
from keras_vit.serving.segmentation import describe_segmentation

# The newest that tf2onnx writes without rewriting what the models use.
ONNX_OPSET = 17
LITERT_STORAGES = ("float32", "float16", "int8")
_ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
# An ONNX file is one protocol buffer.
_MAX_ONNX_BYTES = 2**31 - 2**20
_CHECKED_BATCH_SIZES = (1, 3)
SEGMENTATION_ONNX = "keras_vit.segmentation.onnx/1"


@dataclasses.dataclass(frozen=True)
class RuntimeReport:
    """What was seen of an exported file.

    Args:
        format: in words, with the opset or the storage.
        difference: of its logits from the model's, the largest, relative to the largest logit.
    """

    format: str
    difference: float


def export_onnx(model, path, *, quantization=None, calibration=None, class_names=None):
    """Writes a model as an ONNX file from `tensors` (B, h, w, 3) to `logits` and `features`.

    The batch is free.  `path.json` says what `assets/model.json` of a SavedModel says; the file
    itself holds it, too, as the metadata `keras_vit`.  `path.preprocess.py` makes pixels into
    `tensors` with NumPy alone.

    Args:
        model: as in `keras_vit.serving.export.export`.
        path: of the file; it is written under another name and renamed when it was seen to work.
        quantization: `"int8"` has kernels of 8 bits, and products of 8-bit integers; None float32.
        calibration: batches of preprocessed images, float32 (B, h, w, 3), for static int8: they
            decide the ranges of the activations.  None quantises these dynamically, by their own
            values when the model runs.
        class_names: C names; None takes the model's own.

    Returns:
        `RuntimeReport`.

    Raises:
        ImportError: if tf2onnx, onnx or onnxruntime is not installed.
        ValueError: for a model that cannot be exported, above 2 GiB, an unknown quantization, a
            calibration without one or without images, or a backend other than TensorFlow.
        ExportError: if onnxruntime gives other logits than the model.
    """
    if quantization not in (None, "int8"):
        raise ValueError(f"`quantization` must be 'int8' or None. Received: {quantization!r}")
    if calibration is not None and quantization is None:
        raise ValueError("`calibration` is of quantization='int8'. Received: images without")
    if calibration is not None:
        calibration = [np.asarray(batch, np.float32) for batch in calibration]
        if not calibration:
            raise ValueError("`calibration` must have images. Received: no batches")
    _imported(_ONNX_PACKAGES, "onnx")  # before anything takes time
    model = network_of(model)
    _check_num_bytes(model)
    function, _, description = _prepared(model, class_names, "keras_vit.onnx/1")
    proto = _onnx_proto(function)
    storage, samples = quantization or "float32", _noise(model)
    if quantization is not None:
        proto = onnx_int8.quantize(proto, calibration)
        samples = samples if calibration is None else calibration
        description = {**description, "storage": storage}
    data = _onnx_bytes(proto, description)
    difference = _check(
        lambda tensors: reference_outputs(model, tensors),
        *(onnx_runner(data), samples, TOLERANCES[storage]),
    )
    _write(path, data, description)
    scales = "" if quantization is None else f", int8, {'static' if calibration else 'dynamic'}"
    return RuntimeReport(f"ONNX, opset {ONNX_OPSET}{scales}", difference)


def export_segmentation_onnx(model, path, *, class_names=None):
    """Writes a segmentation model as an ONNX file: windows in, the logits of their pixels out.

    It takes `tensors` (B, h, w, 3), of the model's window, and gives `logits` (B, h, w, K) and
    their highest, `mask`, uint8 (B, h, w); the batch is free.  `path.preprocess.py` cuts a picture
    of any size into windows and puts their logits together to its mask, with NumPy alone, as
    evaluation does; `path.json` and the file's metadata describe the model.

    Args:
        model: `keras_vit.models.segmentation.SegmentationModel`.
        path: of the file; it is written under another name and renamed when it was seen to work.
        class_names: K names; None takes the model's own.

    Returns:
        `RuntimeReport`.

    Raises:
        ImportError, ValueError, ExportError: as `export_onnx`; also for a number of names that is
            not K.
    """
    _imported(_ONNX_PACKAGES, "onnx")
    _check_backend()
    _check_num_bytes(model)
    description = {
        **describe_segmentation(model, class_names, SEGMENTATION_ONNX),
        "window_stride": list(model.window_stride),
        "storage": "float32",
    }
    functions, _ = tensorflow_forward(model, ServingOptions())

    def compute(tensors):
        with whole_products():
            logits = tf.identity(functions["logits"](tensors), name="logits")
        return {"logits": logits, "mask": tf.cast(tf.argmax(logits, -1), tf.uint8, name="mask")}

    specification = _specification(model)
    function = tf.function(compute, input_signature=[specification], autograph=False)
    data = _onnx_bytes(_onnx_proto(function), description)

    def run(tensors):
        outputs = onnx_runner(data)(tensors)
        if not np.array_equal(outputs["mask"], outputs["logits"].argmax(-1)):
            raise ExportError("the masks are not those of the logits, nothing was written")
        return outputs

    difference = _check(
        lambda tensors: {"logits": keras.ops.convert_to_numpy(model(tensors, training=False))},
        *(run, _noise(model), TOLERANCES["float32"]),
    )
    _write(path, data, description)
    return RuntimeReport(f"ONNX, opset {ONNX_OPSET}", difference)


def _check_num_bytes(model):
    num_bytes = sum(4 * int(np.prod(variable.shape)) for variable in model.variables)
    if num_bytes > _MAX_ONNX_BYTES:
        raise ValueError(
            f"an ONNX file may have at most 2 GiB. Received: {model.name!r} with {num_bytes} bytes "
            "of weights; export a SavedModel"
        )


def _onnx_proto(function):
    """The ONNX model of a TensorFlow function of `tensors`, with a free batch."""
    _, _, tf2onnx = _imported(_ONNX_PACKAGES, "onnx")
    proto, _ = tf2onnx.convert.from_function(
        function,
        input_signature=function.input_signature,
        opset=ONNX_OPSET,
        custom_op_handlers={"Erfc": (_erfc_as_erf, [])},
    )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return proto


def _onnx_bytes(proto, description):
    import onnx

    onnx.helper.set_model_props(proto, {"keras_vit": json.dumps(description)})
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def onnx_runner(model):
    """A function from tensors, float32 (B, h, w, 3), to the outputs of an ONNX file by name.

    Args:
        model: path of the file, or its bytes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda tensors: dict(zip(names, session.run(None, {"tensors": tensors}), strict=True))


def _erfc_as_erf(context, node, name, args):
    """1 - erf(x) for erfc(x), which exact GELU is made of and which ONNX does not have."""
    output, shape = node.output[0], context.get_shape(node.output[0])
    dtype, outputs = context.get_dtype(output), node.output
    (operand,) = node.input
    context.remove_node(node.name)
    one = context.make_const(f"{node.name}_one", np.array(1, np.float32)).output[0]
    erf = context.make_node("Erf", [operand], dtypes=[dtype], shapes=[shape]).output[0]
    context.make_node(
        "Sub", [one, erf], name=node.name, outputs=outputs, dtypes=[dtype], shapes=[shape]
    )


def export_litert(model, path, *, storage="float32", class_names=None):
    """Writes a model as a LiteRT (TensorFlow Lite) file with the signature `serving_default`.

    It takes `tensors` (B, h, w, 3) and gives `logits` and `features`; the batch is free.
    `path.json` says what `assets/model.json` of a SavedModel says, and `path.preprocess.py` makes
    pixels into `tensors` with NumPy alone.

    Args:
        model: as in `keras_vit.serving.export.export`.
        path: of the file; it is written under another name and renamed when it was seen to work.
        storage: `"float32"`; `"float16"` halves the weights; `"int8"` keeps 8 bits of them and
            quantises what they are multiplied with on the way.
        class_names: C names; None takes the model's own.

    Returns:
        `RuntimeReport`.

    Raises:
        ValueError: for an unknown storage, a model that cannot be exported, or a backend other than
            TensorFlow.
        ExportError: if the interpreter gives other logits than the model.
    """
    if storage not in LITERT_STORAGES:
        raise ValueError(f"`storage` must be one of {LITERT_STORAGES}. Received: {storage!r}")
    model = network_of(model)
    function, variables, description = _prepared(model, class_names, "keras_vit.litert/1")
    module = tf.Module()
    module.function, module.model_variables = function, variables
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=function)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if storage != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if storage == "float16":
            converter.target_spec.supported_types = [tf.float16]
        data = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=data)  # its runner works as long as it is kept
    runner = interpreter.get_signature_runner()
    difference = _check(
        lambda tensors: reference_outputs(model, tensors),
        *(lambda tensors: runner(tensors=tensors), _noise(model), TOLERANCES[storage]),
    )
    _write(path, data, {**description, "storage": storage})
    return RuntimeReport(f"LiteRT, {storage} weights", difference)


def _imported(names, extra):
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ImportError(
            f"this format needs {', '.join(names)}; "
            f"`pip install 'keras-vision-transformer[{extra}]'` ({error})"
        ) from error


def _prepared(model, class_names, format):
    """The model as one TensorFlow function, its variables, and what is said about it."""
    if get_quantized(model):
        raise ValueError(
            "ONNX and LiteRT have kernels of 8 bits of their own. Received: the quantised "
            f"{model.name!r}; export the model in floats with `quantization='int8'`"
        )
    _check_backend()
    names = checked_class_names(class_names, model, checked_num_classes(model))
    functions, variables = tensorflow_forward(model, ServingOptions())
    specification = _specification(model)

    def compute(tensors):
        with whole_products():
            # Named by an operation of their own: converters name outputs by what makes them.
            return {name: tf.identity(f(tensors), name=name) for name, f in functions.items()}

    description = {**describe(model, names, None, {}, ["serving_default"]), "format": format}
    function = tf.function(compute, input_signature=[specification], autograph=False)
    return function, variables, description


def _check_backend():
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"this format is written by the TensorFlow backend. Received: {backend!r}; set "
            "KERAS_BACKEND=tensorflow and load the same model file"
        )


def _specification(model):
    shape = (None, *preprocessing_of(model).image_size, 3)
    return tf.TensorSpec(shape, tf.float32, name="tensors")


def _noise(model):
    """Batches of two sizes, float32 (B, h, w, 3), the same at each call."""
    rng, size = np.random.default_rng(0), preprocessing_of(model).image_size
    return [rng.uniform(-1, 1, (n, *size, 3)).astype(np.float32) for n in _CHECKED_BATCH_SIZES]


def _check(reference, run, samples, tolerance):
    """Compares a runtime's outputs with the model's; returns the largest relative difference.

    Args:
        reference: Function from tensors to the model's outputs by name.
        run: The runtime's.
        samples: Batches of tensors.
        tolerance: Of the largest number of an output.

    Raises:
        ExportError: for a difference that is larger.
    """
    largest = 0.0
    for tensors in samples:
        received = run(tensors)
        for name, expected in reference(tensors).items():
            scale = float(np.max(np.abs(expected)))
            difference = float(np.max(np.abs(received[name].astype(np.float64) - expected)))
            if received[name].shape != expected.shape or not difference <= tolerance * scale:
                raise ExportError(
                    f"the runtime does not reproduce the model, nothing was written: {name} "
                    f"differs by {difference:.3g}, and {tolerance:.0e} of the largest, "
                    f"{scale:.3g}, is allowed"
                )
            if scale:
                largest = max(largest, difference / scale)
    return largest


def _write(path, data, description):
    """Writes the description, the preprocessing and then the file, each of them whole."""
    text = json.dumps(description, indent=2) + "\n"
    files.write_whole(f"{path}.json", text)
    program = pathlib.Path(numpy_preprocess.__file__).read_text(encoding="utf-8")
    files.write_whole(f"{path}.preprocess.py", program)
    files.write_whole(path, data)
