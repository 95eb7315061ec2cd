"""ONNX graphs whose products with kernels are those of 8-bit integers."""

import contextlib
import logging
import pathlib
import tempfile


def quantize(proto, calibration=None):
    """Returns an ONNX graph with kernels of 8 bits, a scale for each of their output channels.

    The products with kernels (patches, query, key, value, output, MLP, head, convolutions) become
    products of integers; products of two activations, softmax and normalisation stay in float32.

    Args:
        proto: `onnx.ModelProto` with the input `tensors`.
        calibration: Batches for `tensors`: what the kernels are multiplied with gets the range that
            is seen in them (static, QDQ).  None: the range of its own values when the graph runs
            (dynamic).

    Returns:
        Another `onnx.ModelProto`.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process as preprocess

    kernels = {array.name for array in proto.graph.initializer}
    nodes = [
        node.name
        for node in proto.graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv") and node.input[1] in kernels
    ]
    arguments = {
        "per_channel": True,
        "weight_type": quantization.QuantType.QInt8,
        "nodes_to_quantize": nodes,
    }
    with tempfile.TemporaryDirectory() as folder, _without_root_handler():
        path = pathlib.Path(folder, "int8.onnx")
        # Shapes alone: no operation is fused before its kernel is found.
        preprocess(proto, path, skip_optimization=True, skip_symbolic_shape=True)
        proto = onnx.load(path)
        if calibration is None:
            quantization.quantize_dynamic(proto, path, **arguments)
        else:
            quantization.quantize_static(
                *(proto, path, _Batches(calibration)),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                **arguments,
            )
        return onnx.load(path)


@contextlib.contextmanager
def _without_root_handler():
    """Keeps onnxruntime's `logging.info` from giving the root logger a handler for good."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Batches:
    """What onnxruntime calls a calibration data reader."""

    def __init__(self, batches):
        self._batches = iter(batches)

    def get_next(self):
        tensors = next(self._batches, None)
        return None if tensors is None else {"tensors": tensors}
