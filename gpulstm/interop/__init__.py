"""Weights in and out of other frameworks, one module each; none is imported before it is asked for.

from gpulstm.interop.torch import LSTM, to_torch
from gpulstm.interop.keras import from_keras, to_keras
from gpulstm.interop.onnx import from_onnx, run_node, to_onnx
from gpulstm.interop.safetensors import load, save      # also gl.load and gl.save
"""
