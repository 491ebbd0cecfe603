"""The machine and the software that a result comes from."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np

import mpft_deploy
from mpft_deploy.bundle import Bundle, Device
from mpft_deploy.cores import ROOT, cpu_limit
from mpft_deploy.engine import backend_of
from mpft_deploy.profile import nvml, system
from mpft_deploy.profile.records import Environment


def describe_environment(bundle: Bundle) -> Environment:
    """Read it now."""
    root, cores = ROOT, system.own_cores()
    governor, clock = system.governor(root, cores), system.clock_mhz(root, cores)
    load = system.load(root)
    gpus, no_gpu = nvml.gpus()
    unknown = {}
    hidden = "the system has no cpufreq, as in most virtual machines and containers"
    for name, value in (("governor", governor), ("clock_mhz", clock)):
        if value is None:
            unknown[name] = hidden
    if system.thermal_throttles(root, cores) is None:
        unknown["thermal throttling"] = "the system does not count it"
    if load is None:
        unknown["load"] = "the system has no /proc: other processes cannot be seen"
    if no_gpu:
        unknown["gpus"] = no_gpu
    return Environment(
        device=Device.here(),
        cores=len(cores),
        cpu_limit_cores=cpu_limit(root),
        memory_limit_mb=system.memory_limit_mb(root),
        governor=governor,
        clock_mhz=clock,
        load=load,
        kernel=platform.release(),
        python=platform.python_version(),
        versions={"numpy": np.__version__, **backend_of(bundle).versions()},
        commit=_commit(),
        gpus=[
            {"name": gpu.name, "clock_mhz": gpu.clock_mhz, "temperature": gpu.temperature}
            for gpu in gpus
        ],
        unknown=unknown,
    )


def _commit() -> str:
    """The commit that the package is run from, if it is run from a checkout of its own."""
    folder = Path(mpft_deploy.__file__).parent
    if not (folder.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
