"""Addresses: what is opened, and that no secret of one is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.errors import UsageError
from mpft_deploy.screen.streams.address import is_address, parse, redact, redact_text

# Drawn from letters that hosts, paths and names of parameters here do not have.
SECRET = st.text("QXZJqxzj0123456789!$'()*,;~%", min_size=4, max_size=20).filter(
    lambda text: any(c.isalpha() for c in text)
)
CARELESS = st.text("QXZJqxzj019:/?#@&=+", min_size=4, max_size=16).filter(
    lambda text: sum(c.isalpha() for c in text) > 3
)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://10.0.0.5/stream1", "rtsp://10.0.0.5/stream1"),
        ("rtsp://u:p@10.0.0.5:8554/a", "rtsp://***@10.0.0.5:8554/a"),
        ("rtsp://u@cam/a?channel=1&subtype=0", "rtsp://***@cam/a?channel=1&subtype=0"),
        ("http://cam/a?token=abc&x=1", "http://cam/a?token=***&x=***"),
        ("http://cam?loginuse=admin&loginpas=", "http://cam?loginuse=***&loginpas=***"),
        (
            "rtsp://cam/user=admin&password=pw&channel=1",
            "rtsp://cam/user=***&password=***&channel=1",
        ),
        ("rtsps://cam:7441/kPqZbnWc0DtLhxTz?enableSrtp", "rtsps://cam:7441/***?enableSrtp"),
        ("rtsp://u:p@ss/w?rd@cam/a", "rtsp://***@cam/a"),
        ("http://cam/a#secret", "http://cam/a#***"),
        ("file:///tmp/a.mp4", "file:///tmp/a.mp4"),
        ("v4l2:///dev/video0", "v4l2:///dev/video0"),
        ("clip.mp4", "clip.mp4"),
        ("rtsp://cam/\x1b[31m", "rtsp://cam/\\x1b[31m"),
        (
            'gst:rtspsrc location=rtsp://u:p@cam/a?auth=b user-id=me user-pw = "my pw" ! decodebin',
            "gst:rtspsrc location=rtsp://***@cam/a?auth=*** user-id=*** user-pw=*** ! decodebin",
        ),
        ("gst:videotestsrc pattern=snow ! x", "gst:videotestsrc pattern=snow ! x"),
        ("v4l2:/dev/video0 ! x user-pw=abcd", "v4l2:/dev/video0 ! x user-pw=***"),
    ],
)
def test_what_is_shown(address: str, shown: str) -> None:
    assert redact(address) == shown
    assert redact(shown) == shown


@given(user=SECRET, password=SECRET, token=SECRET, scheme=st.sampled_from(["rtsp", "http", "rtmp"]))
def test_no_secret_is_shown(user: str, password: str, token: str, scheme: str) -> None:
    address = f"{scheme}://{user}:{password}@cam:99/live?token={token}&channel=1"
    message = f"cannot open {address}: refused ('{address}')"
    for text in (redact(address), redact_text(message)):
        for secret in (user, password, token):
            assert secret not in text
        assert "cam:99" in text
    assert "channel=1" in redact(address)
    target = parse(address)
    assert (target.host, target.port) == ("cam", 99)
    assert target.raw == address
    for secret in (user, password, token):
        assert secret in target.secrets
        assert secret not in repr(target)
        assert secret not in redact_text(f"bad password {secret}", target.secrets)


@given(user=SECRET, password=SECRET, pin=SECRET.filter(lambda s: not set("!'") & set(s)))
def test_no_secret_of_a_pipeline_is_shown(user: str, password: str, pin: str) -> None:
    address = f"gst:rtspsrc location='rtsp://{user}:{password}@cam/a' user-pw={pin} ! decodebin"
    target = parse(address)
    assert target.shown.endswith("! decodebin")
    for secret in (user, password, pin):
        assert secret not in target.shown
        assert secret in target.secrets
        assert secret not in redact_text(f"bad password {secret}", target.secrets)


@given(password=CARELESS)
def test_careless_passwords_are_not_shown_either(password: str) -> None:
    address = f"rtsp://viewer:{password}@cam/live"
    assert password not in redact(address)
    assert "viewer" not in redact(address)
    assert password not in error_of(address)


@given(text=st.text(max_size=60))
def test_any_text_can_be_redacted_and_parsed(text: str) -> None:
    assert redact_text(redact_text(text)) == redact_text(text)
    assert redact(text).isprintable()
    assert error_of(text).isprintable()


def error_of(address: str) -> str:
    """What is said of an address that is none, "" of one that is."""
    try:
        parse(address)
    except UsageError as error:
        return str(error)
    return ""


def test_addresses_are_told_from_paths() -> None:
    for address in ("rtsp://c/a", "HTTP://c/a", "file:///a.mp4", "v4l2:///dev/video0", "pipe:"):
        assert is_address(address), address
    assert is_address("gopher://cam/")  # of a scheme that is then said to be unknown
    for path in ("a.mp4", "/tmp/x", "//host/x", "c:/a.png", "note: a.png", "rtsp", ".", "rtsp:a"):
        assert not is_address(path), path


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gopher://cam/", "scheme 'gopher' is unknown; choose rtsp"),
        ("rtsp:///a", "names no host"),
        ("rtsp://cam:port/", "is no address"),
        ("v4l2:/dev/video0 ! fakesink", "write a pipeline as gst:"),
        ("V4L2:///dev/video0%20extra-controls=c,a=1", "write a pipeline as gst:"),
        ("csi://0\twbmode=1", "write a pipeline as gst:"),
        ("csi:0%21fakesink", "write a pipeline as gst:"),
    ],
)
def test_what_is_no_address(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(address)


def test_what_is_no_address_is_a_path_as_it_stands() -> None:
    for path in ("50%25 off/clip%201.mp4", "a%2fb.mp4", "100%.mkv"):
        assert parse(path).rest == path
    assert parse("file:///tmp/clip%201.mp4").rest == "/tmp/clip 1.mp4"
