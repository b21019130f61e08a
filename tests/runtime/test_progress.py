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
    stream, now = io.StringIO(), [0.0]
    progress = JsonProgress(stream, clock=lambda: now[0])
    for share in (0.0, 0.001, 0.25, 0.2, 0.259, 1.0):
        progress.update(share)
        now[0] += 10.0
    assert stream.getvalue() == (
        '{"progress": 0.0}\n'
        '{"progress": 0.25, "seconds_left": 60.0}\n'
        '{"progress": 1.0, "seconds_left": 0.0}\n'
    )


def test_the_predicted_time_until_the_rate_is_known() -> None:
    stream, now = Terminal(), [0.0]
    bar = ProgressBar(stream, clock=lambda: now[0])
    bar.start("evaluating")
    now[0] = 5.0
    bar.begin(0.0, 300.0)
    now[0] = 6.0
    bar.update(0.01)
    now[0] = 15.0
    bar.update(0.1)
    assert [line.split("%")[1] for line in stream.drawn()[1:]] == [
        "  0:00, 5:00 left",
        "  0:01, 4:57 left",
        "  0:10, 1:30 left",
    ]


def test_the_rate_of_a_run_that_goes_on_is_that_since_then() -> None:
    stream, lines, now = Terminal(), io.StringIO(), [100.0]
    bar = ProgressBar(stream, clock=lambda: now[0])
    said = JsonProgress(lines, clock=lambda: now[0])
    for report in (bar, said):
        report.begin(0.6, 200.0)
    for seconds, share in ((101.0, 0.605), (110.0, 0.7), (140.0, 1.0)):
        now[0] = seconds
        bar.update(share)
        said.update(share)
    assert [line.split("]")[1] for line in stream.drawn()] == [
        "  60 %  0:00, 1:20 left",
        "  60 %  0:01, 1:19 left",
        "  70 %  0:10, 0:30 left",
        " 100 %  0:40, 0:00 left",
    ]
    assert lines.getvalue().splitlines() == [
        '{"progress": 0.6, "seconds_left": 80.0}',
        '{"progress": 0.7, "seconds_left": 30.0}',
        '{"progress": 1.0, "seconds_left": 0.0}',
    ]
