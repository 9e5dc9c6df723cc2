"""[events] as it stands in a file, and what is said of a wrong one."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.events.json_lines import JsonLinesSettings
from stdeploy.events.rules import check_rules
from stdeploy.events.settings import parse_events
from stdeploy.events.sinks import KINDS
from stdeploy.events.webhook import WebhookSettings

FILE = Path("/etc/cameras.toml")
RULE = """
[[events.rules]]
name = "fight"
labels = "fight"
on = 0.8
"""
SINK = """
[[events.sinks]]
kind = "json-lines"
file = "events.jsonl"
"""


def parse(text: str):
    return parse_events(tomllib.loads(text)["events"], file=FILE)


def test_what_is_left_out_has_a_default() -> None:
    settings = parse(RULE + SINK)
    (rule,) = settings.rules
    assert (rule.labels, rule.off, rule.least_seconds, rule.sources) == (("fight",), 0.8, 0, None)
    assert (settings.folder, settings.gap_seconds) == (Path("/etc/events"), 10.0)
    assert settings.sinks["json-lines"].file == Path("/etc/events.jsonl")


def test_standard_output_is_no_file_beside_it() -> None:
    assert parse(RULE + SINK.replace("events.jsonl", "-")).sinks["json-lines"].file == Path("-")


def test_paths_that_are_absolute_stay() -> None:
    settings = parse("[events]\nfolder = '/var/lib/events'\n" + RULE + SINK)
    assert settings.folder == Path("/var/lib/events")


def test_every_kind_of_sink_is_taken() -> None:
    settings = parse(
        RULE
        + SINK
        + """
[[events.sinks]]
kind = "webhook"
name = "alarm"
url = "https://example.com/events"
secret_file = "secret"
rules = "fight"

[[events.sinks]]
kind = "mqtt"
host = "broker.local"

[[events.sinks]]
kind = "clip"
"""
    )
    assert list(settings.sinks) == ["json-lines", "alarm", "mqtt", "clip"]
    alarm = settings.sinks["alarm"]
    assert isinstance(alarm, WebhookSettings)
    assert (alarm.secret_file, alarm.rules) == (Path("/etc/secret"), ("fight",))
    assert alarm.wants("fight")
    assert not alarm.wants("fall")


WEBHOOK = "[[events.sinks]]\nkind = 'webhook'\nurl = 'https://example.com'\n"
MQTT = "[[events.sinks]]\nkind = 'mqtt'\nhost = 'broker'\n"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (SINK, r"\[events\]: rules is missing"),
        (RULE, r"\[events\]: sinks is missing"),
        ("[events]\nfoldr = 'a'" + RULE + SINK, r"\[events\]: foldr = 'a': .* mean 'folder'\?"),
        ("[events]\ngap_seconds = 0" + RULE + SINK, r"gap_seconds = 0: more than 0 is allowed"),
        (
            RULE + "off = 0.9" + SINK,
            r"\[\[events.rules\]\] 1: .*off = 0.9 is above on = 0.8; at most",
        ),
        (
            RULE.replace("0.8", "80") + SINK,
            r"\[\[events.rules\]\] 1: on = 80: 1 or less is allowed",
        ),
        (
            RULE + "labels2 = 1" + SINK,
            r"labels2 = 1: there is no such field; did you mean 'labels'",
        ),
        (RULE + "least_seconds = -1" + SINK, r"least_seconds = -1: 0 or more is allowed"),
        (RULE + "least_seconds = nan" + SINK, r"least_seconds = nan: a finite number is allowed"),
        (
            RULE.replace('"fight"', "[]", 2).replace("[]", '"fight"', 1) + SINK,
            r"labels = .*: a list",
        ),
        (RULE + RULE + SINK, r"\[\[events.rules\]\] 2: name = 'fight' is taken"),
        (RULE + SINK + SINK, r"\[\[events.sinks\]\] 2: name = 'json-lines' is taken"),
        (
            RULE + "[[events.sinks]]\nurl = 'a'",
            r"\[\[events.sinks\]\] 1: kind is missing; choose js",
        ),
        (RULE + "[[events.sinks]]\nkind = 'kafka'", r"1: kind 'kafka' is not known; choose json-l"),
        (RULE + SINK + "rules = ['fall']", r"\[\[events.sinks\]\] 1: rule 'fall' is not known; ch"),
        (RULE + WEBHOOK.replace("https", "ftp"), r"url = 'ftp://example.com': an address such as"),
        *(
            (RULE + WEBHOOK.replace("example.com", host), r"an address such as https://ex")
            for host in ("a:99999", "a:0", "[::1/", "a b", "")
        ),
        (RULE.replace("0.8", "true") + SINK, r"on = True: a number is allowed"),
        (RULE + WEBHOOK + "max_messages = true", r"max_messages = True: a whole number is allowed"),
        ('[events]\nfolder = "a\\u0000b"' + RULE + SINK, r"a path without NUL is wanted"),
        (RULE + WEBHOOK.replace("example", "me:x@example"), r"no password in an address"),
        (RULE + WEBHOOK + "max_messages = 0", r"max_messages = 0: 1 or more is allowed"),
        (
            RULE + MQTT + "topic = 'a/{sauce}'",
            r"topic = 'a/\{sauce\}': \{sauce\} is not known; choo",
        ),
        (RULE + MQTT + "topic = 'a/#'", r"a topic without \+ and # is wanted"),
        (RULE + MQTT + "topic = 'a/{rule'", r"\{ and \} stand around source, rule, kind"),
        (RULE + MQTT + "ca_file = 'ca.pem'", r"certificates are used with tls = true alone"),
        (RULE + MQTT + "password_file = 'p'", r"a password needs user beside it"),
        (RULE + MQTT + "protocol = '4'", r"protocol = '4': '5' or '3.1.1' is allowed"),
        (RULE + "[[events.sinks]]\nkind = 'clip'\nfps = 0", r"fps = 0: more than 0 is allowed"),
    ],
)
def test_a_fault_is_one_line_with_its_place(text: str, wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong) as raised:
        parse(text)
    assert str(raised.value).startswith("/etc/cameras.toml, [")
    assert "\n" not in str(raised.value)


def test_the_example_is_what_it_says() -> None:
    file = Path(__file__).parents[2] / "examples" / "cameras.toml"
    settings = parse_events(tomllib.loads(file.read_text())["events"], file=file)
    kinds = {type(sink) for sink in settings.sinks.values()}
    assert kinds == set(KINDS.values())
    labels = files("stdeploy.pull").joinpath("kinetics400.txt").read_text().splitlines()
    check_rules(settings.rules, labels=labels, sources=["front door", "yard"])


def test_a_secret_is_read_from_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(**fields: str) -> None:
        WebhookSettings.parse({"url": "http://localhost/", **fields}).open("alarm").close()

    (tmp_path / "secret").write_text("s3cret\n")
    opened(secret_file=str(tmp_path / "secret"))
    monkeypatch.setenv("THE_SECRET", "s3cret")
    opened(secret_variable="THE_SECRET")
    with pytest.raises(
        SpecError, match=r"sink 'alarm': the secret: .*nowhere' cannot be read: No s"
    ):
        opened(secret_file=str(tmp_path / "nowhere"))
    with pytest.raises(SpecError, match=r"the environment variable OTHER is not set, or empty"):
        opened(secret_variable="OTHER")
    with pytest.raises(SpecError, match=r"both give it; leave one of them out"):
        opened(secret_file=str(tmp_path / "secret"), secret_variable="THE_SECRET")
    (tmp_path / "secret").write_text("whsec_no base64")
    with pytest.raises(SpecError, match=r"the secret has no base64 after whsec_"):
        opened(secret_file=str(tmp_path / "secret"))
    (tmp_path / "secret").write_text(" \n")
    with pytest.raises(SpecError, match=r"secret' is empty"):
        opened(secret_file=str(tmp_path / "secret"))


def test_lines_do_not_go_into_a_folder(tmp_path: Path) -> None:
    settings = JsonLinesSettings.parse({"file": tmp_path})
    with pytest.raises(SpecError, match=r"sink 'log': file = '.*' is a folder; name a file in it"):
        settings.open("log")
