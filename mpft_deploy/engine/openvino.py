"""OpenVINO on the CPU: the quickest there for bfloat16 and statically quantised graphs."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Precision
from mpft_deploy.cores import available_cores
from mpft_deploy.errors import InputError
from mpft_deploy.extras import how_to_install

# Without `int8`: OpenVINO has no quick kernel for activations that are scaled as the engine runs.
PRECISIONS = ("fp32", "bf16", "int8-static", "int8-static+bf16")


def why_not(built_for: Sequence[str] = ()) -> str | None:
    """Why OpenVINO cannot be used here, or None; its engines are built for any processor."""
    if importlib.util.find_spec("openvino") is None:
        return f"the package openvino is not installed; {how_to_install('openvino')}"
    try:
        versions()
    except (ImportError, OSError) as error:
        return f"the package openvino cannot be loaded ({error}); {how_to_install('openvino')}"
    return None


@lru_cache(maxsize=1)
def capabilities() -> tuple[str, ...]:
    """Number types that OpenVINO has quick kernels for on this processor, such as BF16."""
    import openvino

    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def why_not_precision(precision: Precision) -> str | None:
    """Why this processor is no place for a precision, or None; the backend must be here."""
    for kind, capability in (("bfloat16", "BF16"), ("float16", "FP16"), ("int8", "INT8")):
        if kind in precision.types and capability not in capabilities():
            return (
                f"this processor has no instructions for {kind}: OpenVINO would emulate them, "
                f"dozens of times slower (it has {', '.join(capabilities())})"
            )
    return None


def versions() -> dict[str, str]:
    """Versions of what an engine of this backend runs on."""
    import openvino

    return {"openvino": openvino.__version__}


def load(engine: bytes | memoryview, *, threads: int, spin: bool = True) -> OpenVinoEngine:
    """Compile an ONNX file's bytes; `threads` 0 takes as many as this process may use.

    How its threads wait is OpenVINO's own affair: `spin` makes no difference.

    Raises:
        InputError: OpenVINO cannot load the model.
    """
    del spin
    return OpenVinoEngine(bytes(engine), threads)


def compile_engine(engine: bytes, *, threads: int, profile: bool = False) -> Any:
    """A compiled model of an ONNX file's bytes.

    Args:
        profile: whether its requests count the time of each operator.

    Raises:
        InputError: OpenVINO cannot load the model.
    """
    import openvino

    core = openvino.Core()
    settings = {
        # Else a processor with bfloat16 would take it for every layer, which no certificate that
        # was made elsewhere knows of. Precision comes from the graph alone.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or available_cores(),
        # Pinned threads of two engines would share one core while another idles.
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": profile,
    }
    try:
        return core.compile_model(core.read_model(engine), "CPU", settings)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot load this engine: {error}") from None


class OpenVinoEngine:
    """A compiled model and its one request; see `mpft_deploy.engine.Engine`."""

    def __init__(self, engine: bytes, threads: int) -> None:
        self._model = compile_engine(engine, threads=threads)
        self._request = self._model.create_infer_request()
        self._lock = threading.Lock()  # a request runs once at a time

    def run(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        with self._lock:
            self._request.infer({"patches": patches, "positions": positions})
            logits: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
        return logits

    def run_marked(
        self,
        patches: npt.NDArray[np.uint8],
        positions: npt.NDArray[np.int32],
        mark: Callable[[], None],
    ) -> npt.NDArray[np.float32]:
        """As `run`; calls `mark` after copying in and after the network, before copying out."""
        with self._lock:
            for name, value in (("patches", patches), ("positions", positions)):
                tensor = self._request.get_tensor(name)
                tensor.shape = value.shape
                tensor.data[...] = value
            mark()
            self._request.infer()
            mark()
            logits: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
        return logits
