"""Names and explanations for readers who do not know the project; what has none is shown by its own name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mettle_cache.pipelines.report.text import printable


@dataclass(frozen=True)
class TaskWords:
    """``title`` of a task, ``about`` it in one sentence, what its metric counts, and what one ``sample`` is called."""

    title: str
    about: str = ""
    metric: str = ""
    sample: str = "sample"


_TASKS = {
    "avel": TaskWords(
        "Audio-visual event localisation",
        "Every second of a video holds one event that is both seen and heard, or none: background.",
        "Accuracy is the share of seconds with the right label, background included.",
        "video",
    ),
    "avvp": TaskWords(
        "Audio-visual video parsing",
        "Which events are heard and which are seen, second by second; training sees labels of whole videos only.",
        "Type@AV is the mean of three F-scores over segments: of what is heard, of what is seen, and of both at once.",
        "video",
    ),
    "avs": TaskWords(
        "Audio-visual segmentation",
        "Which pixels of a frame belong to the thing that sounds.",
        "mIoU is the mean over frames of how much of both masks together is in both: 100 % is a perfect mask.",
        "video",
    ),
    "avqa": TaskWords(
        "Audio-visual question answering",
        "A question about what is seen and heard in a video, answered by one of a fixed list of answers.",
        "Accuracy is the share of questions that are answered right.",
        "question",
    ),
}
_METHODS = {"lcd": "LCD", "molt": "MoLT", "lst": "LST", "unipt": "UniPT", "sherl": "SHERL", "linear": "linear probe"}
_SCORES = {
    "accuracy": "accuracy",
    "miou": "mIoU",
    "f_measure": "F-measure",
    "f_measure_global": "F-measure, one threshold",
    "average": "mean of all ten",
    "audio": "questions on sound",
    "visual": "questions on pictures",
    "audio_visual": "questions on both",
    "miou_with_foreground": "mIoU of frames with an object",
    "miou_without_foreground": "mIoU of frames without one",
}
_PARSING = {"a": "audio", "v": "visual", "av": "audio-visual", "type_av": "Type@AV", "event_av": "Event@AV"}
_PARSING_SCORE = re.compile(r"(segment|event)_(a|v|av|type_av|event_av)")


def task_words(task: str) -> TaskWords:
    """What a task is called and about."""
    return _TASKS.get(task, TaskWords(task))


def method_name(method: str) -> str:
    """A method as papers write it."""
    return _METHODS.get(method, method)


def score_name(score: str) -> str:
    """A score in words: ``segment_type_av`` is segment-level Type@AV."""
    parsing = _PARSING_SCORE.fullmatch(score)
    if parsing:
        return f"{parsing[1]}-level {_PARSING[parsing[2]]}"
    return _SCORES.get(score, score.replace("_", " "))


def shorten_paths(names: Sequence[str]) -> list[str]:
    """Names of rows, of which some are paths of folders, without the folders that all of these lie in."""
    paths = [PurePath(name) for name in names if os.sep in name]
    parents = {path.parent for path in paths}
    if not paths or len({path.is_absolute() for path in paths}) > 1:
        return [printable(name) for name in names]
    common = os.path.commonpath(parents)
    shown = {str(path): os.path.relpath(path, common or os.curdir) for path in paths}
    return [printable(shown.get(str(PurePath(name)), name) if os.sep in name else name) for name in names]
