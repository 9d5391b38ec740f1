import pytest

from mettle_cache.decoders.cmbs import PSPCMBS
from mettle_cache.decoders.psp import PSP29
from mettle_cache.decoders.registry import create_decoder
from mettle_cache.errors import UsageError


def test_heads_by_name():
    assert isinstance(create_decoder("psp_cmbs", 8, 3), PSPCMBS)
    head = create_decoder("psp29", 8, 3, avps_weight=0.0, dropout=0.5)
    assert isinstance(head, PSP29)
    assert head.avps_weight == 0.0
    assert head.psp.dropout.p == 0.5


def test_unknown_head_names_the_known_ones():
    with pytest.raises(UsageError, match=r"no decoder is called 'lavish'\n  next: use one of psp_cmbs, psp29"):
        create_decoder("lavish", 8, 3)
