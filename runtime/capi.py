"""`sardonyx.capi`: where scripts look for ONNX Runtime's exception classes."""
from __future__ import annotations

import sys

from . import exceptions as onnxruntime_pybind11_state
from . import session as onnxruntime_inference_collection

_pybind_state = onnxruntime_pybind11_state
# `from sardonyx.capi.onnxruntime_pybind11_state import Fail` and `import sardonyx.capi` work as for ONNX Runtime.
_package = __name__.removesuffix(".runtime.capi")
sys.modules.setdefault(f"{_package}.capi", sys.modules[__name__])
sys.modules.setdefault(f"{_package}.capi.onnxruntime_pybind11_state", onnxruntime_pybind11_state)

__all__ = ["onnxruntime_inference_collection", "onnxruntime_pybind11_state"]
