"""The process that builds: how it ends, what it tells, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import reference

from mpft_deploy.engine import tensorrt as engine
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.export import tensorrt, tensorrt_worker
from mpft_deploy.export.builders import BuildOptions
from mpft_deploy.export.graph import build_graph, serialise


@pytest.fixture(scope="module")
def rtx():
    """TensorRT for RTX; skips where it is not installed."""
    return pytest.importorskip("tensorrt_rtx", exc_type=ImportError)


def stand_in(tmp_path, monkeypatch, source):
    """A builder whose package is this source, in the worker's process."""
    (tmp_path / "trt_stand_in.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    runtime = engine.TensorRT("TensorRT", "trt_stand_in", "tensorrt", "", (10, 3), 11, ahead=False)
    return tensorrt.TensorRTBuilder("tensorrt", runtime)


def model():
    spec = reference.tiny_spec()
    return serialise(build_graph(spec, reference.random_weights(spec)))


def run_stand_in(builder, say=lambda text: None, cache=None, take_model=model):
    options = BuildOptions(timing_cache=cache)
    return builder.build(take_model, tensorrt.Plan(("8.7",), {}), options, say)


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ("os.abort()", InputError, "ended with code -6 .*last words: assertion of a plugin"),
        ("os.kill(os.getpid(), 9)", EnvironmentLacksError, "memory ran out"),
        ("raise ImportError('libnvinfer.so.10')", InputError, r"libnvinfer\.so\.10"),
        ("open('/dev/full', 'wb', 0).write(b'a plan')", EnvironmentLacksError, "No space left"),
        ("print('chatter', flush=True); os.abort()", InputError, "chatter"),
    ],
)
def test_death_of_the_process_is_an_error(tmp_path, monkeypatch, ending, error, message):
    source = (
        f"import os, sys\nprint('assertion of a plugin', file=sys.stderr, flush=True)\n{ending}"
    )
    with pytest.raises(error, match=message):
        run_stand_in(stand_in(tmp_path, monkeypatch, source))


SLOW = """
import time
from tensorrt_rtx import *
import tensorrt_rtx

class Builder(tensorrt_rtx.Builder):
    def build_serialized_network(self, network, config):
        {body}
"""


def test_device_memory_that_ran_out_is_an_error(rtx, tmp_path, monkeypatch):
    body = "self.logger.log(ILogger.ERROR, 'Cuda Runtime (out of memory)'); return None"
    builder = stand_in(tmp_path, monkeypatch, SLOW.format(body=body))
    with pytest.raises(EnvironmentLacksError, match="smaller --workspace"):
        run_stand_in(builder)


def test_long_build_tells_its_progress(rtx, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "QUIET_SECONDS", 0.2)
    body = "time.sleep(1); return super().build_serialized_network(network, config)"
    said = []
    run_stand_in(stand_in(tmp_path, monkeypatch, SLOW.format(body=body)), said.append)
    assert len(said) >= 3
    assert all(text.startswith("TensorRT has been building for") for text in said)
    assert any("parsing" in text for text in said)


def test_quick_build_says_nothing(rtx, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "QUIET_SECONDS", 200)
    said = []
    run_stand_in(stand_in(tmp_path, monkeypatch, "from tensorrt_rtx import *\n"), said.append)
    assert said == []


def test_interrupted_build_leaves_no_process_and_no_files(rtx, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "QUIET_SECONDS", 0.2)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    builder = stand_in(tmp_path, monkeypatch, SLOW.format(body="time.sleep(60)"))

    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)

    def interrupt(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stand_in(builder, interrupt)
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert list(tmp_path.glob("mpft-*")) == []


PARENT = """
import pathlib, sys
from mpft_deploy.export import tensorrt
with tensorrt._process(pathlib.Path(sys.argv[1]), sys.stdout) as process:
    process.wait()
"""


def test_a_worker_does_not_outlive_a_killed_parent(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "import time; print('begun', flush=True); time.sleep(60)")
    (tmp_path / "request.json").write_text('{"package": "trt_stand_in"}')
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"begun\n"
        parent.kill()
        parent.communicate(timeout=20)  # the end of the output, which the worker holds


# The caches of the package are opaque, and it gives one always.
CACHED = """
import os, pathlib
from tensorrt_rtx import *
import tensorrt_rtx

class Cache:
    def __init__(self, data):
        self.entries = set(data.split())
    def combine(self, other, ignore_mismatch):
        self.entries |= other.entries
        return True
    def serialize(self):
        return b" ".join(sorted(self.entries))

class Config:
    def __init__(self, real):
        self.__dict__["real"] = real
    def __getattr__(self, name):
        return getattr(self.real, name)
    def __setattr__(self, name, value):
        setattr(self.real, name, value)
    def create_timing_cache(self, data):
        return Cache(data)
    def set_timing_cache(self, cache, ignore_mismatch):
        self.__dict__["cache"] = cache
        return not cache.entries
    def get_timing_cache(self):
        return self.cache if "TIMINGS" in os.environ else None

class Builder(tensorrt_rtx.Builder):
    def create_builder_config(self):
        return Config(super().create_builder_config())
    def build_serialized_network(self, network, config):
        config.cache.entries.add(b"ours")
        if "TIMINGS" in os.environ:  # a build that ended now
            pathlib.Path(os.environ["TIMINGS"]).write_bytes(b"ptrt earlier theirs")
        return super().build_serialized_network(network, config.real)
"""


def test_timing_cache_is_read_and_written(rtx, tmp_path, monkeypatch):
    builder = stand_in(tmp_path, monkeypatch, "from tensorrt_rtx import *\n")
    cache = tmp_path / "kernels.cache"
    for _ in range(2):
        run_stand_in(builder, cache=cache)
        assert cache.stat().st_size > 0


def test_builds_side_by_side_add_to_one_timing_cache(rtx, tmp_path, monkeypatch):
    builder = stand_in(tmp_path, monkeypatch, CACHED)
    cache = tmp_path / "kernels.cache"
    cache.write_bytes(b"ptrt earlier")
    monkeypatch.setenv("TIMINGS", str(cache))
    run_stand_in(builder, cache=cache)
    assert cache.read_bytes() == b"earlier ours ptrt theirs"


@pytest.mark.parametrize("mine", [b"\xff\xd8\xff\xe0", b"{}", b"ptr", b"trt-notes\n"])
def test_what_is_no_timing_cache_is_not_replaced(mine, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(mine)
    plan = tensorrt.Plan(("8.7",), {})
    with pytest.raises(UsageError, match="for it is not a timing cache"):
        tensorrt.RTX.build(
            lambda: pytest.fail("begun"), plan, BuildOptions(timing_cache=path), print
        )
    assert path.read_bytes() == mine


def test_a_plan_is_kept_whatever_becomes_of_its_timings(rtx, tmp_path, monkeypatch):
    builder, said = stand_in(tmp_path, monkeypatch, CACHED), []
    cache = tmp_path / "timings" / "kernels.cache"
    cache.parent.mkdir()
    _, made = run_stand_in(builder, said.append, cache)
    assert len(made) > 100_000
    assert not cache.exists()
    assert "the timing cache was not written: TensorRT gives none" in said
    monkeypatch.setenv("TIMINGS", os.devnull)

    def take_model():
        cache.parent.rmdir()
        return model()

    said.clear()
    _, made = run_stand_in(builder, said.append, cache, take_model)
    assert len(made) > 100_000
    assert any("the timing cache was not written: " in text for text in said)


class Config:
    """Of a build that ends."""

    def get_timing_cache(self):
        return self

    def create_timing_cache(self, data):
        return data


@pytest.mark.parametrize("become", ["a folder", "somebody's", "unreadable"])
def test_a_timing_cache_that_changed_during_the_build_is_told(become, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_worker, "TRIES", 1)
    cache = tmp_path / "kernels.cache"
    cache.write_bytes(b"notes")
    if become == "a folder":
        cache.unlink()
        cache.mkdir()
    elif become == "unreadable":

        def refuse(path, *arguments, **options):
            raise InputError(f"{path} cannot be read")

        monkeypatch.setattr(tensorrt_worker, "read_regular", refuse)
    reason = tensorrt_worker.save_timings(Config(), cache)
    due = "is a folder" if become == "a folder" else "is not a timing cache"
    assert due in (reason or "")
