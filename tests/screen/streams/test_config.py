"""cameras.toml: defaults, names, the environment, and a clear word on every mistake."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mpft_deploy.bundle import read_bundle
from mpft_deploy.cores import available_cores
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.screen.added import read_added
from mpft_deploy.screen.streams.config import Config, read_config, short_name
from mpft_deploy.screen.streams.settings import ScreenSettings

SECRET = "rtsp://user:s3cr3t@camera/"

GOOD = """
[screen]
bundle = "bundle"
batch = 4

[defaults]
decode = "keyframes"
stall = 5

[decision]
false_alarms = "90d"

[http]
address = "127.0.0.1:0"

[[source]]
name = "door"
address = "rtsp://${USER_NAME}:${PASSWORD}@10.0.0.5/stream"
decode = 5

[[source]]
address = "rtsp://viewer:pw12345@10.0.0.6/stream?channel=1"

[[source]]
address = "rtsp://other:pw54321@10.0.0.6/stream?channel=1"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cameras.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://viewer:pw12345@10.0.0.6/front", "10.0.0.6/front"),
        ("file:///media/a.mp4", "/media/a.mp4"),
        ("csi://0", "csi://0"),
        ("csi:1", "csi:1"),
        ("v4l2:///dev/video0", "v4l2:///dev/video0"),
        ("gst:rtspsrc location=rtsp://10.0.0.6/a ! fakesink",) * 2,
        ("pipe:", "pipe:"),
    ],
)
def test_what_nobody_named_is_called_after_its_address(address: str, name: str) -> None:
    assert short_name(address) == name


def test_a_whole_configuration(tmp_path: Path) -> None:
    environment = {"USER_NAME": "viewer", "PASSWORD": "pässword"}
    config = read_config(write(tmp_path, GOOD), environment)
    door, first, second = config.sources
    assert door.address == "rtsp://viewer:pässword@10.0.0.5/stream"
    assert (door.decode, door.stall) == (5, 5)
    assert first.decode == "keyframes"
    assert [source.name for source in config.sources] == [
        "door",
        "10.0.0.6/stream?channel=1",
        "10.0.0.6/stream?channel=1 2",
    ]
    assert second.target.host == "10.0.0.6"
    assert config.decision.false_alarms == "90d"
    assert config.decision.misses == "1d"
    assert config.screen.batch == 4
    assert config.tell.http is not None
    assert config.tell.webhook is None


def test_the_batch_follows_the_engine_and_threads_the_cores(bundle: Path) -> None:
    own = ScreenSettings()
    fp32 = read_bundle(bundle).info
    assert not fp32.mixes_views
    mixing = msgspec.structs.replace(fp32, mixes_views=True)
    assert (own.batch_of(fp32), own.batch_of(mixing)) == (8, 1)
    cores = available_cores()
    assert (own.engine_threads, ScreenSettings(threads=3).engine_threads) == (cores, 3)


SOURCE = '[[source]]\naddress = "rtsp://cam/a"\n'
SOURCES = SOURCE.replace("rtsp", "rtsps")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no source"),
        ("[[source]", "is not valid TOML: .*line 1"),
        ("a = " + 3000 * "[", "is nested too deeply"),
        (SOURCE + "stal = 3", r"source 1: stal: no such key; did you mean stall\?"),
        (
            SOURCE + "region = [{nam = 'a'}]",
            r"source 1: region\[0\].nam: no such key; did you mean name",
        ),
        (SOURCE + "stall = -3", "source 1: stall: .*> 0"),
        (SOURCE + 'stall = "long"', "source 1: stall: Expected `float`, got `str`"),
        (SOURCE + 'decode = "some"', "source 1: decode"),
        (SOURCE + 'name = "x"\n' + SOURCE + 'name = "x"', "two sources are called 'x'"),
        (SOURCE + 'name = "x"\nsize = "big"', r"source 1 \(x\): size 'big': write WIDTHxHEIGHT"),
        ('[[source]]\nname = "x"', r"source 1 \(x\): address: is missing"),
        ('[[source]]\naddress = "cam://a"', "source 1: address: cam://a: scheme 'cam' is unknown"),
        ('[[source]]\naddress = "pipe:"', "source 1: size: pipe: needs one"),
        (SOURCE + 'ca_file = "a"', "source 1: ca_file: rtsp: shows no certificate; rtsps, https"),
        (SOURCES + 'ca_file = "none"', "source 1: ca_file: none is no readable PEM certificate"),
        (SOURCES + 'ca_file = "cameras.toml"', "source 1: ca_file: cameras.toml is no readable"),
        ("[defaults]\nca_file = 'none'\n" + SOURCES, "source 1: ca_file: none is no readable"),
        ('[[source]]\naddress = "${NOPE}"', r"source 1: \$\{NOPE\}: no such variable"),
        (SOURCE + "[decisions]", "decisions: no such table; did you mean decision"),
        (SOURCE + "[decision]\nmisses = 0.01", r"\[decision\] misses: .*`str`"),
        (SOURCE + "[decision]\nmisses = '1 day'", "misses '1 day': write a time such as \"90s\""),
        (SOURCE + '[decision]\ngap = "1m\\n"', r"\[decision\]: gap '1m\\n': write a time"),
        (SOURCE + "[decision]\nmisses = '15m'", "too short: it must be twice patience"),
        (SOURCE + "[screen]\nviews = 3", r"\[screen\] views"),
        (SOURCE + '[screen]\nbundle = "${NOPE}"', r"\[screen\]: \$\{NOPE\}: no such variable"),
        (SOURCE + '[screen]\nbundle = "a\\u0000"', r"\[screen\]: a\\x00: a text holds a NUL"),
        (SOURCE + '[store]\npath = "a\\u0000"', r"\[store\]: a\\x00: a text holds a NUL"),
        (SOURCE + '"a\\nb" = 1', r"source 1: a\\nb: no such key"),
        (SOURCE + '["a\\nb"]', r"a\\nb: no such table"),
        (SOURCE + 'name = "a\\nb"\nstall = 0', r"source 1 \(a\\nb\): stall"),
        (SOURCE + "max_pixels = 1" + 30 * "0", "max_pixels: Expected .* <= 1073741824"),
        (SOURCE + "[defaults]\naddress = 'a'", "defaults.address"),
        (SOURCE + "[webhook]\nurl = 'ftp://x'", "webhook"),
        ("source = 3", r"write each source as a table headed \[\[source\]\]"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_config(write(tmp_path, text), {})
    assert "cameras.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        'address = "rtsp://viewer:pw12345@cam:x/a"',
        'address = "rtps://viewer:pw12345@cam/a"',
        'address = "rtsp://viewer:pw12345@cam/a"\nnam = "x"',
        'address = "rtsp://viewer:pw12345@cam/a"\ndecode = "rtsp://viewer:pw12345@cam/a"',
    ],
)
def test_mistakes_do_not_tell_passwords(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config(write(tmp_path, f"[[source]]\n{line}"), {})
    assert "pw12345" not in str(caught.value)


@pytest.mark.parametrize("key", ["size", "hours", SECRET])
def test_nor_do_those_of_a_source_that_is_added(key: str) -> None:
    value = [SECRET] if key == "hours" else SECRET
    table = {"address": "rtsp://camera/", "name": "gate", key: value}
    with pytest.raises(UsageError, match=r"^source: ") as raised:
        read_added(table, Config(sources=()))
    assert "s3cr3t" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(InputError, match="UTF-8"):
        read_config(tmp_path / "latin.toml")
