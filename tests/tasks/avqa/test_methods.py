"""Question answering with methods other than LCD: what is heard, what is injected, and into which pictures."""

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.methods.direct import DirectOptions
from mettle_cache.methods.layermean import LayerMeanOptions
from mettle_cache.methods.molt import MoLTOptions
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.tasks.avqa.model import take_seconds
from mettle_cache.tasks.avqa.task import AvqaTask
from tests.methods.injection import inject
from tests.tasks.avqa.test_task import LAYERS, SEGMENTS, make, model_parts, pictures_seen, tokens, training_inputs

MOLT = MethodChoice("molt", MoLTOptions(dim=6, late=2, k=3, reduction=4))


def test_the_methods_that_the_task_takes():
    assert AvqaTask.methods == ("lcd", "linear", "molt", "direct", "layermean")


@pytest.mark.parametrize("options", [{}, {"negatives": "raw"}, {"softmax_over": "positions", "packed": True}])
def test_molt_trains_all_its_parameters_and_gives_its_loss(options):
    task = make(method=MOLT, **options)
    assert task.layers == LAYERS
    model = task.build_model()
    inputs = training_inputs(task, [0, 2])
    outputs = model(tokens(2 + len(inputs.rows)), **inputs.tensors)
    assert outputs["auxiliary_orthogonality"] > 0
    terms = task.loss(model, outputs, task.targets([0, 2]))
    assert set(terms) == {"answer", "match"}
    sum([*terms.values(), outputs["auxiliary_orthogonality"]]).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_molt_s_tokens_are_injected_and_other_pictures_meet_the_sound_of_the_question():
    model, stored, tensors = model_parts(method=MOLT)
    heard, positive, _, negative = pictures_seen(model, stored, tensors).values()
    own = {name: layer[:2] for name, layer in stored.items()}
    given = model.method.separate(own)
    assert given.visual.shape == given.audio.shape == (2, SEGMENTS, 3, 6)
    assert torch.allclose(heard, given.audio.mean(2), atol=1e-6)
    expected = inject(inject(own["visual/s2b01"].codes, model.cross(given.audio)), model.intra(given.visual))
    assert torch.allclose(positive, expected, atol=1e-5)
    others = {
        name: take_seconds(layer, tensors["negative_clip"], tensors["negative_second"])
        for name, layer in stored.items()
        if name.startswith("visual/")
    }
    mixed = model.method.separate({**own, **others})
    assert not torch.allclose(mixed.visual, given.visual)
    expected = inject(inject(others["visual/s2b01"].codes, model.cross(given.audio)), model.intra(mixed.visual))
    assert torch.allclose(negative, expected, atol=1e-5)


def test_direct_injects_nothing_and_hears_the_mean_token():
    model, stored, tensors = model_parts(method=MethodChoice("direct", DirectOptions()))
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"decoder"}
    heard, positive, _, negative = pictures_seen(model, stored, tensors).values()
    torch.testing.assert_close(heard, stored["audio/s2b01"].codes[:2].mean(2))
    assert torch.equal(positive, stored["visual/s2b01"].codes[:2])
    other = take_seconds(stored["visual/s2b01"], tensors["negative_clip"], tensors["negative_second"])
    assert torch.equal(negative, other.codes)


def test_one_vector_a_segment_is_one_meta_token():
    method = MethodChoice("layermean", LayerMeanOptions(dim=5))
    assert make(method=method).layers == LAYERS
    model, stored, tensors = model_parts(method=method)
    heard, positive, _, _ = pictures_seen(model, stored, tensors).values()
    own = {name: layer[:2] for name, layer in stored.items()}
    audio, visual = model.audio(own), model.visual(own)
    torch.testing.assert_close(heard, audio)
    expected = own["visual/s2b01"].codes + (model.cross(audio) + model.intra(visual)).unsqueeze(2)
    torch.testing.assert_close(positive, expected)


def test_layers_that_molt_lacks_are_said():
    with pytest.raises(UsageError, match=r"MoLT reads the last 6 visual layers, and 2 are selected\n.*visual/last:6"):
        make(method=MethodChoice("molt", MoLTOptions()))
