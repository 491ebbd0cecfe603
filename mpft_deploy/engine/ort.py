"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Device, Precision
from mpft_deploy.cores import available_cores
from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.extras import how_to_install

PROVIDER = "CPUExecutionProvider"
PRECISIONS = ("fp32", "int8", "int8-static", "wide")


def why_not(built_for: Sequence[str] = ()) -> str | None:
    """Why ONNX Runtime cannot be used here, or None; its engines are built for any processor."""
    if importlib.util.find_spec("onnxruntime") is None:
        return f"the package onnxruntime is not installed; {how_to_install('export')}"
    return None


def why_not_precision(precision: Precision) -> str | None:
    """None: every x86 and Arm processor has instructions for PRECISIONS."""
    return None


def versions() -> dict[str, str]:
    """Versions of what an engine of this backend runs on."""
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}


INTEGER_PRODUCTS = ("avx_vnni", "avx512_vnni", "amx_int8")
"""x86-64 instructions that add products of u8 and s8 in 32 bits."""


def session_options(threads: int, *, spin: bool = True) -> Any:
    """SessionOptions for `threads`, 0 for all available cores; see `load`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # With it on, each size of batch has a block for all activations beside the arena, that stays:
    # 5 MB for one view.
    options.enable_mem_pattern = False
    if not set(INTEGER_PRODUCTS) & set(Device.here().instructions):
        # The other x86-64 instructions add pairs of u8 · s8 products in 16 bits, which saturate:
        # mean int8 logit error 0.43 instead of 0.13, at the same latency. This takes u8 · u8 there,
        # and would do so, at the speed of float32, where the better instructions are too.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def load(engine: bytes | memoryview, *, threads: int, spin: bool = True) -> OnnxRuntimeEngine:
    """Deserialise an ONNX file's bytes; `threads` 0 takes as many as this process may use."""
    return OnnxRuntimeEngine(bytes(engine), threads, spin)


def make_session(
    model: bytes, *, threads: int, spin: bool = True, profile: str | None = None
) -> Any:
    """An InferenceSession on exactly PROVIDER; `threads` 0 takes all available cores.

    Args:
        profile: how the name of the file begins that its profiler writes; None for no profiler.

    Raises:
        InputError: ONNX Runtime cannot load the model.
        EnvironmentLacksError: it chose another provider, as it does silently.
    """
    import onnxruntime

    options = session_options(threads, spin=spin)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
    except Exception as error:  # ONNX Runtime's errors have no common base but this
        raise InputError(f"ONNX Runtime cannot load this engine: {error}") from None
    if session.get_providers() != [PROVIDER]:
        raise EnvironmentLacksError(
            f"ONNX Runtime chose {session.get_providers()} instead of {PROVIDER}"
        )
    # It keeps the file's bytes, as large as the engine, to fall back to another provider by itself;
    # that never happens here.
    session._model_bytes = None
    return session


class OnnxRuntimeEngine:
    """An ONNX Runtime session; see `mpft_deploy.engine.Engine`."""

    def __init__(self, engine: bytes, threads: int, spin: bool = True) -> None:
        self._session = make_session(engine, threads=threads, spin=spin)

    def run(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        feeds = {"patches": patches, "positions": positions}
        logits: npt.NDArray[np.float32] = self._session.run(["logit"], feeds)[0]
        return logits
