import numpy as np
import pytest

from mettle_cache.pipelines.figures.fusion_weights import FusionWeights, draw_fusion_weights


def test_bars_are_mean_weights_beside_equal_shares():
    weights = np.array([[0.5, 0.25, 0.25], [0.7, 0.1, 0.2]])
    axis = draw_fusion_weights([FusionWeights(title="visual", names=("a", "b", "c"), weights=weights)]).axes[0]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([0.6, 0.175, 0.225])
    assert axis.lines[0].get_ydata()[0] == pytest.approx(1 / 3)
    assert axis.collections[0].get_segments()[0][:, 1] == pytest.approx(np.quantile(weights[:, 0], [0.1, 0.9]))
