"""Files that hold many labelled images: Parquet, folders saved to disk, WebDataset."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from trees import image

from mpft_deploy.dataset import (
    find_samples,
)
from mpft_deploy.errors import InputError
from mpft_deploy.evaluate.run import find_entries
from mpft_deploy.finding import others_in
from mpft_deploy.images import decode_image


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, colour, colour)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, metadata: object = None, **columns: list[object]) -> Path:
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def hugging_face(values: list[int]) -> list[object]:
    return [{"bytes": png(value), "path": f"{value}.png"} for value in values]


NAMED = {"info": {"features": {"label": {"names": ["fake", "real"], "_type": "ClassLabel"}}}}


@pytest.mark.parametrize(
    ("name", "columns", "metadata", "expected"),
    [
        (
            "OpenFake/data/train-00000-of-00002.parquet",
            {"image": [1, 2, 3], "label": ["real", "fake", "fake"], "model": ["real", "a", "b"]},
            None,
            [(0, "", "train"), (1, "a", "train"), (1, "b", "train")],
        ),
        (
            "CommunityForensics/data/CompEval-00000-of-00002-0ab1.parquet",
            {
                "image_data": [1, 2],
                "label": [0, 1],
                "model_name": ["", "sd"],
                "split": ["eval"] * 2,
            },
            None,
            [(0, "", "eval"), (1, "sd", "eval")],
        ),
        (
            "So-Fake/test/0.parquet",
            {"image": [1, 2, 3], "mask": [4, 5, 6], "label": [0, 1, 2]},
            None,
            [(0, "", "test"), (1, "full_synthetic", "test"), (1, "tampered", "test")],
        ),
        (
            "named/0.parquet",
            {"image": [1, 2], "label": [0, 1]},
            NAMED,
            [(1, "fake", None), (0, "", None)],
        ),
    ],
)
def test_parquet_files_are_read_by_their_columns(
    name: str,
    columns: dict[str, list[object]],
    metadata: object,
    expected: list[tuple[int, str, str | None]],
    tmp_path: Path,
) -> None:
    packed = {
        key: hugging_face(values) if key in ("image", "mask") else values  # type: ignore[arg-type]
        for key, values in columns.items()
    }
    if "image_data" in packed:
        packed["image_data"] = [png(value) for value in columns["image_data"]]  # type: ignore[arg-type]
    path = shard(tmp_path / name, metadata, **packed)
    root = tmp_path / name.partition("/")[0]
    for source in (root, path):
        found = find_samples([source])
        assert [(s.label, s.generator, s.split) for s in found] == expected or source == path
        colours = [int(decode_image(s.path)[0, 0, 0]) for s in found]
        assert colours == [1, 2, 3][: len(expected)]
    assert {s.set for s in find_samples([root])} == {root.name}
    assert [one.sample.label for one in find_entries([root], limit=1)] == [0, 1] or metadata


def test_what_parquet_files_lack_is_told(tmp_path: Path) -> None:
    cases = {
        "no column of labels .*, only image": {"image": hugging_face([1])},
        "no column of images .*, only label": {"label": [0]},
        r"labels that are not understood: 7 \(1\)": {"image": hugging_face([1]), "label": [7]},
    }
    for number, (told, columns) in enumerate(cases.items()):
        path = shard(tmp_path / str(number) / "0.parquet", **columns)
        with pytest.raises(InputError, match=told):
            find_samples([path])
    empty = shard(tmp_path / "empty" / "0.parquet", image=[{"bytes": None, "path": "a"}], label=[1])
    [sample] = find_samples([empty], plain_is_real=True)
    for row in (0, 5):
        with pytest.raises(InputError, match=rf"0.parquet/{row}: no image in this row"):
            decode_image(sample.path.with_name(str(row)))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="no Parquet file, or damaged"):
        find_samples([tmp_path / "bad.parquet"])
    image(tmp_path / "empty" / "photo.png")
    with pytest.raises(InputError, match=r"holds files of many images, .* and image files"):
        find_samples([tmp_path / "empty"])


def saved(
    folder: Path, metadata: object, split: str | None, *files: dict[str, list[object]]
) -> Path:
    """A folder as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{at:05}-of-{len(files):05}.arrow" for at in range(len(files))]
    for name, columns in zip(names, files, strict=True):
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(metadata)})
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_folders_that_were_saved_to_disk(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    first = {"image": hugging_face([1, 2]), "label": [0, 1], "model": ["a", "b"]}
    saved(root / "train", NAMED, None, first, {k: v[:1] for k, v in first.items()})
    saved(root / "test", NAMED, "test", first)
    found = find_samples([root])
    assert [(s.label, s.generator, s.split, s.set) for s in found] == [
        (1, "a", "test", "hub"), (0, "", "test", "hub"),
        (1, "a", "train", "hub"), (0, "", "train", "hub"), (1, "a", "train", "hub"),
    ]  # fmt: skip
    assert [int(decode_image(s.path)[0, 0, 0]) for s in found] == [1, 2, 1, 2, 1]
    assert others_in([root]) == ""
    with pytest.raises(InputError, match="no image in this row"):
        decode_image(found[0].path.with_name("2"))
    (root / "test" / "data-00000-of-00001.arrow").write_bytes(b"no more")
    with pytest.raises(InputError, match="no folder that was saved to disk, or damaged"):
        find_samples([root])


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_shards_of_webdataset(tmp_path: Path) -> None:
    """Images by the byte that they begin at, whatever lies between and however long names are."""
    deep = "deep/" + "x" * 150
    told = json.dumps({"label": "fake", "model": "sd", "source": "here"}).encode()
    shard = tar(
        tmp_path / "data" / "train-000003.tar",
        {
            "a.cls": b"0", "a.png": png(1), "a.mask.png": png(8), "b.png": png(2), "b.cls": b" 1\n",
            f"{deep}.json": told, f"{deep}.jpg": png(3), "folder/": b"", "a.txt": b"a caption",
        },
    )  # fmt: skip
    for source in (shard, tmp_path / "data"):
        found = find_samples([source])
        assert [(s.label, s.generator, s.split, s.set) for s in found] == [
            (0, "", "train", "data"), (1, "1", "train", "data"), (1, "sd", "train", "data"),
        ]  # fmt: skip
        assert [int(decode_image(s.path)[0, 0, 0]) for s in reversed(found)] == [3, 2, 1]
        assert others_in([source]) == ""
    with pytest.raises(InputError, match=r"train-000003\.tar/7.*shard|no image"):
        decode_image(shard / "7")
    unlabelled = tar(tmp_path / "other" / "0.tar", {"a.png": png(1), "a.json": b'{"caption": "x"}'})
    with pytest.raises(InputError, match=r"0\.tar/0: no label, only caption; expected 0 or 1"):
        find_samples([unlabelled])
    for bad in (b"no tar", gzip.compress(shard.read_bytes())):
        unlabelled.write_bytes(bad)
        with pytest.raises(InputError, match="cannot be read as a shard"):
            find_samples([unlabelled])
    # Beside what was unpacked from it, an archive is not the data.
    for name in ("real", "fake"):
        image(tmp_path / "data" / name / "a.png")
    assert len(find_samples([tmp_path / "data"])) == 2
    assert "1 .tar" in others_in([tmp_path / "data"])
