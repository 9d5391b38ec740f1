"""Questions in the words of a vocabulary."""

from types import SimpleNamespace

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.predict.questions import ask
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import task_on_layers
from tests.pipelines.tiny_avqa import ANSWERS, LAYERS, WORDS


@pytest.fixture
def head():
    recipe = load_recipe("music-avqa-small", ["lcd.heads=4"])
    vocabulary = {"words": WORDS, "answers": ANSWERS}

    def task_on(samples=None):
        return task_on_layers(recipe, LAYERS, vocabulary=vocabulary, segments=10, samples=samples)

    origin = SimpleNamespace(vocabulary=vocabulary)
    return SimpleNamespace(task=task_on(), task_on=task_on, origin=origin, recipe=recipe)


def test_words_go_by_the_vocabulary_capitals_and_the_mark_aside(head):
    asked = ask(head, ["what IS it ?", "Is it loud"])
    assert asked.questions == ("What is it", "Is it loud")
    numbers = [given["question"][0].tolist() for given in asked.inputs]
    assert numbers == [[1, 2, 3] + [0] * 11, [4, 3, 5] + [0] * 11]


def test_words_that_no_training_question_had_are_named(head):
    with pytest.raises(
        UsageError, match="does not know the words 'Wat', 'guitar': it was trained on the 5 words"
    ) as caught:
        ask(head, ["Wat is guitar?"])
    assert "did you mean What?" in caught.value.hint


@pytest.mark.parametrize(("questions", "message"), [([], "none is asked"), ([" ? "], "the question is empty")])
def test_no_question(head, questions, message):
    with pytest.raises(UsageError, match=message):
        ask(head, questions)


def test_a_question_to_a_head_that_takes_none():
    recipe = load_recipe("ave-small", ['method="linear"'])
    task = task_on_layers(recipe, LAYERS, vocabulary={"categories": ["Dog"]}, segments=10)
    head = SimpleNamespace(task=task, recipe=recipe)
    with pytest.raises(UsageError, match="takes no question"):
        ask(head, ["What is it?"])
    assert ask(head, []).inputs == ({},)
