"""A CUDA device, our kernels on it and TensorRT, as far as engines use them, on the host.

Streams are queues that run when they are waited for, captures record and graphs replay, so what
forgets to wait, captures too early, or mixes up addresses shows.
"""

from __future__ import annotations

import sys

from mpft_deploy.kernels import cuda as library
from simulated_gpu.by_pycuda import PyCuda
from simulated_gpu.device import Cuda, DeviceArray, Error, Stream
from simulated_gpu.kernels import HostKernels, Kernels
from simulated_gpu.tensorrt import Context, PlanEngine, Runtime, TensorRT

__all__ = [
    "Context",
    "Cuda",
    "DeviceArray",
    "Error",
    "HostKernels",
    "PlanEngine",
    "Runtime",
    "Stream",
    "install",
]


def install(monkeypatch, package="cuda-python", capability=(8, 7), **plans):
    """A simulated device with TensorRT and our kernels, by one of the two packages.

    plans: of `TensorRT`.
    """
    cuda = Cuda(capability)
    cuda.python = package == "cuda-python"
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda if cuda.python else None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", PyCuda(cuda))
    monkeypatch.setitem(sys.modules, "tensorrt", TensorRT(cuda, **plans))
    cuda.kernels = Kernels(cuda)
    monkeypatch.setattr(library, "load_library", lambda: cuda.kernels)
    return cuda
