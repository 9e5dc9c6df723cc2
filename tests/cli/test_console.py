"""What is said beside results: on a terminal a bar, in a log a line now and then."""

import pytest

from stdeploy.cli import console


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 3), (3600.0, 0)])
def test_a_log_gets_a_line_once_in_a_while(
    seconds: float, lines: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_BEAT_SECONDS", seconds)
    with console.progress_bar("measuring") as tell:
        tell(1, 4)
    with console.rate_bar("classifying", "clips") as tell:
        tell(3, 8)
    with console.phase_bars("opening") as tell_phase:
        tell_phase("comparing clips", 2, 65)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    if lines:
        measuring, classifying, comparing = said
        assert measuring == "measuring: 25%"
        assert classifying.startswith("classifying: 3 of 8, ")
        assert comparing == "comparing clips: 2 of 65"
