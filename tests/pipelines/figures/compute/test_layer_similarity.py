"""Lines of layers that follow each other, from a store."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.figures.compute.layer_similarity import store_similarities
from mettle_cache.pipelines.progress import Silent
from tests.pipelines.tiny_store import layer


def test_a_modality_with_layers_to_compare_is_a_line(tiny_ave):
    # each audio stage of this store is one layer
    (visual,) = store_similarities(tiny_ave, Silent(), clips=3)
    assert (visual.label, visual.layers) == ("visual", ("s1b01", "s2b01", "s2b02"))
    assert np.isnan([visual.mean[:2], visual.low[:2], visual.high[:2]]).all()
    places = np.linspace(0, len(tiny_ave.clips) - 1, 3).round().astype(int)
    layers = tiny_ave.read([tiny_ave.clips[place] for place in places]).layers
    before, after = (layers[f"visual/s2b0{block}"].floats(torch.float64) for block in (1, 2))
    cosines = cosine_similarity(before, after, dim=-1).numpy()
    assert visual.mean[2] == pytest.approx(cosines.mean(), abs=1e-5)
    expected = np.quantile(cosines, [0.1, 0.9], method="inverted_cdf")
    np.testing.assert_allclose([visual.low[2], visual.high[2]], expected, atol=2e-3)


def test_a_store_of_stages_alone_is_refused(tiny_store):
    layers = (layer("visual", 1, 1, (3, 3), 16), layer("audio", 1, 1, (2, 2), 16))
    with pytest.raises(UsageError, match="no two layers of one stage follow each other"):
        store_similarities(tiny_store(3, 1, 1, layers=layers), Silent())
