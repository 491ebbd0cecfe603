"""A wheel without compiled parts in its own environments; and the first start in hard places."""

from __future__ import annotations

import contextvars
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import types
import venv
from pathlib import Path

import pytest
from command import MPFT
from media import encoded, picture

import mpft_deploy
from mpft_deploy.bundle import OUTPUT
from mpft_deploy.cli.main import cli, run
from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.export.shipped import shipped_bundle
from mpft_deploy.kernels.encoder.registry import VERSIONS
from mpft_deploy.outputs import reserve
from mpft_deploy.shipped import shipped_detector

ROOT = Path(__file__).resolve().parent.parent

WITHOUT_COMPILER = ("wheel.cmake=false", "wheel.py-api=py3", "wheel.platlib=false")
"""What pyproject.toml falls back on where CMake fails."""


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    path.write_bytes(encoded(picture(200, 200)))
    return path


def pip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-build-isolation"] if importlib.util.find_spec("scikit_build_core") else []
    options = [part for one in WITHOUT_COMPILER for part in ("-C", one)]
    pip("wheel", "-q", ROOT, "--no-deps", *here, *options, "-w", folder)
    [wheel] = folder.glob("*-py3-none-any.whl")
    return wheel


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the packages of this one."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    pip("--python", folder / "bin" / "python", "install", "-q", "--no-deps", wheel)
    shared = [path for path in sys.path if path.endswith("site-packages")]
    place = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(place, "shared.pth").write_text("\n".join(shared))
    return folder


@pytest.mark.slow
def test_an_installation_without_a_compiler_screens_a_picture(
    bare: Path, photo: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [bare / "bin" / "mpft", "screen", photo],
        env={"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 real" in done.stdout or "1 unsure" in done.stdout or "1 generated" in done.stdout
    assert done.stderr.count("warning: mpft-deploy runs on NumPy") == 1
    assert "once: " in done.stderr
    where = subprocess.run(
        [bare / "bin" / "python", "-c", "import mpft_deploy; print(mpft_deploy.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert where.stdout.startswith(str(bare))
    version = subprocess.run([bare / "bin" / "mpft", "--version"], capture_output=True, text=True)
    assert version.stdout.splitlines()[1] == "built from commit unknown"


BASE_TESTS = (
    "test_spec.py",
    "test_files.py",
    "test_weights.py",
    "kernels/test_texture_patchify.py",
    "cli/test_base_install.py::test_a_bundle_from_start_to_end",
)
"""Contracts, kernels and command line, as far as the base installation goes."""


def interpreter(version: str) -> str:
    """A Python of that version, on PATH or pyenv's; skips where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python")]
    for one in filter(None, found):
        if not subprocess.run([one, "-c", "import ensurepip"], capture_output=True).returncode:
            return str(one)
    pytest.skip(f"there is no Python {version} here")


# The oldest; each takes most of a minute. MPFT_PYTHONS="3.10 3.12 3.13" asks for others.
@pytest.mark.slow
@pytest.mark.parametrize("version", os.environ.get("MPFT_PYTHONS", "3.10").split())
def test_other_pythons(version: str, wheel: Path, tmp_path: Path) -> None:
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("all other tests run in it")
    subprocess.run([interpreter(version), "-m", "venv", "--without-pip", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    pip(
        "--python",
        python,
        "install",
        "-q",
        "--no-compile",
        wheel,
        "hypothesis",
        "pytest",
        "pytest-timeout",
    )
    tests = [ROOT / "tests" / name for name in BASE_TESTS]
    options = ["-p", "no:cacheprovider", "--hypothesis-profile", "few", "-k", "not bomb"]
    done = subprocess.run(
        [python, "-m", "pytest", *options, *tests],
        cwd=tmp_path,  # whose packages are found, and not the checkout's
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


HARD = """
mount -o remount,bind,ro /
for folder in /tmp /var/tmp; do mount -t tmpfs -o $0 none $folder; done
cd / && exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""
"""No network; / cannot be written, /tmp as $0 says; and no right to do it all the same."""


def _may_unshare() -> bool:
    try:
        command = ["unshare", "--net", "--mount", "setpriv", "--version"]
        return not subprocess.run(command, capture_output=True).returncode
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _may_unshare(), reason="needs util-linux, and the right to mount")
@pytest.mark.parametrize("temporary", ["rw", "ro"])
def test_the_first_start_without_network_or_a_place_to_write(temporary: str) -> None:
    command = ["unshare", "--net", "--mount", "sh", "-ec", HARD, temporary, *MPFT, "screen"]
    done = subprocess.run(
        [*command, ROOT / "docs" / "images" / "verdicts.png"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    if temporary == "rw":
        assert (done.returncode, "and cannot be kept" in done.stderr) == (0, True), done.stderr
        assert "docs/images/verdicts.png" in done.stdout
    else:
        assert done.returncode == 3
        assert "TMPDIR" in done.stderr


def test_the_shipped_bundle_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told: list[str] = []
    first = shipped_bundle(told.append)
    assert len(told) == 1
    assert "once" in told[0]
    assert shipped_bundle(told.append).seal == first.seal
    assert shipped_bundle(told.append, str(first.info.precision)).path == first.path
    assert len(told) == 1
    wide = shipped_bundle(told.append, "wide")
    assert (str(wide.info.precision), len(told)) == ("wide", 2)
    assert shipped_bundle(told.append, "wide").path == wide.path != first.path
    (first.path / "certificate.json").write_text("{}")
    assert shipped_bundle(told.append).seal != ""
    assert "It is made again" in told[2]
    monkeypatch.delenv("MPFT_BUNDLE", raising=False)
    assert run(cli, "mpft", ["screen", str(photo), "--require-signature", str(photo)]) == 2
    assert "for a bundle of yours" in capfd.readouterr().err


def test_whoever_comes_while_another_makes_it_makes_one_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As services do that start together, the first time on a device."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told: list[str] = []
    first = shipped_bundle(told.append)
    shutil.rmtree(first.path)
    with reserve(first.path, OUTPUT):
        second = contextvars.Context().run(shipped_bundle, told.append)
    assert "is being written by another run" in told[-1]
    assert second.info == first.info
    assert not second.path.exists()


def test_where_nothing_can_be_kept_the_bundle_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told: list[str] = []
    bundle = shipped_bundle(told.append)
    assert "cannot be kept" in told[-1]
    assert not bundle.path.exists()


def test_a_checkout_has_the_detector() -> None:
    assert (
        shipped_detector() == Path(mpft_deploy.__file__).parent.parent / "models" / "mpft-vit-b16"
    )


def test_the_version_names_commit_and_detector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((shipped_detector() / "detector.json").read_bytes())
    built = types.ModuleType("mpft_deploy._commit")
    for commit, told in (("0123456789ab", "0123456789ab"), ("", "unknown"), (None, "unknown")):
        if commit is not None:
            built.COMMIT = commit  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, built.__name__, built if commit is not None else None)
        assert run(cli, "mpft", ["--version"]) == 0
        version, commit_line, detector = capsys.readouterr().out.splitlines()
        assert version == f"mpft, version {mpft_deploy.__version__}"
        assert commit_line == f"built from commit {told}"
        seal, folder = f"seal {manifest['seal']}", shipped_detector()
        assert detector == f"detector mpft-vit-b16, {seal}, in {folder}"


def test_the_version_stands_once() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{mpft_deploy.__version__}"\n' in project


def test_a_kernel_that_does_not_run_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = [version.name for version in VERSIONS if version.why_not()]
    if not absent:
        pytest.skip("every kernel runs here")
    monkeypatch.setenv("MPFT_KERNEL", absent[0])
    told: list[str] = []
    with pytest.raises(EnvironmentLacksError, match=f"MPFT_KERNEL={absent[0]}"):
        shipped_bundle(told.append)
    assert told == []
