"""Judging frames in a loop of one's own: OpenCV reads, mpft-deploy judges and decides.

    python examples/opencv_loop.py BUNDLE VIDEO_OR_ADDRESS [--every 5]

For programs that have their frames already. Where that is not so, `Screener.watch` is less work and
stays alive: it reconnects, keeps only the newest frame, and never falls behind a live stream.
"""

from __future__ import annotations

import argparse
import contextlib
import time

import cv2

from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.settings import DecisionSettings


def main() -> None:
    """Print the verdict of every judged frame, and each change of the stream's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("video")
    parser.add_argument("--every", type=int, default=5, help="judge one frame of so many")
    arguments = parser.parse_args()

    screener = Screener.open(arguments.bundle).for_streams()
    stream = StreamDecision(DecisionSettings(), screener.calibration)
    capture = cv2.VideoCapture(arguments.video)
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    index = looks = 0
    while True:
        good, frame = capture.read()
        if not good:
            break
        if index % arguments.every == 0:
            # OpenCV's pixels are BGR; the detector was trained on RGB.
            # The one view of each frame moves over the picture.
            prepared = screener.prepare(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), turn=looks)
            looks += 1
            [judged] = screener.judge([prepared])
            judgement = judged.judgement
            print(f"frame {index}: {judgement.verdict} ({judgement.probability:.2f})")
            # Seconds of the stream: of a live one, time.monotonic().
            now = index / fps if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0 else time.monotonic()
            scores = prepared.patches.scores
            for change in stream.add(judgement.logit, scores, now, judgement.reason):
                print(f"stream: {change.verdict} after {change.frames} frames")
        index += 1
    why = stream.undecided and f" ({stream.undecided})"
    print(f"stream: {stream.verdict}{why}, evidence {stream.evidence:+.1f}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
