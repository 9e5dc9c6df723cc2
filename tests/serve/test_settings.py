import inspect
import os
import subprocess
import sys
import textwrap
from math import inf
from pathlib import Path
from typing import Any

import pytest

from stdeploy.cli.serve import command
from stdeploy.errors import SpecError
from stdeploy.serve.settings import GROUPS, ServeSettings, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "serve.toml"
    path.write_text('port = 1\nviews = 2\nmax_batch = 3\nhost = "0.0.0.0"\n')
    return path


def test_flags_go_before_variables_those_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STDEPLOY_SERVE_VIEWS", "20")
    monkeypatch.setenv("STDEPLOY_SERVE_PORT", "10")
    monkeypatch.setenv("STDEPLOY_SERVE_THREADS", "")  # as compose files write "not set"
    settings = load({"port": 100}, file)
    assert (settings.port, settings.views, settings.max_batch) == (100, 20, 3)
    assert (settings.host, settings.threads, settings.max_requests) == ("0.0.0.0", None, 64)


def test_without_any_source_only_this_host_may_ask() -> None:
    assert load({}, None) == ServeSettings()
    assert load({}, None).host == "127.0.0.1"
    assert load({}, None).key() is None


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDEPLOY_SERVE_API_KEY", "s3cret")
    settings = load({}, None)
    assert settings.key() == "s3cret"
    assert "s3cret" not in repr(settings)
    with pytest.raises(SpecError) as refused:
        load({"api_key_file": Path("x")}, None)
    assert str(refused.value) == (
        "--api-key-file x and STDEPLOY_SERVE_API_KEY both give a key; leave one of them out"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_batch": 0}, "--max-batch 0: a whole number from 1 to 256 is allowed"),
        ({"max_pixels": 0}, "--max-pixels 0: a whole number, 1 or more is allowed"),
        ({"stream_seconds": 0.0}, "--stream-seconds 0.0: a number above 0 is allowed"),
        ({"stream_seconds": inf}, "--stream-seconds inf: a finite number above 0 is allowed"),
        ({"tls_key": Path("k")}, "--tls-key k needs --tls-certificate beside it; HTTPS takes both"),
        (
            {"tls_certificate": Path("c")},
            "--tls-certificate c needs --tls-key beside it; HTTPS takes both",
        ),
        ({"api_key": ""}, "--api-key is empty, or holds other signs than printable ASCII"),
        ({"api_key": "schlüssel"}, "--api-key is empty, or holds other signs than printable ASCII"),
        (
            {"api_key_file": Path("/nowhere")},
            "--api-key-file /nowhere cannot be read: No such file or directory",
        ),
        (
            {"port": 9, "metrics_port": 9},
            "--metrics-port 9 and --port 9 are the same port; give metrics one of their own, or "
            "leave it out",
        ),
        (
            {"allowed_hosts": "a.example,http://{b}"},
            "--allowed-hosts a.example,http://{b}: 'http://{b}' is no name of a host; names such "
            "as videos.example.com or *.lan are allowed, with commas between them, or * for any",
        ),
        (
            {"forwarded_allow_ips": "10.0.0.1, 10.0.0.1/8"},
            "--forwarded-allow-ips 10.0.0.1, 10.0.0.1/8: '10.0.0.1/8' is neither an address nor a "
            "network (10.0.0.0/8); these are allowed, with commas between them, or * for any",
        ),
        (
            {"metrics_port": 8000},
            "--metrics-port 8000 and --port 8000 (the default) are the same port; give metrics one "
            "of their own, or leave it out",
        ),
    ],
)
def test_a_wrong_flag_is_named_with_its_value_and_what_is_allowed(
    flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError) as refused:
        load(flags, None)
    assert str(refused.value) == words


def test_two_ports_that_the_system_chooses_are_not_the_same() -> None:
    assert load({"port": 0, "metrics_port": 0}, None).metrics_port == 0


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PORT", "x", "STDEPLOY_SERVE_PORT=x: a whole number from 0 to 65535 is allowed"),
        ("ALLOW_CPU", "maybe", "STDEPLOY_SERVE_ALLOW_CPU=maybe: true or false is allowed"),
        ("DEVICE", "tpu", "STDEPLOY_SERVE_DEVICE=tpu: auto, cpu or cuda is allowed"),
        (
            "TLS_KEY",
            "k",
            "STDEPLOY_SERVE_TLS_KEY=k needs --tls-certificate beside it; HTTPS takes both",
        ),
        (
            "MAX_BACH",
            "2",
            "STDEPLOY_SERVE_MAX_BACH is no setting of the server; did you mean "
            "STDEPLOY_SERVE_MAX_BATCH?",
        ),
        (
            "ZZZ",
            "2",
            "STDEPLOY_SERVE_ZZZ is no setting of the server; see stdeploy serve --help",
        ),
    ],
)
def test_a_wrong_variable_is_named_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"STDEPLOY_SERVE_{variable}", value)
    with pytest.raises(SpecError) as refused:
        load({}, None)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ports = 1", "ports in '{}' is no setting of the server; did you mean port?"),
        ("max-batch = 1", "max-batch in '{}' is no setting of the server; did you mean max_batch?"),
        ("port = 99999", "port = 99999 in '{}': a whole number from 0 to 65535 is allowed"),
        ("log_level = 'x'", "log_level = 'x' in '{}': debug, info, warning or error is allowed"),
        ("api_key = 5", "api_key in '{}': text is allowed"),
        ("port = ", "'{}' is no TOML: Invalid value (at end of document)"),
        (
            "port = " + "9" * 5000,
            "'{}' is no TOML: a number in it has more digits than any of ours",
        ),
        (
            "port = " + "[" * 9000,
            "'{}' is no TOML: its lists or tables are nested deeper than any of ours",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(SpecError) as refused:
        load({}, file)
    assert str(refused.value) == words.format(file)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_help_shows_every_name_whole_and_every_group(columns: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "stdeploy", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": columns, "NO_COLOR": "1"},
    ).stdout
    assert "…" not in shown
    words = set(shown.split())
    assert {f"--{name.replace('_', '-')}" for name in ServeSettings.model_fields} <= words
    assert [heading for heading in GROUPS.values() if f"─ {heading} ─" not in shown] == []
    assert set(GROUPS) <= set(ServeSettings.model_fields)
    lines = [line.strip() for line in shown.splitlines()]
    for paragraph in inspect.cleandoc(command.__doc__ or "").split("\n\n"):
        for line in textwrap.wrap(paragraph, int(columns) - 2, break_on_hyphens=False):
            assert line in lines  # broken where the terminal ends, and nowhere else
