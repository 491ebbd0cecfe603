"""An archive: any number of image files to verdicts in Parquet, one row a file, however it ends.

Files are dealt out in parts, the next one to whichever worker is free. A part's rows are written
whole under a name that follows from its files, so that a part that is judged again replaces itself;
a run that was stopped judges what has no row yet. Ray (arXiv 1712.05889) runs the workers, here or
on a cluster, and starts again those that were lost.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mpft_deploy.errors import EnvironmentLacksError, InputError, MpftError, UsageError
from mpft_deploy.files import canonical_json, display, file_name, printable, sha256, write_atomic
from mpft_deploy.images import read_picture
from mpft_deploy.screen.storage import bytes_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from mpft_deploy.screen.screener import Screener

PART, LAST = 256, 8
"""Files in a part, and in the last ones: what the loss of a worker costs."""

SHARE = 32
"""A part is at most this share of what is left, so that no worker is long the only one at work."""

LOSSES = 3
"""How often a worker may be lost over one part before the run ends with that."""

STORE = 100 << 20
"""Bytes that Ray on this machine shares among processes: names and counts hardly need any."""

MARK = b"mpft.archive"
"""Key of a part's metadata: the seal of the bundle that judged, and how."""

PATIENCE = ("RAY_raylet_start_wait_time_s", "60")
"""A busy machine takes longer to start Ray than the 30 s that it has by default; that a part of it
has died is not noticed before."""


class How(NamedTuple):
    """What decides a verdict besides the file: bundle, views and threshold, None for its own."""

    bundle: str
    views: str | None = None
    threshold: float | None = None


def schema() -> pa.Schema:
    """Columns of the results. `path` is as it was given, bytes that are no UTF-8 as \\xNN; numbers
    are null where `error` says why there is no verdict; `windows` are row, column, height and
    width of each view that counts."""
    import pyarrow as pa

    return pa.schema(
        [
            ("path", pa.string()),
            ("sha256", pa.string()),
            ("verdict", pa.string()),
            ("probability", pa.float64()),
            ("logit", pa.float64()),
            ("views", pa.int32()),
            ("share", pa.float64()),
            ("windows", pa.list_(pa.list_(pa.int32()))),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("reason", pa.string()),
            ("note", pa.string()),
            ("error", pa.string()),
        ]
    )


def digest(names: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """64 bits of each name: two of ten million are the same once in 370,000 archives."""
    import numpy as np

    words = (hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(words), np.uint64)


def done_in(out: Path, mark: bytes) -> npt.NDArray[np.uint64]:
    """Digests, sorted, of the names that a results' folder has rows of.

    Raises:
        UsageError: it holds something else, or verdicts of another bundle.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [np.zeros(0, np.uint64)]
    if out.exists() and not out.is_dir():
        raise UsageError(f"{display(out)} is a file: name a folder for the results")
    for path in sorted(out.iterdir()) if out.exists() else ():
        if path.name.startswith("."):
            continue
        try:
            marked = (pq.read_schema(path).metadata or {}).get(MARK)
            names = pq.read_table(path, columns=["path"])["path"].to_pylist()
        except (OSError, pa.ArrowException, KeyError):
            marked = None
        if marked is None:
            raise UsageError(
                f"{display(path)} is no result of an archive: name an empty folder, or one of an "
                "archive to go on with"
            )
        if marked != mark:
            raise UsageError(
                f"{display(out)} holds verdicts of another bundle or of other settings: name "
                "another folder"
            )
        found.append(digest(name.encode() for name in names))
    return np.unique(np.concatenate(found))


class Judge:
    """Judges parts with an engine of its own, and writes them."""

    def __init__(self, how: How, out: str) -> None:
        from mpft_deploy.screen.screener import Screener

        self._screener = Screener.open(
            how.bundle,
            views=how.views,  # type: ignore[arg-type]  # checked where it was given
            threshold=how.threshold,
            threads=1,
        )
        self._out, self._mark = Path(out), mark_of(self._screener.seal, how)

    def ready(self) -> tuple[int, int]:
        """What it has judged when it has started: nothing."""
        return 0, 0

    def part(self, names: Sequence[bytes]) -> tuple[int, int]:
        """Judge some files and write their rows; how many they are, and how many with an error."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [judge(self._screener, name) for name in names]
        table = pa.Table.from_pylist(rows, schema().with_metadata({MARK: self._mark}))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        path = self._out / f"part-{sha256(bytes(1).join(names))[:16]}.parquet"
        write_atomic(path, sink.getvalue().to_pybytes())
        return len(rows), sum(bool(row["error"]) for row in rows)


def mark_of(seal: str, how: How) -> bytes:
    """What the parts of a run have in common: the bundle by its seal, views and threshold."""
    return canonical_json({"seal": seal, "views": how.views, "threshold": how.threshold})


def judge(screener: Screener, name: bytes) -> dict[str, Any]:
    """The row of a file; one that cannot be judged has an error and no verdict."""
    path = Path(os.fsdecode(name))
    row: dict[str, Any] = {"path": file_name(name), "reason": "", "note": "", "error": ""}
    try:
        data = bytes_of(name)
        row["sha256"] = sha256(data)
        picture = read_picture(path, centre=screener.centre, data=data)
        prepared = screener.prepare(picture.pixels, picture.whole)
        judgement = screener.judge([prepared])[0].judgement
    except InputError as error:
        return row | {"error": str(error)}
    except MpftError:
        raise
    except Exception as error:  # one file must not stop ten million
        return row | {"error": f"cannot be screened ({type(error).__name__}: {error})"}
    said: dict[str, Any] = msgspec.to_builtins(judgement)
    at: dict[str, Any] = said.pop("looked_at")
    height, width = prepared.size
    return row | said | at | {"width": width, "height": height, "note": picture.note}


def parts(names: Sequence[bytes], done: npt.NDArray[np.uint64]) -> list[list[bytes]]:
    """What has no row yet, each name once, in parts.

    A part of which nothing is done is the same one in every run over the same names: a worker that
    outlived its run by a moment writes what the next run replaces, and no second row.
    """
    import numpy as np

    each = list(dict.fromkeys(names))
    missing = ~np.isin(digest(file_name(one).encode() for one in each), done)
    whole: list[list[bytes]] = []
    rest: list[bytes] = []
    for one in slices(len(each)):
        part, wanted = each[one], missing[one]
        if wanted.all():
            whole.append(part)
        else:
            rest += itertools.compress(part, wanted)
    return whole + [rest[one] for one in slices(len(rest))]


def slices(count: int) -> Iterator[slice]:
    """Parts of so many files: of PART, and of ever fewer towards the end."""
    start = 0
    while start < count:
        size = min(PART, max(LAST, (count - start) // SHARE))
        yield slice(start, start + size)
        start += size


def judge_archive(
    work: Sequence[Sequence[bytes]],
    how: How,
    out: Path,
    *,
    workers: int,
    address: str | None = None,
) -> Iterator[tuple[int, int]]:
    """Judge parts by Ray's actors, each with an engine of one thread.

    Yields how many files are done, and how many of them have an error.

    Args:
        workers: how many.
        address: of a cluster whose machines see the sources, `out` and the bundle, and have this
            package; None runs here.

    Raises:
        EnvironmentLacksError: Ray does not start or ends.
        MpftError: a worker's.
    """
    import logging

    os.environ.setdefault(*PATIENCE)
    import ray

    out.mkdir(parents=True, exist_ok=True)
    here: dict[str, Any] = {
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": STORE,
        "_node_ip_address": "127.0.0.1",  # nobody else is to reach it
    }
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else here),
        )
    except Exception as error:  # Ray has no kind of its own for this
        raise EnvironmentLacksError(
            f"Ray does not {'answer at ' + address if address else 'start'}: "
            f"{printable(str(error))}. On a busy machine, try again later."
        ) from None
    part: Sequence[bytes] = ()
    try:
        worker = ray.remote(Judge).options(num_cpus=1, max_restarts=-1, max_task_retries=LOSSES)
        judges = [worker.remote(how, str(out.absolute())) for _ in range(min(workers, len(work)))]
        # A part goes to a worker that has started: a cluster may have room for fewer.
        running = {one.ready.remote(): (one, part) for one in judges}
        left, total = deque(work), sum(map(len, work))
        done = errors = 0
        while done < total:
            [ended], _ = ray.wait([*running])
            free, part = running.pop(ended)
            judged, failed = ray.get(ended)
            done, errors = done + judged, errors + failed
            yield done, errors
            if left:
                part = left.popleft()
                running[free.part.remote(part)] = (free, part)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, MpftError):
            raise cause from None
        said = str(error).strip().rpartition("Error: ")[2].partition("\n")[0]
        over = f"over a part of {len(part)}, from {display(part[0])}" if part else "at its start"
        raise EnvironmentLacksError(
            f"a worker of Ray cannot go on, {over}: {printable(said)}. The same command goes on "
            "from what is written."
        ) from None
    finally:
        ray.shutdown()
