"""Broken ONNX models, and the check that one is refused within its own size."""

import tracemalloc

import numpy as np
import onnx
import pytest

from gpulstm.interop.onnx import from_onnx
from tests.onnx_cases import case, stored_model

ALLOWANCE = 256 * 1024
"""Bytes that Python itself may take: modules' caches, messages, a few small arrays."""


def refused(source, says, times=1):
    """Raises the expected error, within so many times the file's own size."""
    size = len(source) if isinstance(source, bytes) else 0
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=says):
            from_onnx(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= times * size + ALLOWANCE


def graph_with(nodes, tensors=None, opset=22):
    """A model whose LSTM node has its W from those nodes."""
    model = stored_model(case(dtype="float32"), opset=opset)
    model.graph.initializer[0].name = "kept"
    for name, each in (tensors or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(each), name))
    model.graph.node.extend(nodes)
    return model.SerializeToString()
