"""What is fuzzed: everything that reads a stranger's bytes, each with inputs to begin with.

A target takes bytes and returns; the only exception that it lets through is a fault. Errors that
the project makes on purpose, `MpftError`, are the right answer to bad input.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpft_deploy.errors import InputError, MpftError
from mpft_deploy.weights import Stored

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None

SIDE = 32
"""Of the views that pictures are read for: small pictures are quick."""


@dataclass(frozen=True)
class Target:
    """One reader of foreign bytes.

    Attributes:
        seeds: inputs to begin with.
        run: reads one input; raises where there is a fault.
        longest: bytes of an input, at most.
    """

    seeds: Callable[[], Iterator[bytes]]
    run: Callable[[bytes], None]
    longest: int = 1 << 16


@functools.cache
def _scratch() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="mpft-fuzz-", dir=SCRATCH)
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _written(data: bytes, name: str) -> Path:
    path = _scratch() / name
    path.write_bytes(data)
    return path


# Pictures: the quick path to the centre view says what the whole decode says.


def picture_seeds() -> Iterator[bytes]:
    from media import picture
    from PIL import Image, PngImagePlugin

    pixels = picture(40, 48)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_itxt("workflow", "seed 7 " * 20, zip=True)
    sixteen = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)
    for form, kind, options in (
        (image, "JPEG", {"quality": 80}),
        (image, "JPEG", {"quality": 60, "progressive": True, "exif": exif}),
        (image, "JPEG", {"quality": 70, "restart_marker_rows": 1, "subsampling": 0}),
        (image.convert("L"), "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {"pnginfo": text, "exif": exif}),
        (image.quantize(8), "PNG", {"transparency": 0}),
        (sixteen, "PNG", {}),
        (sixteen, "TIFF", {}),
        (image, "TIFF", {"compression": "tiff_deflate"}),
        (image, "TIFF", {"save_all": True, "append_images": [image]}),
        (image, "WEBP", {"lossless": True}),
        (image, "WEBP", {"quality": 50, "exif": exif}),
        (image, "AVIF", {"quality": 40}),
        (image, "GIF", {"save_all": True, "append_images": [image]}),
        (image, "BMP", {}),
        (image, "PPM", {}),
    ):
        buffer = io.BytesIO()
        with contextlib.suppress(KeyError, ValueError, OSError):  # a Pillow without that codec
            form.save(buffer, kind, **options)
            yield buffer.getvalue()
    yield b"P5 4 4 1023\n" + bytes(range(32))


def run_picture(data: bytes) -> None:
    from mpft_deploy import images

    images.MAX_PIXELS = 1 << 20  # what is larger only takes longer
    path = _written(data, "picture")
    try:
        whole = images.read_picture(path)
    except InputError:
        whole = None
    try:
        centre = images.read_picture(path, centre=SIDE)
    except InputError:
        centre = None
    if (whole is None) != (centre is None):
        raise AssertionError("one path of the code takes what the other refuses")
    if whole is None or centre is None:
        return
    assert whole.pixels.dtype == np.uint8
    assert whole.pixels.ndim == 3
    if centre.whole is not None:
        assert centre.whole == whole.pixels.shape[:2]
        side = min(SIDE, *centre.whole)
        [(top, left)] = images.view_corners(*centre.whole, side)
        expected = whole.pixels[top : top + side, left : left + side]
        if not np.array_equal(centre.pixels, expected):
            raise AssertionError("the centre view is not that of the whole picture")


# Clips.


def clip_seeds() -> Iterator[bytes]:
    from media import write_video

    for suffix, codec in (
        (".mp4", "mpeg4"),
        (".mp4", "libx264"),
        (".mkv", "libx264"),
        (".webm", "libvpx"),
        (".avi", "mjpeg"),
        (".mov", "mpeg4"),
    ):
        path = _scratch() / f"seed{suffix}"
        with contextlib.suppress(Exception):  # an FFmpeg without that encoder
            write_video(path, seconds=0.5, codec=codec)
            yield path.read_bytes()


def run_clip(data: bytes) -> None:
    from mpft_deploy import images
    from mpft_deploy.screen.sources import Item, read_frames

    images.MAX_PIXELS = 1 << 20
    item = Item(_written(data, "clip.mp4"), "video")
    with contextlib.suppress(InputError):
        for frame in itertools.islice(read_frames(item, fps=100.0), 50):
            assert frame.pixels.dtype == np.uint8


# Sealed folders: the first byte chooses a file, the rest takes its place, and the seal is made
# anew, as whoever means harm would.


@functools.cache
def _detector(stored: Stored) -> Path:
    import reference

    from mpft_deploy.detector_folder import Golden, write_detector
    from mpft_deploy.kernels import texture_patchify

    spec = reference.tiny_spec()
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    weights = reference.random_weights(spec, 0)
    cut = texture_patchify(crops, spec.patch, spec.keep_rule, spec.keep_seed)
    golden = Golden(crops, reference.logits(spec, weights, cut))
    path = _scratch() / f"detector-{stored}"
    write_detector(path, spec, weights, golden, "# tiny\n", stored=stored)
    return path


@functools.cache
def _bundle() -> Path:
    from mpft_deploy.export.pipeline import Request, export

    path = _scratch() / "bundle"
    export(Request(_detector("float32"), path, "onnxruntime", "fp32"))
    return path


def _sealed_seeds(folder: Path, manifest: str) -> Iterator[bytes]:
    for index, path in enumerate(_files(folder, manifest)):
        yield bytes([index]) + path.read_bytes()[: (1 << 16) - 1]


def _files(folder: Path, manifest: str) -> list[Path]:
    others = [path for path in sorted(folder.iterdir()) if path.name != manifest]
    return [folder / manifest, *others]


def _run_sealed(folder: Path, manifest: str, data: bytes, read: Callable[[Path], object]) -> None:
    from mpft_deploy.files import canonical_json, sha256
    from mpft_deploy.sealed import write_seal

    files = _files(folder, manifest)
    chosen = files[data[0] % len(files)] if data else files[0]
    before = {path: path.read_bytes() for path in {chosen, files[0]}}
    try:
        chosen.write_bytes(data[1:])
        # What is no JSON object is shown to the reader as it is.
        with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError):
            payload = json.loads(files[0].read_bytes())
            payload.pop("seal", None)
            if chosen == files[0]:
                sealed = {**payload, "seal": sha256(canonical_json(payload))}
                chosen.write_bytes(canonical_json(sealed))
            else:
                payload.pop("files")
                write_seal(folder, payload)
        with contextlib.suppress(MpftError):
            read(folder)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def run_detector(data: bytes) -> None:
    from mpft_deploy.detector_folder import MANIFEST, read_detector

    _run_sealed(_detector("int8"), MANIFEST, data, read_detector)


def run_bundle(data: bytes) -> None:
    from mpft_deploy.bundle import MANIFEST, read_bundle

    _run_sealed(_bundle(), MANIFEST, data, read_bundle)


def detector_seeds() -> Iterator[bytes]:
    from mpft_deploy.detector_folder import MANIFEST

    return _sealed_seeds(_detector("int8"), MANIFEST)


def bundle_seeds() -> Iterator[bytes]:
    from mpft_deploy.bundle import MANIFEST

    return _sealed_seeds(_bundle(), MANIFEST)


# Packages of evidence: after a 0 the file as it comes; after a 1 its manifest, sealed again.


@functools.cache
def _native() -> Path:
    from mpft_deploy.export.pipeline import Request, export

    path = _scratch() / "native"
    export(Request(_detector("int8"), path))
    return path


@functools.cache
def _evidence() -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a manifest says, and the files of its package."""
    import msgspec
    from telling import frame_event

    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.screen import Screener
    from mpft_deploy.screen.evidence.keeper import _judged
    from mpft_deploy.screen.evidence.package import KIND, VERSION, Manifest, engine_of
    from mpft_deploy.screen.evidence.ring import Looks

    bundle = read_bundle(_native())
    screener = Screener.open(_native(), threads=1)
    prepared = screener.prepare(np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8))
    [judged] = screener.judge([prepared])
    said = judged.judgement
    event = frame_event(1, verdict=said.verdict, probability=said.probability, logit=said.logit)
    files: dict[str, bytes] = {}
    looks = Looks(9.0, 2**20)
    looks.add(event, 0.0, prepared, judged.view_logits)
    [look] = looks.cut(0.0, 1.0)
    manifest = Manifest(
        kind=KIND, version=VERSION, source="gate", address="rtsp://camera", event=None,
        asked_by="me", moment=1.0, begin=0.0, end=2.0, clock="system",
        engine=engine_of(bundle, "centre", None), frames=(_judged(look, files),),
        clip=None, no_clip="none", software={},
    )  # fmt: skip
    return msgspec.to_builtins(manifest), files


def evidence_seeds() -> Iterator[bytes]:
    from mpft_deploy.files import canonical_json

    payload, files = _evidence()
    yield b"\0" + _package(payload, files)
    yield b"\1" + canonical_json(payload)


def _package(payload: dict[str, Any], files: dict[str, bytes]) -> bytes:
    from mpft_deploy.files import sha256
    from mpft_deploy.screen.evidence.package import MANIFEST
    from mpft_deploy.sealed import make_manifest

    head = make_manifest(payload, {name: sha256(data) for name, data in files.items()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {MANIFEST: head, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def run_evidence(data: bytes) -> None:
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.screen.evidence.package import describe, read_package
    from mpft_deploy.screen.evidence.verify import recompute, require_same_engine

    bundle = read_bundle(_native())
    if data[:1] == b"\1":
        try:
            payload = json.loads(data[1:])
            data = b"\0" + _package(payload, _evidence()[1])
        except (ValueError, RecursionError, TypeError, AttributeError):
            return
    with contextlib.suppress(MpftError):
        package = read_package(_written(data[1:], "package.zip"))
        describe(package)
        require_same_engine(package, bundle)
        recompute(package, bundle, threads=1)


# Configurations, with every address in them.


def config_seeds() -> Iterator[bytes]:
    examples = Path(__file__).resolve().parents[2] / "deploy"
    for path in sorted(examples.rglob("*.toml")):
        yield path.read_bytes()
    for address in (
        "rtsp://user:p%40ss@camera:554/stream?key=0123456789abcdef",
        "https://[::1]:8443/cam.mjpg",
        "file:clip.mp4",
        "gst:videotestsrc ! videoconvert",
        "v4l2:/dev/video0",
        "csi:0",
        "pipe:",
    ):
        yield f'[[source]]\nname = "a"\naddress = "{address}"\nsize = "64x48"\n'.encode()
    yield b'[decision]\n[screen]\nbatch = 1\n[[source]]\naddress = "${CAMERA}"\ndecode = 2.5\n'


def run_config(data: bytes) -> None:
    from mpft_deploy.screen.streams.config import read_config

    with contextlib.suppress(MpftError):
        config = read_config(_written(data, "cameras.toml"), {"CAMERA": "rtsp://a:secret-1@b/c"})
        for source in config.sources:
            assert "secret-1" not in source.target.shown
            assert "secret-1" not in source.name


# Manifests of labelled images.


def csv_seeds() -> Iterator[bytes]:
    yield b"path,label,set,generator,split\na.png,1,mixed,b,val\nc.jpg,real,mixed,,train\n"
    yield "\ufeffpath;label\nä.png;0\n".encode()
    yield b'path,label\n"a ""quoted"", name.png",fake\n'


def run_csv(data: bytes) -> None:
    from mpft_deploy.dataset import find_samples

    with contextlib.suppress(MpftError):
        find_samples([_written(data, "manifest.csv")])


# The JPEG window decoder: four bytes for the window, then a JPEG; see jpeg_window.cpp.


def window_seeds() -> Iterator[bytes]:
    for data in itertools.islice(picture_seeds(), 5):
        yield bytes([128, 128, 100, 100]) + data


# What answers a question for cameras.


def onvif_seeds() -> Iterator[bytes]:
    from onvif_network import match

    for host in ("192.0.2.7", "192.0.2.70", "[::1]"):
        yield match("q", f"http://{host}/onvif/device https://{host}:8443/")
    yield match("q", "", "onvif://www.onvif.org/name/%0a%FF onvif://www.onvif.org/location/a/b")
    yield match("q", "", before='<!DOCTYPE a [<!ENTITY b "c">]>', more="&b;")


def run_onvif(data: bytes) -> None:
    from mpft_deploy.screen.onvif import read_match

    if (camera := read_match(data, "q", "192.0.2.7")) is not None:
        assert camera.service == "" or camera.service.split("/")[2].split(":")[0] == "192.0.2.7"
        assert (camera.name + camera.hardware + camera.location).isprintable()


TARGETS = {
    "picture": Target(picture_seeds, run_picture),
    "clip": Target(clip_seeds, run_clip),
    "detector": Target(detector_seeds, run_detector),
    "bundle": Target(bundle_seeds, run_bundle),
    "config": Target(config_seeds, run_config, longest=4096),
    "csv": Target(csv_seeds, run_csv, longest=4096),
    "onvif": Target(onvif_seeds, run_onvif, longest=4096),
    "evidence": Target(evidence_seeds, run_evidence),
}
