"""NVIDIA GPUs through NVML, where its Python package and a driver are there."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

HOW = "run `pip install nvidia-ml-py`"


@dataclass(frozen=True)
class GpuReading:
    """One GPU now: MHz, °C, millijoules since the driver was loaded, why it is slowed down."""

    name: str
    clock_mhz: float | None = None
    temperature: float | None = None
    millijoules: float | None = None
    slowed: tuple[str, ...] = field(default_factory=tuple)


def gpus() -> tuple[list[GpuReading], str]:
    """Every GPU, and why none can be asked if so."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return [], f"the package nvidia-ml-py is not installed; {HOW}"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [], f"NVML finds no driver ({error})"
    try:
        count = nvml.nvmlDeviceGetCount()
        return [_read(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)], ""
    except nvml.NVMLError as error:
        return [], f"NVML cannot read the GPU ({error})"
    finally:
        nvml.nvmlShutdown()


def _read(nvml: Any, handle: Any) -> GpuReading:
    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *arguments)
        except (nvml.NVMLError, AttributeError):
            return None

    name = ask("nvmlDeviceGetName") or "GPU"
    return GpuReading(
        name.decode() if isinstance(name, bytes) else str(name),
        ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        ask("nvmlDeviceGetTotalEnergyConsumption"),
        _slowed(nvml, ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0),
    )


def _slowed(nvml: Any, reasons: int) -> tuple[str, ...]:
    """The reasons that are no part of normal work: idling and application clocks are."""
    names = {
        "nvmlClocksThrottleReasonHwSlowdown": "slowed by its hardware",
        "nvmlClocksThrottleReasonHwThermalSlowdown": "hot",
        "nvmlClocksThrottleReasonSwThermalSlowdown": "hot",
        "nvmlClocksThrottleReasonSwPowerCap": "at its power limit",
        "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
    }
    return tuple(
        dict.fromkeys(text for name, text in names.items() if reasons & getattr(nvml, name, 0))
    )
