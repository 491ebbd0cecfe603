"""`mpft screen` on streams: what it does with addresses or a configuration file."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpft_deploy.bundle import Bundle
    from mpft_deploy.screen.manage import Manager
    from mpft_deploy.screen.screener import Screener
    from mpft_deploy.screen.streams.config import Config
    from mpft_deploy.screen.streams.records import Sink, SourceStatus
    from mpft_deploy.screen.streams.watch import Watch
    from mpft_deploy.spec import Calibration

logger = logging.getLogger(__name__)


def load_config(
    path: Path | None, addresses: Sequence[str], given: Mapping[str, Any], as_json: bool
) -> Config:
    """The configuration that a command line means.

    Args:
        path: of a cameras.toml, or None.
        addresses: further sources.
        given: options of the command line that were given: those of [screen], `decode` and `http`.
    """
    import msgspec

    from mpft_deploy.screen.streams.config import Config, named, read_config, source_settings
    from mpft_deploy.screen.tell.config import Http, Jsonl

    config = Config(sources=()) if path is None else read_config(path)
    screen = {key: value for key, value in given.items() if key not in ("decode", "http")}
    decode = {"decode": given["decode"]} if "decode" in given else {}
    sources = [msgspec.structs.replace(source, **decode) for source in config.sources]
    sources += [source_settings(address, **decode) for address in addresses]
    tell = config.tell
    if "http" in given:
        http = tell.http or Http()
        tell = msgspec.structs.replace(
            tell, http=msgspec.structs.replace(http, address=given["http"])
        )
    if as_json and tell.jsonl is None:
        tell = msgspec.structs.replace(tell, jsonl=Jsonl(path="-"))
    return msgspec.structs.replace(
        config,
        sources=named(sources),
        screen=msgspec.structs.replace(config.screen, **screen),
        tell=tell,
    )


def run_streams(
    load: Callable[[], Config],
    open_bundle: Callable[[Path | None], Bundle],
    *,
    as_json: bool,
    seconds: float | None,
) -> int:
    """Screen until told to stop, every source has ended, or the time is over; the exit code.

    It is 1 if a source had not shown one frame when the time was over or all had ended.

    Args:
        load: reads the configuration; called again on SIGHUP.
        open_bundle: gives the bundle in the folder that the configuration names, if it does.
    """
    from mpft_deploy.engine import load_engine
    from mpft_deploy.errors import EnvironmentLacksError, MpftError
    from mpft_deploy.screen.screener import Screener
    from mpft_deploy.screen.streams.log import set_up_logging
    from mpft_deploy.screen.streams.notify import Notifier

    _need_posix()
    from mpft_deploy.screen.streams.watch import TICK

    secrets: set[str] = set()
    set_up_logging(as_json=as_json, secrets=lambda: frozenset(secrets))

    def read() -> Config:
        config = load()
        secrets.update(*(source.target.secrets for source in config.sources))
        return config

    with _signals() as flags:
        config = read()
        screen = config.screen
        bundle = open_bundle(Path(screen.bundle) if screen.bundle else None)
        engine = load_engine(bundle, threads=screen.engine_threads, spin=False)
        screener = Screener(
            bundle,
            engine,
            views=screen.views,
            threshold=screen.threshold,
            batch=screen.batch_of(bundle.info),
        ).for_streams()
        if screener.uncalibrated:
            logger.warning("%s (mpft calibrate --views)", screener.uncalibrated)
        _warn_undecidable(config, screener.calibration)
        try:
            watch, sinks, manager = _open_watch(
                config, screener, bundle, secrets, people=not as_json
            )
        except MpftError as error:
            if config.file:
                error.args = (f"{config.file}: {error}",)
            raise
        del bundle  # as large as what was loaded of it
        notifier = Notifier()
        end = None if seconds is None else time.monotonic() + seconds
        watch.start()
        count = len(config.sources)
        notifier.send(f"READY=1\nSTATUS=screening {count} source{'s' * (count != 1)}")
        while not (flags.stop.is_set() or watch.finished or _reader_left()):
            if end is not None and time.monotonic() >= end:
                break
            if flags.reload.is_set():
                flags.reload.clear()
                _reload(manager, read)
            watch.tick()
            manager.tick()
            if watch.alive():
                notifier.alive()
            flags.stop.wait(TICK)
        told = flags.stop.is_set() or _reader_left()
        notifier.send("STOPPING=1")
        # Python would wait for threads that look names up, as long as a name server is silent.
        clean = watch.stop() and not any(
            one.name.startswith("asyncio_") for one in threading.enumerate()
        )
        failure = watch.failure
    if failure is not None:
        if isinstance(failure, MpftError):
            raise failure
        logger.error("ended, since a part failed that nothing works without: %s", failure)
        return _leave(1, clean)
    missing = {} if told else watch.without_frames()
    for name, why in missing.items():
        logger.error("%s: not one frame came: %s", name, why)
    lost = next(filter(None, (getattr(sink, "lost", None) for sink in sinks)), None)
    if lost is not None:
        logger.error("standard output could not be written: %s", lost.strerror)
        return _leave(EnvironmentLacksError.exit_code, clean)
    return _leave(1 if missing else 0, clean)


def _need_posix() -> None:
    """Say at once that streams are not for Windows, where files are still judged."""
    from mpft_deploy.errors import EnvironmentLacksError

    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise EnvironmentLacksError(
            "streams need Linux, macOS or another POSIX system; on this one mpft screen judges "
            "images, folders and clips"
        ) from None


_CUT_SHORT = (
    b"ended at once: events that still waited to be told are lost, but for those in the store, "
    b"which the next start sends\n"
)


class _Flags:
    """What signals ask for."""

    def __init__(self) -> None:
        self.stop, self.reload = threading.Event(), threading.Event()


@contextmanager
def _signals() -> Iterator[_Flags]:
    """SIGTERM and Ctrl-C end the run, twice at once; SIGHUP has the configuration read again."""
    flags = _Flags()

    def stop(number: int, frame: FrameType | None) -> None:
        if flags.stop.is_set():
            os.write(2, _CUT_SHORT)  # no lock, which whoever was interrupted may hold
            os._exit(128 + number)
        flags.stop.set()

    def reload(number: int, frame: FrameType | None) -> None:
        flags.reload.set()

    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    before = {number: signal.signal(number, action) for number, action in wanted.items()}
    try:
        yield flags
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _open_watch(
    config: Config,
    screener: Screener,
    bundle: Bundle,
    secrets: set[str],
    *,
    people: bool,
) -> tuple[Watch, Iterable[Sink], Manager]:
    """Sources, put together but not started, and whom they tell; lines for people if wanted."""
    from mpft_deploy.screen.manage import Manager
    from mpft_deploy.screen.streams.watch import Watch
    from mpft_deploy.screen.teach import Teacher
    from mpft_deploy.screen.tell.fanout import open_sinks
    from mpft_deploy.screen.tell.metrics import open_metrics
    from mpft_deploy.screen.tell.notify import TextSink
    from mpft_deploy.screen.web import serve, serve_health

    tell = config.tell
    metrics = open_metrics(tell)
    evidence = tell.snapshots.when if tell.snapshots is not None else ()
    keep = tell.http is not None
    watch = Watch(screener, config, keep=keep, evidence=evidence, metrics=metrics)

    def statuses() -> list[SourceStatus] | None:
        return watch.statuses() if watch.started else None  # the manager adds sources

    sinks = open_sinks(tell, watch.take_evidence, statuses)
    teacher = Teacher(screener.calibration, screener.seal, sinks.store)
    sinks.append(teacher)
    manager = Manager(watch, config, sinks.store, teacher, secrets)
    if tell.evidence is not None:
        from mpft_deploy.screen.evidence.keeper import EvidenceSink
        from mpft_deploy.screen.evidence.package import engine_of

        judging = engine_of(bundle, screener.policy, config.screen.threshold)
        sinks.evidence = EvidenceSink(tell.evidence, watch.record, judging, sinks.store)
    if people and (tell.jsonl is None or tell.jsonl.path != "-"):
        sinks.append(TextSink())
    if tell.http is not None:
        info = bundle.info
        engine = {"backend": info.backend, "precision": str(info.precision)}
        engine["bundle"] = screener.seal[:12]
        page = serve(
            watch,
            tell.http,
            sinks,
            metrics=metrics,
            engine=engine,
            manager=manager,
            live=tell.live,
            push=tell.push,
        )
        logger.info("dashboard: %s", page.url)
    if tell.health is not None:
        health = serve_health(watch, tell.health)
        logger.info("health: %s", health.url)
        sinks.append(health)
    watch.tell(sinks)
    return watch, sinks, manager


def _reload(manager: Manager, read: Callable[[], Config]) -> None:
    """Take the configuration as it is now; whatever is wrong with it, screening goes on."""
    from mpft_deploy.errors import MpftError

    try:
        manager.reload(read())
    except Exception as error:
        why = str(error) if isinstance(error, MpftError) else f"{type(error).__name__}: {error}"
        logger.error("the configuration was not taken: %s; the one before stays", why)


def _warn_undecidable(config: Config, calibration: Calibration) -> None:
    """Name the streams that can hardly be called generated, whatever they show."""
    from mpft_deploy.screen.streams.decision import UNMEASURED, hypotheses

    held, untaught = calibration.held_out, []
    if held is None:
        logger.warning("streams stay unsure: %s", UNMEASURED)
        return
    for source in config.sources:
        tests = hypotheses(config.decision, calibration, None, len(source.boxes))
        if tests is not None:
            reach, bound = tests[0].reach(held.separation / 2), tests[0].bound
            if reach < bound:
                taught = {(name, one.box) for name, one in config.baselines.items()}
                untaught += [
                    name for name, box in source.boxes.items() if (name, box) not in taught
                ]
    if untaught:
        logger.warning(
            "not taught, so likely to stay unsure: %s. Evidence of an average generated stream "
            "ends at %+.1f there, and an alarm takes %.1f. Teach each with an hour that shows "
            "nothing generated: mpft calibrate BUNDLE --camera NAME --config cameras.toml",
            ", ".join(untaught),
            reach,
            bound,
        )


def _reader_left() -> bool:
    """Whether nobody reads standard output any more, as after `| head`."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(state & (select.POLLERR | select.POLLNVAL) for _, state in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no descriptor, or a system without poll
        return False


def _leave(code: int, clean: bool) -> int:
    """Return the code; where a thread hangs in a library, end the process without waiting."""
    if not clean:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
