"""The message by which Home Assistant (2024.11 or later) learns of a source and its entities.

The format is https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from mpft_deploy import __version__
from mpft_deploy.files import sha256
from mpft_deploy.screen.streams.records import State
from mpft_deploy.spec import StreamVerdict


def slug(source: str) -> str:
    """A source's name as part of a topic; distinct for distinct names."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", source)
    return plain if plain == source and plain else f"{plain}_{sha256(source.encode())[:8]}"


def identity(prefix: str, source: str) -> str:
    """A source as Home Assistant's device; screeners with prefixes of their own share no device."""
    return f"{slug(prefix)}_{slug(source)}"


def device(prefix: str, source: str, *, region: bool, pictures: bool) -> dict[str, Any]:
    """What Home Assistant is told of a source, or of a region of one.

    Args:
        region: whether it is one: its events are told of its source.
        pictures: whether there are some.
    """
    base, name = f"{prefix}/{slug(source)}", identity(prefix, source)
    bridge = {"topic": f"{prefix}/availability"}
    live = {"availability": [bridge, {"topic": f"{base}/availability"}], "availability_mode": "all"}
    always = {"availability": [bridge]}
    aside = {**always, "entity_category": "diagnostic"}
    verdicts, states = get_args(StreamVerdict), get_args(State)
    # "None" is how Home Assistant writes unknown.
    found = "{{{{ {1} if value_json.{0} is defined else 'None' }}}}".format
    parts: dict[str, dict[str, Any]] = {
        "generated": {
            **_entity("binary_sensor", "Generated", live, "problem"),
            "value_template": "{{ {'generated': 'ON', 'no sign': 'OFF'}"
            ".get(value_json.verdict, 'None') }}",
        },
        "verdict": {
            **_entity("sensor", "Verdict", live, "enum"),
            "options": verdicts,
            "value_template": "{{ value_json.verdict }}",
        },
        "probability": {
            **_entity("sensor", "Probability of generated", live),
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "value_template": found("probability", "(100 * value_json.probability) | round(1)"),
        },
        "frame_age": {
            **_entity("sensor", "Frame age at verdict", aside, "duration"),
            "unit_of_measurement": "ms",
            "value_template": found("frame_age_ms", "value_json.frame_age_ms"),
        },
        "state": {
            **_entity("sensor", "Connection", aside, "enum"),
            "options": states,
            "value_template": "{{ value_json.state | default('connecting') }}",
        },
    }
    if pictures:
        parts["picture"] = {
            **_entity("image", "Frame that decided", always),
            "content_type": "image/jpeg",
            "image_topic": f"{base}/picture",
        }
    if not region:
        parts["event"] = {
            **_entity("event", "Change", always),
            "event_types": [*verdicts, *states, "removed"],
            "state_topic": f"{base}/event",
            "value_template": "{{ dict(value_json, event_type=value_json.verdict "
            "if value_json.event == 'stream' else value_json.state) | to_json }}",
        }
    return {
        "device": {
            "identifiers": [name],
            "name": source,
            "manufacturer": "mpft-deploy",
            "model": "Screened stream",
            "sw_version": __version__,
        },
        "origin": {"name": "mpft-deploy", "sw": __version__},
        "state_topic": f"{base}/state",
        "components": {
            f"{name}_{key}": {**part, "unique_id": f"{name}_{key}"} for key, part in parts.items()
        },
    }


def _entity(
    platform: str, name: str, while_there: dict[str, Any], device_class: str = ""
) -> dict[str, Any]:
    kind = {"device_class": device_class} if device_class else {}
    return {**while_there, **kind, "platform": platform, "name": name}
