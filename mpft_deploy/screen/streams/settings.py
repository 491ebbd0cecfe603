"""What can be set of a source, of deciding and of screening; each a table of cameras.toml."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from mpft_deploy.cores import available_cores
from mpft_deploy.screen.streams.address import TLS, Address, parse
from mpft_deploy.screen.streams.areas import Areas, Box, Boxes, Regions, stream_name
from mpft_deploy.screen.streams.hours import are_hours
from mpft_deploy.spec import Probability, Record, ViewPolicy

if TYPE_CHECKING:
    from mpft_deploy.bundle import BundleInfo

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0)]
Readers = Literal["auto", "processes", "threads"]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_DURATION = re.compile(r"[1-9][0-9]{0,5}[smhd]")
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def seconds(duration: str) -> int:
    """Seconds of a text such as "10m"."""
    return int(duration[:-1]) * UNITS[duration[-1]]


class SourceSettings(Record, frozen=True):
    """One source: a [[source]] of cameras.toml.

    Attributes:
        address: see docs/streams.md; ${NAME} stands for a variable of the environment.
        name: in events and pages; the address without its secrets if empty.
        decode: "all" frames, "keyframes" alone, or so many frames a second.
        transport: of RTSP.
        ca_file: of certificates in PEM, by one of which the camera's is to be signed; without one
            any is taken.
        size: "1280x720", of raw pictures: those of pipe:, csi: and gst:.
        max_pixels: of a picture; a stream that sends larger ones is not read.
        hwaccel: FFmpeg's name of a hardware decoder, such as "cuda" or "vaapi"; decoding falls back
            to software. Empty for none.
        connect: seconds until the stream must be open.
        stall: seconds without data until the source is called stalled.
        timeout: seconds without data until it is connected anew.
        picture_timeout: seconds of data without a picture until it is connected anew.
        frozen: seconds of one and the same picture until it is called frozen; 0 for never.
        gate: share of its texture by which a picture must have changed since the last one that was
            judged to be judged too; 0 judges all.
        look: seconds after which an unchanged picture is judged all the same.
        retry: longest wait between two attempts, in seconds.
        region: parts of the picture that are each judged and decided by themselves, instead of all.
        mask: boxes of the picture that no judged window touches.
        hours: local time in which it is read and judged, such as "mon-fri 08:00-18:00"; always
            without any.
        group: by which the page can show those of a kind.
    """

    address: str
    name: str = ""
    decode: Literal["all", "keyframes"] | Seconds = "all"
    transport: Literal["tcp", "udp"] = "tcp"
    ca_file: str = ""
    size: str = ""
    max_pixels: Annotated[int, msgspec.Meta(gt=0, le=2**30)] = 4096 * 2304
    hwaccel: str = ""
    connect: Seconds = 10.0
    stall: Seconds = 3.0
    timeout: Seconds = 10.0
    picture_timeout: Seconds = 30.0
    frozen: Share = 30.0
    gate: Share = 0.02
    look: Seconds = 5.0
    retry: Seconds = 60.0
    region: Regions = ()
    mask: Boxes = ()
    hours: tuple[str, ...] = ()
    group: Annotated[str, msgspec.Meta(max_length=60)] = ""

    def __post_init__(self) -> None:
        _ = self.areas
        for text in self.hours:
            if not are_hours(text):
                raise ValueError(f'hours {text!r}: write for example "mon-fri 08:00-18:00"')
        if self.size and not _SIZE.fullmatch(self.size):
            raise ValueError(f"size {self.size!r}: write WIDTHxHEIGHT, for example 1280x720")
        scheme = self.address.partition(":")[0].lower()
        if scheme in ("pipe", "gst") and not self.size:
            raise ValueError(
                f'size: {scheme}: needs one, such as size = "1280x720" in a configuration'
            )
        if self.ca_file and scheme not in TLS:
            raise ValueError(f"ca_file: {scheme}: shows no certificate; {', '.join(TLS)} do")

    @property
    def target(self) -> Address:
        return parse(self.address)

    @property
    def areas(self) -> Areas:
        return Areas(regions=self.region, masks=self.mask)

    @property
    def boxes(self) -> dict[str, Box | None]:
        """What is decided by itself, by name: its regions, or (None) its whole picture."""
        regions: dict[str, Box | None] = {
            stream_name(self.name, one.name): one.box for one in self.region
        }
        return regions or {self.name: None}

    @property
    def interval(self) -> float:
        """Seconds from one frame to the next, where `decode` is a rate; else 0."""
        return 1 / self.decode if isinstance(self.decode, float) else 0.0

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of raw pictures, where given."""
        found = _SIZE.fullmatch(self.size)
        return (int(found[2]), int(found[1])) if found else None


class DecisionSettings(Record, frozen=True):
    """How a stream is decided: [decision] of cameras.toml; see the module `decision`.

    Times are written "90s", "10m", "12h" or "30d".

    Attributes:
        false_alarms: a real stream is called generated once in so long at most, on average.
        misses: a generated stream is called "no sign" once in so long at most, on average.
        patience: for how long a stream is looked at, at least, before its verdict changes.
        least: independent frames without which no stream is called "no sign".
        movement: share of the texture by which a picture must differ from all earlier ones, beyond
            what a sensor's noise makes, to count as another.
        gap: without frames for so long, as while a camera is away, a stream is decided afresh.
    """

    false_alarms: str = "30d"
    misses: str = "1d"
    patience: str = "10m"
    least: Seconds = 10.0
    movement: Seconds = 0.2
    gap: str = "1m"

    def __post_init__(self) -> None:
        for name in ("false_alarms", "misses", "patience", "gap"):
            if not _DURATION.fullmatch(text := getattr(self, name)):
                raise ValueError(f'{name} {text!r}: write a time such as "90s", "10m" or "30d"')
        for name in ("false_alarms", "misses"):
            if seconds(getattr(self, name)) < 2 * seconds(self.patience):
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} is too short: it must be twice patience "
                    f"({self.patience}) at least, since a stream is decided once in that time"
                )


BATCH = 8
"""Beyond so many views at once a CPU gains little; these take half the time of single ones."""


class ScreenSettings(Record, frozen=True):
    """The screening itself: [screen] of cameras.toml; the command line goes first.

    Attributes:
        bundle: folder of the bundle to judge with.
        views, threshold: see `Screener`.
        batch: views that are judged at once, at most; 0 takes 8. An engine whose logits depend on
            that judges one at a time.
        threads: CPU threads of the engine; 0 takes all cores. They sleep while they wait.
        max_age: seconds; an older frame is dropped, never judged.
        readers: what FFmpeg reads sources in: a process for each connection, or threads of this
            process; "auto" takes processes from two network sources on, where there is Linux.
    """

    bundle: str = ""
    views: ViewPolicy | None = None
    threshold: Probability | None = None
    batch: Annotated[int, msgspec.Meta(ge=0)] = 0
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_age: Seconds = 2.0
    readers: Readers = "auto"

    def batch_of(self, info: BundleInfo) -> int:
        """Views to judge at once, at most."""
        return self.batch or (1 if info.mixes_views else BATCH)

    @property
    def engine_threads(self) -> int:
        return self.threads or available_cores()
