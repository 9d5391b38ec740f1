import subprocess
import sys

import pytest

from mettle_cache.decoders.cmbs import PSPCMBS
from mettle_cache.decoders.mgn import MGN, MGNOptions
from mettle_cache.decoders.mmil import Smoothing
from mettle_cache.decoders.psp import PSP29
from mettle_cache.decoders.registry import DECODERS, create_decoder, decoder_problems
from mettle_cache.errors import PluginError, UsageError
from mettle_cache.registry import DecoderRow

AVEL = {"dropout": 0.5, "avps_weight": 0.0}


@pytest.fixture
def own_decoder():
    DECODERS.register(DecoderRow("own", "mettle_cache.decoders.psp:PSP29", task="avel", takes=("dropout", "width")))
    yield
    DECODERS.unregister("own")


def test_decoders_get_what_they_take_of_what_is_offered():
    assert isinstance(create_decoder("psp_cmbs", 8, 3, AVEL), PSPCMBS)
    decoder = create_decoder("psp29", 8, 3, AVEL)
    assert isinstance(decoder, PSP29)
    assert decoder.avps_weight == 0.0
    assert decoder.psp.dropout.p == 0.5
    offered = {"options": MGNOptions(temporal_gate=False), "segments": 4, "motion": False, "smoothing": Smoothing()}
    decoder = create_decoder("mgn", 8, 3, {**offered, "audio_dim": 6})
    assert isinstance(decoder, MGN)
    assert decoder.gate is decoder.motion is None
    assert (decoder.visual_in.in_features, decoder.audio_in.in_features) == (8, 6)


def test_unknown_decoders_name_the_known_ones():
    with pytest.raises(UsageError, match=r"no decoder is called 'lavish'\n  next: use one of psp_cmbs, psp29"):
        create_decoder("lavish", 8, 3, AVEL)


def test_a_task_takes_its_own_decoders_and_lists_them(own_decoder):
    assert decoder_problems("psp29", "avel") == decoder_problems("own", "avel") == ()
    assert decoder_problems("lavish", "avel") == (
        "decoder = 'lavish': no decoder is called so; use one of psp_cmbs, psp29, own",
    )
    assert decoder_problems("psp29", "avvp") == (
        "decoder = 'psp29': it is for the task avel; use one of mmpyr, han, mgn",
    )


def test_what_a_decoder_takes_and_its_task_does_not_offer_is_said(own_decoder):
    with pytest.raises(PluginError, match="the decoder own takes width, but avel offers dropout, avps_weight"):
        create_decoder("own", 8, 3, AVEL)


def test_a_task_loads_no_decoder_of_another():
    code = """
import sys
from mettle_cache.tasks.avel.task import AvelTask
sys.exit(",".join(name for name in sys.modules if name.startswith("mettle_cache.decoders.")))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip()
    assert set(loaded.split(",")) == {"mettle_cache.decoders.registry"}
