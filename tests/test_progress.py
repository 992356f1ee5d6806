"""Progress bars: alive in a terminal, a few lines in a log."""

import io
import sys

import pytest

from nngraph.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(monkeypatch, stream, steps=5000):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=steps, desc="fit", unit="net") as bar:
        for _ in range(steps):
            bar.set_postfix(loss="1e-3", refresh=False)
            bar.update()
    return stream.getvalue()


def test_a_log_gets_a_few_whole_lines(monkeypatch):
    text = run(monkeypatch, io.StringIO())
    lines = text.splitlines()
    assert "\r" not in text
    assert text.endswith("\n")
    assert 1 <= len(lines) <= 4
    assert "5000/5000" in lines[-1]


def test_a_log_gets_lines_as_time_goes_by(monkeypatch):
    monkeypatch.setattr("nngraph.progress._LOGGED", 0.0)
    lines = run(monkeypatch, io.StringIO(), steps=20).splitlines()
    assert any("10/20" in line for line in lines)
    assert len(lines) == len(set(lines))


def test_a_terminal_gets_one_line_written_over(monkeypatch):
    text = run(monkeypatch, Terminal())
    assert "\r" in text
    assert text.count("\n") <= 1


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_a_bar_that_is_not_shown_writes_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(shown=False, total=3) as bar:
        bar.update(3)
    assert stream.getvalue() == ""
