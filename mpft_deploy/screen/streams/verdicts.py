"""What is told of frames and streams: verdicts, as events, with the pictures that are asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.screener import Judged
from mpft_deploy.screen.streams.attempt import Captured
from mpft_deploy.screen.streams.channel import Channel, Stream
from mpft_deploy.screen.streams.decision import Change
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.pictures import of_part
from mpft_deploy.screen.streams.records import FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.spec import StreamVerdict


class Verdicts:
    """Decides and tells; of the engine's thread alone.

    Args:
        wanted: stream verdicts whose events come with the picture that decided.
    """

    def __init__(self, emitter: Emitter, wanted: Collection[StreamVerdict]) -> None:
        self._emitter, self._wanted = emitter, wanted

    def decide(
        self,
        channel: Channel,
        stream: Stream,
        frame: Captured,
        prepared: Prepared,
        judged: Judged,
    ) -> None:
        """What a judged frame means for a stream."""
        decision, judgement = stream.decision, judged.judgement
        # By the centre: a window that moves shows another texture of a picture that stands still.
        scores = stream.judged[0] if stream.judged else prepared.patches.scores
        changes = decision.add(judgement.logit, scores, frame.received, judgement.reason)
        stream.probability = judgement.probability
        event = self._emitter.emit(
            FrameEvent,
            source=channel.source.name,
            region=stream.region,
            captured=frame.time,
            age_ms=1e3 * (channel.age or 0.0),
            verdict=decision.of_frame(judgement.verdict, judgement.probability),
            probability=judgement.probability,
            logit=judgement.logit,
            stream_verdict=decision.verdict,
            evidence=decision.evidence,
            unjudged=judgement.reason,
        )
        if channel.kept is not None:
            channel.kept.add(event, frame.received, prepared, judged.view_logits)
        self.tell(channel, stream, changes, prepared)

    def restart(self, channel: Channel, gone: Collection[str] = ()) -> None:
        """Forget what was seen of a source, and tell which of its regions are gone, or all ("")."""
        source = channel.source
        for stream in channel.streams:
            self.tell(channel, stream, stream.decision.restart("restart"))
        for region in sorted(gone, reverse=True):  # the source itself comes last
            self._emitter.emit(
                SourceEvent,
                source=source.name,
                region=region,
                state="removed",
                previous=source.state,
            )

    def tell(
        self,
        channel: Channel,
        stream: Stream,
        changes: Sequence[Change],
        prepared: Prepared | None = None,
    ) -> None:
        """A stream's verdict changed: as events, with the pictures that are asked for.

        Args:
            prepared: what was judged of the frame that decided.
        """
        for change in changes:
            picture = None
            if change.verdict in self._wanted and channel.shown is not None:
                picture = channel.shown.picture(channel.source.name)
            if picture is not None and prepared is not None:
                picture = of_part(picture, prepared)
            self._emitter.emit(
                StreamEvent,
                picture,
                source=channel.source.name,
                region=stream.region,
                **msgspec.structs.asdict(change),
                looked_at=picture and picture.looked_at,
                size=picture and picture.size,
                source_verdict=channel.lead.decision.verdict if stream.region else None,
            )
