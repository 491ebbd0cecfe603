"""What this device does at most: bandwidth by a large copy, arithmetic by a large matmul.

After Williams, Waterman and Patterson (2009): no layer is faster than its operations at the one and
its bytes at the other allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.cores import available_cores
from mpft_deploy.profile.records import Roof

COPY_BYTES = 128 * 2**20
SIDE = 768  # of the matmul; its matrices stay in the cache
REPEATS, SECONDS = 5, 0.4

OVERHEAD = 0.1
"""A layer below this share of its roof is bound by neither."""


def measure_roof(backend: str, threads: int) -> Roof:
    """Measure with as many threads as the engine has; `backend` runs the matmuls."""
    threads = threads or available_cores()
    runner = _openvino if backend == "openvino" else _onnxruntime
    models = {"fp32": _matmul(TensorProto.FLOAT), "int8": _matmul(TensorProto.INT8)}
    if backend == "openvino":
        models["bf16"] = _matmul(TensorProto.BFLOAT16)
    operations = 2 * SIDE**3
    return Roof(
        gigabytes_per_second=_copy(threads),
        gigaflops={
            name: operations / _best(runner(model, threads)) / 1e9 for name, model in models.items()
        },
    )


def bound(
    flops: int, moved: int, milliseconds: float, precision: str, roof: Roof
) -> tuple[str, float]:
    """What bounds a layer, and the share of its roof that it attains (above 1: from the cache)."""
    if milliseconds <= 0:
        return "", 0.0
    peak = roof.gigaflops.get(precision, roof.gigaflops["fp32"])
    arithmetic = flops / peak / 1e6
    memory = moved / roof.gigabytes_per_second / 1e6
    attained = max(arithmetic, memory) / milliseconds
    if attained < OVERHEAD:
        return "overhead", attained
    return ("arithmetic" if arithmetic >= memory else "memory"), attained


def _best(run: Callable[[], object]) -> float:
    """Seconds of the quickest run: the roof is what the device can do."""
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < REPEATS or time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _copy(threads: int) -> float:
    """Gigabytes a second, read and written together, of a copy that no cache holds."""
    source = np.ones(COPY_BYTES // 8, np.float64)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            # NumPy lets go of the interpreter while it copies.
            list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))

        return 2 * source.nbytes / _best(run) / 1e9


def _matmul(kind: int) -> bytes:
    """f32 [SIDE, SIDE] times a constant of its size, in the way that exports of `kind` write it."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w")]
    if kind == TensorProto.INT8:
        constants = [
            numpy_helper.from_array(rng.integers(-127, 128, (SIDE, SIDE), np.int8), "w"),
            numpy_helper.from_array(np.float32(0.02), "s"),
            numpy_helper.from_array(np.int8(0), "z"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["m"]),
            helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
            helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["y"]),
        ]
    elif kind == TensorProto.BFLOAT16:
        nodes = [
            helper.make_node("Cast", ["x"], ["xb"], to=kind),
            helper.make_node("Cast", ["w"], ["wb"], to=kind),
            helper.make_node("MatMul", ["xb", "wb"], ["m"]),
            helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
        ]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "xy"]
    graph = helper.make_graph(nodes, "roof", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _input() -> Any:
    return np.random.default_rng(1).normal(0, 1, (SIDE, SIDE)).astype(np.float32)


def _onnxruntime(model: bytes, threads: int) -> Callable[[], object]:
    from mpft_deploy.engine.ort import make_session

    session, feeds = make_session(model, threads=threads), {"x": _input()}
    return lambda: session.run(None, feeds)


def _openvino(model: bytes, threads: int) -> Callable[[], object]:
    from mpft_deploy.engine.openvino import compile_engine

    request, feeds = (
        compile_engine(model, threads=threads).create_infer_request(),
        {"x": _input()},
    )
    return lambda: request.infer(feeds, share_inputs=True)
