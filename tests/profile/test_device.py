"""What a device tells of itself: energy counters, control groups, GPUs; from files or fakes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from telling import eventually

from mpft_deploy.cores import cpu_limit
from mpft_deploy.profile import nvml, system
from mpft_deploy.profile.energy import Rails, Rapl, energy, find_meter


def file(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_rapl_counts_and_wraps(tmp_path: Path) -> None:
    counter = file(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "9000000")
    file(tmp_path, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "10000000")
    meter, why = find_meter(tmp_path)
    assert isinstance(meter, Rapl)
    assert why == ""
    meter.start()
    counter.write_text("9500000")
    assert meter.stop() == pytest.approx(0.5)
    counter.write_text("1000000")  # past the end of its range
    assert meter.stop() == pytest.approx(2.0)
    record = energy(meter, "", 2.0, seconds=4.0, views=100)
    assert (record.millijoules_per_view, record.watts) == (20.0, 0.5)


def test_a_rail_is_read_and_summed(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    file(tmp_path, f"{folder}/in1_label", "VDD_IN\n")
    file(tmp_path, f"{folder}/in1_input", "5000")  # 5 V
    file(tmp_path, f"{folder}/curr1_input", "2000")  # 2 A
    meter, _ = find_meter(tmp_path)
    assert isinstance(meter, Rails)
    begin = time.perf_counter()
    meter.start()
    eventually(lambda: meter._joules > 0)
    joules = meter.stop()
    seconds = time.perf_counter() - begin
    assert joules is not None
    assert 0 < joules <= 10 * seconds


def test_no_meter_says_why(tmp_path: Path) -> None:
    meter, why = find_meter(tmp_path)
    assert meter is None
    assert "virtual machines" in why
    assert energy(None, why, None, 1.0, 1).why_not == why
    file(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "no number")
    assert "root alone" in find_meter(tmp_path)[1]


@pytest.mark.parametrize(
    ("group", "files", "cores", "megabytes"),
    [
        ("0::/job", {"job/cpu.max": "150000 100000", "job/memory.max": "500000000"}, 1.5, 500),
        ("0::/job", {"job/cpu.max": "max 100000", "job/memory.max": "max"}, None, None),
        (
            "4:memory:/job\n1:cpu,cpuacct:/job",
            {
                "cpu/job/cpu.cfs_quota_us": "50000",
                "cpu/job/cpu.cfs_period_us": "100000",
                "memory/job/memory.limit_in_bytes": "1000000000",
            },
            0.5,
            1000,
        ),
        ("", {}, None, None),
    ],
)
def test_limits_of_the_control_group(
    tmp_path: Path, group: str, files: dict[str, str], cores: float, megabytes: float
) -> None:
    file(tmp_path, "proc/self/cgroup", group)
    for name, text in files.items():
        file(tmp_path, f"sys/fs/cgroup/{name}", text)
    assert cpu_limit(tmp_path) == cores
    assert system.memory_limit_mb(tmp_path) == megabytes


def test_governors_and_clocks(tmp_path: Path) -> None:
    for core, mhz in ((0, 1000), (1, 3000)):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        file(tmp_path, f"{folder}/scaling_governor", "powersave\n")
        file(tmp_path, f"{folder}/scaling_cur_freq", f"{mhz * 1000}\n")
    assert system.governor(tmp_path, [0, 1]) == "powersave"
    assert system.clock_mhz(tmp_path, [0, 1]) == 2000
    assert system.clock_mhz(tmp_path, [2]) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_process_is_seen() -> None:
    names = [name for number, name in system.process_seconds(system.ROOT)]
    assert names
    before = system.core_seconds(system.ROOT, system.own_cores())
    own = time.process_time()
    while time.process_time() - own < 0.3:
        np.ones(1000).sum()
    after = system.core_seconds(system.ROOT, system.own_cores())
    assert before is not None
    assert after is not None
    assert after[0] - before[0] >= 0.2
    peak = system.resident_mb()
    assert peak is not None
    assert peak > 20


class Nvml(SimpleNamespace):
    """The part of NVML's Python package that is called."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20  # noqa: N815
    driver = True

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def __getattr__(self, name: str) -> object:
        answers: dict[str, object] = {
            "nvmlShutdown": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": b"Some GPU",
            "nvmlDeviceGetClockInfo": 1500,
            "nvmlDeviceGetTemperature": 90,
            "nvmlDeviceGetTotalEnergyConsumption": 5000,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x20 | 0x1,
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *arguments: answers[name]


def test_gpus_tell_clock_heat_and_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    [gpu], why = nvml.gpus()
    assert (gpu.name, gpu.clock_mhz, gpu.temperature, gpu.slowed) == (
        "Some GPU",
        1500,
        90,
        ("hot",),
    )
    assert why == ""
    meter, _ = find_meter(gpu=True)
    assert meter is not None
    meter.start()
    assert meter.stop() == 0
    fake.driver = False
    assert nvml.gpus() == ([], "NVML finds no driver (Driver Not Loaded)")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in nvml.gpus()[1]
