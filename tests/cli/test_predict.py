from pathlib import Path

from mettle_cache.cli.predict import report_lines
from mettle_cache.pipelines.predict.config import PredictReport

COMMON = {"file": "a.mp4", "seconds": 3.0, "filled": ""}


def report(*rows, **changes):
    fields = {"run": Path("runs/a"), "out": Path("answers"), "task": "avel", "files": {}, "failures": {}}
    timing = {"windows": 2, "decoding": 0.1, "backbones": 1.5, "head": 0.01}
    return PredictReport(**fields | changes, answered=list(rows), timing=timing)


def test_events_masks_and_answers_are_told_with_what_they_took():
    event = {"start": 0, "end": 2, "label": "Dog", "score": 0.875, "modality": "audio"}
    rows = [
        {**COMMON, "events": [event] * 9},
        {**COMMON, "events": [], "filled": "silence"},
        {**COMMON, "foreground": [0.5, 0.0]},
        {**COMMON, "question": "Where is it", "answer": "indoor", "probability": 0.5},
    ]
    lines = report_lines(report(*rows, failures={"b.mp4": "b.mp4: is missing"}))
    assert lines[:2] == ["a.mp4 (3.0 s)", "     0 to 2    s  audio  Dog 0.88"]
    assert lines[9:12] == [
        "  and 1 more event",
        "a.mp4 (3.0 s, silence in the place of what it lacks)",
        "  nothing found",
    ]
    assert "  a mask in 1 of 2 s, 25.0 % of the picture on average" in lines
    assert "  Where is it? indoor (0.50)" in lines
    assert lines[-3:] == [
        "time       2 windows, each 0.100 s decoding, 1.500 s backbones, 0.010 s head",
        "written    answers",
        "failed     b.mp4: is missing",
    ]
