"""The sinks by the kind that [[events.sinks]] names."""

from stdeploy.events.clip import ClipSettings
from stdeploy.events.json_lines import JsonLinesSettings
from stdeploy.events.mqtt import MqttSettings
from stdeploy.events.sink import SinkSettings
from stdeploy.events.webhook import WebhookSettings

KINDS: dict[str, type[SinkSettings]] = {
    "json-lines": JsonLinesSettings,
    "webhook": WebhookSettings,
    "mqtt": MqttSettings,
    "clip": ClipSettings,
}
