import pytest

from mettle_cache.backbones import create_backbone, shared_audio
from mettle_cache.backbones.registry import find_family
from mettle_cache.pipelines.report.store_facts import StoreFacts, find_published, store_facts
from mettle_cache.tasks.avel.task import AvelTask


def test_facts_of_real_fingerprints(tiny_store):
    visual = create_backbone("vit_tiny_patch16_224", weights="random", seed=1)
    key = {"backbones": {"visual": visual.fingerprint(), "audio": shared_audio(visual).fingerprint()}}
    assert store_facts(tiny_store(1, 1, 1, key=key)) == StoreFacts(
        dataset="ave", visual="vit_tiny_patch16_224", audio="shared", random=("visual", "audio")
    )


def test_a_key_without_fingerprints_is_unknown(tiny_store):
    assert store_facts(tiny_store(1, 1, 1)) == StoreFacts(dataset="ave", visual="", audio="", random=())


@pytest.mark.parametrize("row", AvelTask.published, ids=lambda row: row.setting)
def test_every_published_row_is_found_by_what_fingerprints_say(row):
    # the architectures are written down so that training need not load timm; they must be the registry's
    assert row.architectures[0] == find_family(row.visual).builder.timm_name
    assert row.architectures[1] == row.audio
    facts = StoreFacts(dataset="ave", visual=row.architectures[0], audio=row.architectures[1], random=())
    assert find_published(AvelTask.published, facts) is row


def test_another_data_set_has_no_row():
    visual, audio = AvelTask.published[0].architectures
    facts = StoreFacts(dataset="llp", visual=visual, audio=audio, random=())
    assert find_published(AvelTask.published, facts) is None
