from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.serve.settings import ServeSettings, load


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
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ports = 1", "ports = 1: there is no such setting; there are model, "),
        ("port = 99999", "port = 99999: Input should be less than or equal to 65535"),
        ("port = ", "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(SpecError, match=words):
        load({}, tmp_path / "a.toml")
