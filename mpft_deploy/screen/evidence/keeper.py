"""Makes packages of evidence: when a stream's verdict turns, and when somebody asks."""

from __future__ import annotations

import logging
import math
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mpft_deploy import __version__
from mpft_deploy.screen.evidence.clip import remux
from mpft_deploy.screen.evidence.package import (
    KIND,
    VERSION,
    Clip,
    Engine,
    Judged,
    Manifest,
    pack,
)
from mpft_deploy.screen.evidence.ring import Look, Recording
from mpft_deploy.screen.picture import encoded
from mpft_deploy.screen.streams.records import StreamEvent
from mpft_deploy.screen.tell.config import Evidence
from mpft_deploy.screen.tell.kept import Kept
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.signing import load_signer
from mpft_deploy.spec import StreamVerdict

logger = logging.getLogger(__name__)

CAPACITY = 1000
"""Packages that wait to be made; each waits for the seconds after its verdict."""

CLOCK = "system clock of the screener (CLOCK_REALTIME), as it was set at the end of the package"


@dataclass(frozen=True)
class _Job:
    """A package to make; moment: by the monotonic clock."""

    name: str
    source: str
    verdict: StreamVerdict
    event: StreamEvent | None
    asked_by: str
    moment: float


class EvidenceSink(Kept[_Job]):
    """Makes packages in a thread of its own, some seconds after what they are for.

    Args:
        record: what is kept of a source in a span of the monotonic clock; a KeyError for an unknown
            name.
        engine: what judges; without baselines.
    """

    def __init__(
        self,
        config: Evidence,
        record: Callable[[str, float, float], Recording],
        engine: Engine,
        store: Store,
    ) -> None:
        self._config, self._record, self._engine = config, record, engine
        self._sign = load_signer(Path(config.key_file)) if config.key_file else None
        self.after = config.after
        self._lock, self._asked = threading.Lock(), dict[str, tuple[str, float]]()
        self._hurry = threading.Event()
        super().__init__("evidence", ".zip", config, store, CAPACITY)

    def plan(self, event: StreamEvent, name: str) -> StreamEvent:
        named = msgspec.structs.replace(event, package=name)
        # An event is told at once, so its moment is now, less what the date says it waited.
        waited = max(0.0, time.time() - event.time)
        moment = time.monotonic() - min(waited, self._config.before)
        self.put(_Job(name, event.source, event.verdict, named, "", moment))
        return named

    def ask(self, source: str, verdict: StreamVerdict, by: str) -> str:
        """Plan a package of a source as it is now; its file's name.

        While one that was asked for is under way, that is the one.

        Raises:
            KeyError: an unknown name.
        """
        now = time.monotonic()
        self._record(source, now, now)
        with self._lock:
            name, moment = self._asked.get(source, ("", -math.inf))
            if now - moment > self._config.after:
                date = time.time()
                name = self.name_of(date, verdict, source, f"asked-{int(1000 * date):x}")
                self._asked[source] = name, now
                self.put(_Job(name, source, verdict, None, by, now))
            return name

    def close(self, timeout: float) -> None:
        """Make what is planned, of what there is until now."""
        self._hurry.set()
        super().close(timeout)

    def _make(self, job: _Job) -> None:
        begin, end = job.moment - self._config.before, job.moment + self._config.after
        self._hurry.wait(max(0.0, end - time.monotonic()))
        try:
            recording = self._record(job.source, begin, end)
        except KeyError:
            logger.warning("%s: it was removed before its evidence was kept", job.source)
            return
        self.write(job.name, job.verdict, self._packed(job, recording, begin, end))

    def _packed(self, job: _Job, recording: Recording, begin: float, end: float) -> bytes:
        files: dict[str, bytes] = {}
        frames = tuple(_judged(look, files) for look in recording.looks)
        date = time.time() - time.monotonic()
        clip, no_clip = None, recording.no_clip
        if recording.coded is not None:
            coding, pictures = recording.coded
            try:
                suffix, data = remux(coding, pictures, self.folder)
            except OSError:
                raise
            except Exception as error:  # whatever FFmpeg makes of what a stream sent
                no_clip = f"the video could not be put into a file: {error}"
            else:
                name = f"clip{suffix}"
                files[name] = data
                clip = Clip(
                    file=name,
                    codec=coding.codec,
                    pictures=len(pictures),
                    begin=date + pictures[0].received,
                    end=date + pictures[-1].received,
                )
        manifest = Manifest(
            kind=KIND,
            version=VERSION,
            source=job.source,
            address=recording.address,
            event=job.event,
            asked_by=job.asked_by,
            moment=date + job.moment,
            begin=date + begin,
            end=date + end,
            clock=CLOCK,
            engine=msgspec.structs.replace(self._engine, baselines=recording.baselines),
            frames=frames,
            clip=clip,
            no_clip=no_clip,
            software=_software(),
        )
        return pack(manifest, files, self._sign)


def _judged(look: Look, files: dict[str, bytes]) -> Judged:
    """A frame for the manifest; its views become files."""
    from PIL import Image

    names = []
    for view in look.views:
        names.append(f"view-{len(files) + 1:05}.png")
        files[names[-1]] = encoded(Image.fromarray(view), "PNG", compress_level=1)
    return Judged(
        frame=look.frame,
        size=look.size,
        windows=tuple(look.windows),
        views=tuple(names),
        logits=tuple(map(float, look.logits)),
    )


def _software() -> dict[str, str]:
    import av
    import numpy as np

    parts = {"mpft-deploy": __version__, "python": platform.python_version()}
    parts |= {"numpy": np.__version__, "av": av.__version__}
    versions = {name: ".".join(map(str, of)) for name, of in av.library_versions.items()}
    return {**parts, **versions, "system": f"{platform.system()} {platform.machine()}"}
