"""An archive: any number of image files to verdicts in Parquet, one row a file, however it ends.

Files are dealt out in parts of PART. A part's rows are written whole under a name that follows from
its files, so that a part that is judged again replaces itself; a run that was stopped judges what
has no row yet. Ray (arXiv 1712.05889) deals out the parts, here or on a cluster, holds back what
would not fit, and starts workers again that were lost.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mpft_deploy.errors import EnvironmentLacksError, InputError, MpftError, UsageError
from mpft_deploy.extras import require
from mpft_deploy.files import display, printable, sha256, write_atomic
from mpft_deploy.images import IMAGE_SUFFIXES, check_readable, find_files, read_picture

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from mpft_deploy.screen.screener import Screener

PART = 256
"""Files in a part: what the loss of a worker costs."""

MARK = b"mpft.archive"
"""Key of a part's metadata: the seal of the bundle that judged, and how."""

LISTS = (".txt", ".lst")


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


def find_sources(sources: Iterable[str], others: Counter[str]) -> Iterator[bytes]:
    """The files of some folders, lists and addresses, by the bytes of their names.

    A folder gives its images by suffix; a `.txt` is a list, one file or address a line; an address
    such as s3://bucket/folder is a folder of an object storage that pyarrow knows; anything else
    is a file.

    Args:
        others: counts the files of other kinds by suffix.

    Raises:
        InputError: a list or a storage cannot be read.
    """
    for source in sources:
        path = Path(source)
        if "://" in source:
            yield from _of_storage(source, others)
        elif path.is_dir():
            for found in find_files(path, IMAGE_SUFFIXES, others=others):
                yield os.fsencode(found)
        elif path.suffix.lower() in LISTS:
            try:
                lines = path.read_bytes().splitlines()
            except OSError as error:
                raise InputError(f"{display(path)}: {error.strerror}") from None
            yield from filter(None, map(bytes.strip, lines))
        else:
            yield os.fsencode(source)


def _of_storage(address: str, others: Counter[str]) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import fs

    try:
        storage, root = fs.FileSystem.from_uri(address)
        scheme = address.partition("://")[0]
        if storage.get_file_info(root).type == fs.FileType.File:
            yield address.encode()
            return
        for one in storage.get_file_info(fs.FileSelector(root, recursive=True)):
            if one.type == fs.FileType.File:
                suffix = Path(one.path).suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    yield f"{scheme}://{one.path}".encode()
                else:
                    others[suffix] += 1
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise InputError(f"{display(address)} cannot be listed: {error}") from None


def _bytes_of(name: bytes) -> bytes:
    """The bytes of a file, here or in a storage; an InputError if it cannot be read."""
    text = os.fsdecode(name)
    if "://" not in text:
        check_readable(Path(text))
        try:
            return Path(text).read_bytes()
        except OSError as error:
            raise InputError(f"{display(text)}: {error.strerror}") from None
    import pyarrow as pa
    from pyarrow import fs

    try:
        storage, path = fs.FileSystem.from_uri(text)
        with storage.open_input_stream(path) as stream:
            return bytes(stream.read())
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{display(text)}: {error}") from None


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


def shown(name: bytes) -> str:
    """A name as results have it."""
    return name.decode("utf-8", "backslashreplace")


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
        self._out, self._mark = Path(out), mark_of(how)

    def part(self, names: Sequence[bytes]) -> int:
        """Judge some files and write their rows; how many have an error."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [judge(self._screener, name) for name in names]
        table = pa.Table.from_pylist(rows, schema().with_metadata({MARK: self._mark}))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        path = self._out / f"part-{sha256(bytes(1).join(names))[:16]}.parquet"
        write_atomic(path, sink.getvalue().to_pybytes())
        return sum(bool(row["error"]) for row in rows)

    def __call__(self, block: pa.Table) -> pa.Table:
        """A block of names to how many are done, for Ray."""
        import pyarrow as pa

        names = block["name"].to_pylist()
        return pa.table({"done": [len(names)], "errors": [self.part(names)]})


def mark_of(how: How) -> bytes:
    """What the parts of a run have in common: the bundle by its seal, views and threshold."""
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.files import canonical_json

    seal = read_bundle(Path(how.bundle)).seal
    return canonical_json({"seal": seal, "views": how.views, "threshold": how.threshold})


def judge(screener: Screener, name: bytes) -> dict[str, Any]:
    """The row of a file; one that cannot be judged has an error and no verdict."""
    path = Path(os.fsdecode(name))
    row: dict[str, Any] = {"path": shown(name), "reason": "", "note": "", "error": ""}
    try:
        data = _bytes_of(name)
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
    height, width = prepared.size
    return row | {
        "verdict": judgement.verdict,
        "probability": judgement.probability,
        "logit": judgement.logit,
        "views": judgement.views,
        "share": judgement.looked_at.share,
        "windows": [list(window) for window in judgement.looked_at.windows],
        "width": width,
        "height": height,
        "reason": judgement.reason,
        "note": picture.note,
    }


def parts(names: Sequence[bytes], done: npt.NDArray[np.uint64]) -> list[list[bytes]]:
    """What has no row yet, each name once, in parts.

    A part of which nothing is done is the same one in every run over the same names: a worker that
    outlived its run by a moment writes what the next run replaces, and no second row.
    """
    import numpy as np

    each = list(dict.fromkeys(names))
    missing = ~np.isin(digest(shown(one).encode() for one in each), done)
    whole: list[list[bytes]] = []
    rest: list[bytes] = []
    for start in range(0, len(each), PART):
        part, wanted = each[start : start + PART], missing[start : start + PART]
        if wanted.all():
            whole.append(part)
        else:
            rest += [name for name, one in zip(part, wanted.tolist(), strict=True) if one]
    return whole + [rest[start : start + PART] for start in range(0, len(rest), PART)]


def judge_archive(
    work: Sequence[Sequence[bytes]],
    how: How,
    out: Path,
    *,
    workers: int,
    address: str | None = None,
    progress: Callable[[int, int], None] = lambda done, errors: None,
) -> None:
    """Judge parts by Ray's actors, each with an engine of one thread.

    Args:
        workers: how many.
        address: of a cluster whose machines see the sources, `out` and the bundle, and have this
            package; None runs here.
        progress: told how many files are done and how many of them have an error.

    Raises:
        EnvironmentLacksError: the extra `ray` is not installed, or Ray does not start or ends.
        MpftError: a worker's.
    """
    require("ray", "an archive", "ray", "pyarrow")
    import logging

    import pyarrow as pa
    import ray
    import ray.data

    out.mkdir(parents=True, exist_ok=True)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    here: dict[str, Any] = {
        "num_cpus": workers,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",  # nobody else is to reach it
    }
    try:
        ray.init(address=address or "local", log_to_driver=False, **({} if address else here))
    except Exception as error:  # Ray has no kind of its own for this
        raise EnvironmentLacksError(
            f"Ray does not {'answer at ' + address if address else 'start'}: "
            f"{printable(str(error))}. On a busy machine, try again later or set "
            "RAY_raylet_start_wait_time_s=120."
        ) from None
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        blocks = [pa.table({"name": pa.array(part, pa.binary())}) for part in work]
        judged = ray.data.from_arrow(blocks).map_batches(
            Judge,
            fn_constructor_args=(how, str(out.absolute())),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(work))),
            num_cpus=1,
        )
        done = errors = 0
        for batch in judged.iter_batches(batch_size=None, batch_format="pyarrow"):
            done += sum(batch["done"].to_pylist())
            errors += sum(batch["errors"].to_pylist())
            progress(done, errors)
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MpftError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        said = str(error).strip().rpartition("Error: ")[2].partition("\n")[0]
        raise cause or EnvironmentLacksError(
            f"a worker of Ray cannot go on: {printable(said)}. The same command goes on from what "
            "is written."
        ) from None
    finally:
        ray.shutdown()
