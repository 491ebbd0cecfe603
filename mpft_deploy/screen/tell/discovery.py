"""Messages by which Home Assistant learns of a source: a device with five entities.

The format is https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from mpft_deploy import __version__
from mpft_deploy.files import sha256
from mpft_deploy.screen.streams.records import State


def slug(source: str) -> str:
    """A source's name as part of a topic; distinct for distinct names."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", source)
    return plain if plain == source and plain else f"{plain}_{sha256(source.encode())[:8]}"


def identity(prefix: str, source: str) -> str:
    """A source as Home Assistant's device; screeners with prefixes of their own share no device."""
    return f"{slug(prefix)}_{slug(source)}"


def entities(prefix: str, source: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Home Assistant's components of a source: component, key and discovery message."""
    base, name = f"{prefix}/{slug(source)}", identity(prefix, source)
    bridge = {"topic": f"{prefix}/availability"}
    common = {
        "state_topic": f"{base}/state",
        "device": {
            "identifiers": [name],
            "name": source,
            "manufacturer": "mpft-deploy",
            "model": "Screened stream",
            "sw_version": __version__,
        },
        "origin": {"name": "mpft-deploy", "sw": __version__},
    }
    while_live = {"availability": [bridge, {"topic": f"{base}/availability"}], **common}
    always = {"availability": [bridge], **common, "entity_category": "diagnostic"}
    entities: list[tuple[str, str, dict[str, Any]]] = [
        (
            "binary_sensor",
            "generated",
            {
                **while_live,
                "name": "Generated",
                "device_class": "problem",
                # "None" is how Home Assistant writes unknown.
                "value_template": "{{ {'generated': 'ON', 'no sign': 'OFF'}"
                ".get(value_json.verdict, 'None') }}",
                "availability_mode": "all",
            },
        ),
        (
            "sensor",
            "verdict",
            {
                **while_live,
                "name": "Verdict",
                "device_class": "enum",
                "options": ["no sign", "generated", "unsure"],
                "value_template": "{{ value_json.verdict }}",
                "availability_mode": "all",
            },
        ),
        (
            "sensor",
            "probability",
            {
                **while_live,
                "name": "Probability of generated",
                "unit_of_measurement": "%",
                "state_class": "measurement",
                "value_template": "{{ (100 * value_json.probability) | round(1) "
                "if value_json.probability is defined else 'None' }}",
                "availability_mode": "all",
            },
        ),
        (
            "sensor",
            "frame_age",
            {
                **always,
                "name": "Frame age at verdict",
                "device_class": "duration",
                "unit_of_measurement": "ms",
                "value_template": "{{ value_json.frame_age_ms "
                "if value_json.frame_age_ms is defined else 'None' }}",
            },
        ),
        (
            "sensor",
            "state",
            {
                **always,
                "name": "Connection",
                "device_class": "enum",
                "options": list(get_args(State)),
                "value_template": "{{ value_json.state | default('connecting') }}",
            },
        ),
    ]
    for _, key, payload in entities:
        payload["unique_id"] = payload["object_id"] = f"{name}_{key}"
    return entities
