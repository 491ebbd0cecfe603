"""An archive: one row a file, whatever the file is and however often the run was stopped."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import encoded, picture

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.images import decode_image
from mpft_deploy.screen import Screener, storage
from mpft_deploy.screen import archive as archives
from mpft_deploy.screen.archive import (
    LAST,
    PART,
    SHARE,
    How,
    Judge,
    done_in,
    mark_of,
    parts,
    schema,
    slices,
)
from mpft_deploy.screen.storage import bytes_of, find_sources

GOOD = 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a damaged one, an empty file, one whose name is no UTF-8, and something else."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(GOOD - 1):
        (folder / f"{index}.png").write_bytes(encoded(picture(40 + index, 50, index)))
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.png")).write_bytes(encoded(picture(60, 60)))
    (folder / "damaged.png").write_bytes(encoded(picture(40, 40))[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    return folder


def names_in(*sources: object) -> tuple[list[bytes], Counter[str]]:
    others: Counter[str] = Counter()
    return list(find_sources(map(str, sources), others)), others


def read(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*.parquet")))


def test_sources_are_folders_lists_files_and_storages(photos: Path, tmp_path: Path) -> None:
    found, others = names_in(photos)
    assert len(found) == GOOD + 2
    assert others == {".txt": 1}
    (tmp_path / "list.txt").write_bytes(b"\n".join([*found[:2], b"", b"s3://bucket/key.jpg "]))
    assert names_in(tmp_path / "list.txt")[0] == [*found[:2], b"s3://bucket/key.jpg"]
    assert names_in(photos / "0.png")[0] == [os.fsencode(photos / "0.png")]
    with pytest.raises(InputError, match="cannot be listed"):
        names_in(f"file://{photos}")  # one name there is no UTF-8, which storages must have
    with pytest.raises(InputError, match="cannot be listed"):
        names_in("file:///no/such/folder")
    with pytest.raises(InputError, match="No such file"):
        names_in(tmp_path / "none.txt")


@pytest.mark.parametrize("end", ["", "/"])
def test_what_a_storage_lists_is_read_by_one_client(end: str, tmp_path: Path) -> None:
    names = ("a.png", "b c?#.png", "50%.png", "é.jpg")
    (tmp_path / "de ep" / "folder").mkdir(parents=True)
    for name in (*names, "b.txt"):
        (tmp_path / "de ep" / "folder" / name).write_text(name)
    storage._client.cache_clear()
    stored, others = names_in(f"file://{tmp_path}/de%20ep{end}")
    assert others == {".txt": 1}
    assert f"file://{tmp_path}/de%20ep/folder/b%20c%3F%23.png".encode() in stored
    assert sorted(bytes_of(one).decode() for one in stored) == sorted(names)
    assert names_in(os.fsdecode(stored[0]))[0] == stored[:1]
    assert storage._client.cache_info().misses == 1


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:hush@bucket/folder",
        "s3://AKIA:hush/h@bucket/x.png",
        "s3://AKIA:h?hush@bucket/x.png",
        "abfs://:hush@account.dfs.core.windows.net/box/x.png",
        "s3://bucket/x.png?endpoint_override=key:hush@host",
        "abfs://box@account.dfs.core.windows.net/x.png?client_id=a&client_secret=hush",
        "abfs://box@account.dfs.core.windows.net/x.png?sv=2020&%73ig=hush",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_told(address: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a.png\n{address}\n")
    for source, where in ((address, "an address"), (tmp_path / "list.txt", "list.txt, line 2: ")):
        with pytest.raises(InputError, match=f"{where}.* has a (password|secret)") as told:
            names_in(source)
        assert "hush" not in str(told.value)


def test_an_address_without_a_secret_is_taken(tmp_path: Path) -> None:
    addresses = [
        "file:///photos/10:30@gate.png",
        "s3://bucket/10:30%40gate.png?region=eu-central-1",
        "s3://bucket:9000/x.png",
        "abfs://box@account.dfs.core.windows.net/key.png",
    ]
    (tmp_path / "list.txt").write_text("\n".join(addresses))
    assert names_in(tmp_path / "list.txt")[0] == [one.encode() for one in addresses]


def test_rows_are_the_verdicts_of_screening_and_bad_files_are_rows(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    how = How(str(bundle))
    names = [*names_in(photos)[0], b"/no/such.png", b"file://" + bytes(photos / "0.png")]
    judged = Judge(how, str(tmp_path)).part(names)
    table = read(tmp_path)
    assert table.schema.equals(schema())
    assert len(table) == len(names)
    assert judged == (len(names), 3)
    screener = Screener.open(bundle)
    for row in table.to_pylist():
        file = row["path"].removeprefix("file://").replace("\\xe9", "\udce9")
        if "damaged" in file or "empty" in file or "no/such" in file:
            assert row["error"]
            assert row["verdict"] is None
            continue
        judged = screener(decode_image(Path(file)))
        assert row["sha256"] == hashlib.sha256(Path(file).read_bytes()).hexdigest()
        assert (row["verdict"], row["logit"]) == (judged.verdict, judged.logit)
        assert row["windows"] == [list(one) for one in judged.looked_at.windows]
        assert row["error"] == ""


def test_a_run_goes_on_with_what_has_no_row(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PART", 2)
    how, out = How(str(bundle)), tmp_path / "out"
    out.mkdir()
    seal = Screener.open(bundle).seal
    mark, names = mark_of(seal, how), names_in(photos)[0]
    work = parts([*names, names[0]], done_in(out, mark))
    assert [name for part in work for name in part] == names
    judge = Judge(how, str(out))
    for part in work[:2]:
        judge.part(part)
    judge.part(work[0])  # a worker that was lost after it wrote
    (out / ".mpft-0.tmp").write_bytes(b"half a part")
    left = parts(names, done_in(out, mark))
    assert [name for part in left for name in part] == names[4:]
    for part in left:
        judge.part(part)
    assert len(read(out)) == len(names)
    assert len(set(read(out)["path"].to_pylist())) == len(names)
    assert parts(names, done_in(out, mark)) == []

    with pytest.raises(UsageError, match="verdicts of another bundle or of other settings"):
        done_in(out, mark_of(seal, How(str(bundle), threshold=0.9)))
    (out / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match="no result of an archive"):
        done_in(out, mark)
    with pytest.raises(UsageError, match="is a file"):
        done_in(out / "holiday.jpg", mark)


def test_a_worker_that_outlives_its_run_writes_no_second_row(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PART", 2)
    how, names = How(str(bundle)), names_in(photos)[0]
    judge = Judge(how, str(tmp_path))
    late = parts(names, np.zeros(0, np.uint64))[1]
    judge.part(names[:1])
    mark = mark_of(Screener.open(bundle).seal, how)
    for part in parts(names, done_in(tmp_path, mark)):
        judge.part(part)
    judge.part(late)
    assert len(read(tmp_path)) == len(names)


@given(st.integers(0, 3000))
def test_parts_get_small_towards_the_end(count: int) -> None:
    found = list(slices(count))
    assert [index for one in found for index in range(count)[one]] == list(range(count))
    for one in found:
        size, left = one.stop - one.start, count - one.start
        assert size <= max(LAST, left // SHARE)
    assert len(found) <= count / PART + SHARE * (1 + math.log(PART / LAST)) + SHARE


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not here")
def test_the_command(
    mpft: Callable[..., tuple[int, str, str]], photos: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("screen", "--archive", photos, "--out", out, "--bundle", bundle, "--workers", 2)
    code, told, _ = mpft(*arguments)
    assert code == 1
    assert f"{GOOD + 2} judged, 2 of them with an error" in told
    assert len(read(out)) == GOOD + 2
    code, told, error = mpft(*arguments)
    assert (code, f"{GOOD + 2} of them judged before" in error) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--archive", "a"], "a folder for the results with --out"),
        (["--archive", "a", "--out", "o", "--fps", "2"], "--fps has no meaning for an archive"),
        (["--archive", "a", "--out", "o", "--json"], "--json has no meaning for an archive"),
        (["a", "--workers", "2"], "--workers has no meaning without --archive"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    arguments: list[str], told: str, mpft: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, error = mpft("screen", *arguments)
    assert code == 2
    assert told in out + error


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="the extra ray is here")
def test_without_ray_the_extra_is_named(
    mpft: Callable[..., tuple[int, str, str]], photos: Path, bundle: Path, tmp_path: Path
) -> None:
    code, _, error = mpft("screen", "--archive", photos, "--out", tmp_path, "--bundle", bundle)
    assert code == 3
    assert "an archive needs ray" in error
    assert "[ray]" in error
