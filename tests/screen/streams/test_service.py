"""What is deployed: the unit is hardened and valid, and the example configuration is read."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import under_unit
from click.testing import CliRunner
from command import MPFT
from media import encoded, picture

from mpft_deploy.cli.main import cli
from mpft_deploy.screen.streams.config import read_config

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "deploy" / "systemd" / "mpft-screen.service"


class _Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit() -> configparser.RawConfigParser:
    parser = _Unit(strict=False, interpolation=None)
    parser.read(UNIT, encoding="utf-8")
    return parser


def test_the_unit_is_hardened_and_watched() -> None:
    service = unit()["Service"]
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "DynamicUser"):
        assert service[key] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["Type"] == "notify"
    assert {"MemoryMax", "WatchdogSec", "TimeoutStopSec"} <= set(service)
    assert service["CapabilityBoundingSet"] == ""


def test_its_command_is_one_of_ours() -> None:
    program, command, option, path = unit()["Service"]["ExecStart"].split()
    assert program.endswith("/bin/mpft")
    text = CliRunner().invoke(cli, [command, "--help"]).output
    assert option in text
    assert path.endswith("cameras.toml")


@pytest.mark.parametrize("drop_in", [None, "jetson.conf"])
def test_systemd_finds_nothing_wrong(tmp_path: Path, drop_in: str | None) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    # Its program is not installed here.
    text = UNIT.read_text(encoding="utf-8").replace("/opt/mpft/bin/mpft", sys.executable)
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    if drop_in:
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(UNIT.with_name(folder.name) / drop_in, folder)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    named = (UNIT.name, drop_in or UNIT.name)
    assert not [line for line in done.stderr.splitlines() if any(one in line for one in named)]


def test_container_recipes_use_what_they_declare() -> None:
    """As far as no image is pulled: known instructions, arguments and stages, and valid shell."""
    text = (ROOT / "deploy" / "container" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    stages: set[str] = set()
    known: set[str] = set()
    first: set[str] = set()
    for instruction, _, rest in (line.partition(" ") for line in lines if line):
        used = set(re.findall(r"\$\{?(\w+)", rest)) - {"PATH"}
        if instruction == "FROM":
            assert used <= (first := first or known)
            known = set()
            stages |= set(re.findall(r" AS (\w+)", rest))
        elif instruction == "ARG":
            known.add(rest.partition("=")[0])
        elif instruction == "COPY":
            assert set(re.findall(r"--from=(\w+)", rest)) <= stages
        elif instruction == "RUN":
            assert used <= known, rest
            subprocess.run(["sh", "-n", "-c", rest], check=True)
        else:
            assert instruction in {
                *("ENV", "USER", "WORKDIR", "VOLUME", "STOPSIGNAL", "ENTRYPOINT", "CMD")
            }


def run_under_unit(state: Path, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start `mpft` as the unit would."""
    return subprocess.Popen(
        [sys.executable, under_unit.__file__, UNIT, state, *MPFT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STATE_DIRECTORY": str(state), "HOME": "/"},
        cwd=state,
        **options,
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The one folder that the service may write."""
    if reason := under_unit.why_not():
        pytest.skip(reason)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def test_files_are_screened_under_the_unit(bundle: Path, state: Path) -> None:
    image = state / "a.png"
    image.write_bytes(encoded(picture()))
    with run_under_unit(state, "screen", image, "--bundle", bundle, "--json") as process:
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(out)["verdict"] in ("real", "generated", "unsure")


def test_cameras_are_looked_for_on_every_interface_under_the_unit(state: Path) -> None:
    listing = [sys.executable, "-c", "import socket; print(socket.if_nameindex())"]
    command = [sys.executable, under_unit.__file__, UNIT, state, *listing]
    done = subprocess.run(command, capture_output=True, text=True, cwd=state, timeout=60)
    assert done.stdout == f"{socket.if_nameindex()}\n", done.stderr


def test_streams_are_screened_under_the_unit(rtsp: Any, bundle: Path, state: Path) -> None:
    config = state / "cameras.toml"
    config.write_text(
        f"""
        [[source]]
        name = "cam"
        address = "{rtsp().url("cam")}"
        decode = 5
        [jsonl]
        path = "events.jsonl"
        [snapshots]
        folder = "snapshots"
        [webhook]
        url = "http://127.0.0.1:9/"
        [http]
        address = "127.0.0.1:0"
        """,
        encoding="utf-8",
    )
    process = run_under_unit(state, "screen", "--config", config, "--bundle", bundle)
    events = state / "events.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if events.exists() and '"frame"' in events.read_text(encoding="utf-8"):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert '"frame"' in events.read_text(encoding="utf-8"), errors


def test_the_example_configuration() -> None:
    environment = {"CAMERA_USER": "viewer", "CAMERA_PASSWORD": "p4ssw0rd"}
    config = read_config(ROOT / "deploy" / "cameras.toml", environment)
    assert [(source.name, source.decode) for source in config.sources] == [
        ("entrance", "keyframes"),
        ("yard", 2),
    ]


def test_the_container_installs_what_it_says() -> None:
    text = (ROOT / "deploy" / "container" / "Dockerfile").read_text(encoding="utf-8")
    assert "ARG BASE" in text
    assert "USER mpft" in text
    extras = next(line for line in text.splitlines() if line.startswith("ARG EXTRAS="))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in extras.partition("=")[2].split(","):
        assert f"\n{extra} = [" in project


def test_a_group_of_cameras_on_kubernetes() -> None:
    yaml = pytest.importorskip("yaml")
    folder = ROOT / "deploy" / "kubernetes"
    if shutil.which("kubectl"):
        built = subprocess.run(
            ["kubectl", "kustomize", str(folder / "entrances")], capture_output=True, text=True
        )
        assert built.returncode == 0, built.stderr
        text = built.stdout
    else:  # without the prefix and what is made of cameras.toml
        text = (folder / "screen" / "screen.yaml").read_text(encoding="utf-8")
    parts = {one["kind"]: one for one in yaml.safe_load_all(text)}
    environment = {"CAMERA_USER": "viewer", "CAMERA_PASSWORD": "p4ssw0rd"}
    config = read_config(folder / "entrances" / "cameras.toml", environment)
    assert config.tell.http is not None
    assert config.tell.health is not None
    pod = parts["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"http": config.tell.http.bind()[1], "health": config.tell.health.bind()[1]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/livez", "port": "health"}
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    assert {str(Path(config.tell.http.token_file).parent), "/var/lib/mpft", "/etc/mpft"} <= mounts
    assert parts["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}  # one for one store
    assert parts["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert container["securityContext"]["readOnlyRootFilesystem"]
