"""An RTSP server that plays coded clips in a loop; run by the system's Python, which has GStreamer.

    /usr/bin/python3 rtsp_server.py PORT[,CERTIFICATE,KEY] PATH=CLIP[,FPS[,USER:PASSWORD]]...

PORT 0 picks a free one; with a certificate it speaks TLS, to users alone. Clips are as
`clips.write_clip` writes them: access units, each after its length (u32, big-endian). Every client
of a path is sent the same packets, so many cost little. The line `ready PORT` on standard output
tells that it listens. Commands on standard input:

    play PATH CLIP    go on with another clip in the same sessions
    hold PATH         send nothing more; `go PATH` ends that

It ends with its standard input.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtspServer  # noqa: E402

PIPELINES = {
    ".h264": "h264parse ! rtph264pay name=pay0 pt=96",
    ".h265": "h265parse ! rtph265pay name=pay0 pt=96",
    ".mjpeg": "jpegparse ! rtpjpegpay name=pay0 pt=26",
}
CAPS = {
    ".h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    ".h265": "video/x-h265,stream-format=byte-stream,alignment=au",
    ".mjpeg": "image/jpeg",
}


def read_clip(path: str) -> list[bytes]:
    data, at, units = Path(path).read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        units.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return units


class Channel:
    """A path: its clip, and the thread that pushes it into whatever media is being played."""

    def __init__(self, clip: str, fps: float) -> None:
        self.clip, self.units, self.fps, self.held = clip, read_clip(clip), fps, False
        self.media = 0

    def factory(self) -> GstRtspServer.RTSPMediaFactory:
        suffix = Path(self.clip).suffix
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(
            f"( appsrc name=src is-live=true format=time caps={CAPS[suffix]} "
            f"! {PIPELINES[suffix]} )"
        )
        factory.set_shared(True)
        # Clients that do not read must not hold up the others.
        factory.set_latency(0)
        factory.connect("media-configure", self.configure)
        return factory

    def configure(self, _: object, media: GstRtspServer.RTSPMedia) -> None:
        source = media.get_element().get_by_name("src")
        self.media += 1
        threading.Thread(target=self.push, args=(source, self.media), daemon=True).start()

    def push(self, source: Gst.Element, media: int) -> None:
        start, index = time.monotonic(), 0
        duration = int(Gst.SECOND / self.fps)
        units = self.units
        at = 0
        while self.media == media:
            if units is not self.units:
                units, at = self.units, 0
            if not self.held:
                buffer = Gst.Buffer.new_wrapped(units[at % len(units)])
                buffer.pts = buffer.dts = index * duration
                buffer.duration = duration
                if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                    return
                at += 1
            index += 1
            time.sleep(max(0.0, start + index / self.fps - time.monotonic()))


def protect(auth: GstRtspServer.RTSPAuth, user: str, password: str) -> None:
    """Ask every client for that user and password."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    basic = GstRtspServer.RTSPAuth.make_basic(user, password)
    auth.add_basic(basic, token)


def main(port: str, *paths: str) -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    port, *files = port.split(",")
    server.set_service(port)
    auth = GstRtspServer.RTSPAuth()
    if files:
        server.set_auth(auth)
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*files))
    # After a kill, clients of the old server may still hold the port.
    mounts, channels = server.get_mount_points(), {}
    for argument in paths:
        path, _, rest = argument.partition("=")
        clip, fps, login, *_ = [*rest.split(","), "", ""]
        channels[path] = Channel(clip, float(fps or 25))
        factory = channels[path].factory()
        if login:
            user, _, password = login.partition(":")
            protect(auth, user, password)
            server.set_auth(auth)
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        mounts.add_factory(path, factory)
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    loop = GLib.MainLoop()
    threading.Thread(target=loop.run, daemon=True).start()
    print("ready", server.get_bound_port(), flush=True)
    for line in sys.stdin:
        verb, path, *rest = line.split()
        if verb == "play":
            channels[path].units = read_clip(rest[0])
        elif verb in ("hold", "go"):
            channels[path].held = verb == "hold"


if __name__ == "__main__":
    main(*sys.argv[1:])
