"""The progress bar: what it draws, and where it is silent."""

from __future__ import annotations

import io

from runtime.progress import JsonProgress, ProgressBar


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and its lines as they were drawn."""

    def isatty(self) -> bool:
        return True

    def drawn(self) -> list[str]:
        return self.getvalue().split("\r\x1b[K")[1:]


def test_draws_share_time_and_what_is_left() -> None:
    stream, now = Terminal(), [0.0]
    bar = ProgressBar(stream, clock=lambda: now[0])
    bar.start("evaluating")
    for seconds, share in ((0.0, 0.0), (0.1, 0.01), (30.0, 0.25), (90.0, 1.0)):
        now[0] = seconds
        bar.update(share)
    bar.finish()
    assert stream.drawn() == [
        "evaluating ...",
        "evaluating [..............................]   0 %  0:00",
        "evaluating [########......................]  25 %  0:30, 1:30 left",
        "evaluating [##############################] 100 %  1:30, 0:00 left",
        "",
    ]


def test_never_goes_back() -> None:
    stream, now = Terminal(), [0.0]
    bar = ProgressBar(stream, clock=lambda: now[0])
    bar.update(0.5)
    now[0] = 1.0
    bar.update(0.4)
    assert " 50 %" in stream.drawn()[-1]


def test_silent_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.start("evaluating")
    bar.update(1.0)
    bar.finish()
    assert stream.getvalue() == ""


def test_a_closed_terminal_does_not_stop_the_run() -> None:
    stream = Terminal()
    bar = ProgressBar(stream)
    stream.close()
    bar.update(0.5)
    bar.finish()
    assert not bar.shown


def test_json_says_every_percent_once() -> None:
    stream = io.StringIO()
    progress = JsonProgress(stream)
    for share in (0.0, 0.001, 0.25, 0.2, 0.259, 1.0):
        progress.update(share)
    assert stream.getvalue() == ('{"progress": 0.0}\n{"progress": 0.25}\n{"progress": 1.0}\n')
