import pytest

from mettle_cache.backbones import create_backbone, shared_audio
from mettle_cache.tasks.avel import AvelTask
from pipelines.storefacts import StoreFacts, architecture_of, find_published, store_facts


def test_facts_of_real_fingerprints(tiny_store):
    visual = create_backbone("vit_tiny_patch16_224", weights="random", seed=1)
    key = {"backbones": {"visual": visual.fingerprint(), "audio": shared_audio(visual).fingerprint()}}
    assert store_facts(tiny_store(1, 1, 1, key=key)) == StoreFacts(
        dataset="ave", visual="vit_tiny_patch16_224", audio="shared", random=("visual", "audio")
    )


def test_a_key_without_fingerprints_is_unknown(tiny_store):
    assert store_facts(tiny_store(1, 1, 1)) == StoreFacts(dataset="ave", visual="", audio="", random=())


@pytest.mark.parametrize("row", AvelTask.published, ids=lambda row: row.setting)
def test_every_published_row_is_found_by_its_architectures(row):
    facts = StoreFacts(dataset="ave", visual=architecture_of(row.visual), audio=architecture_of(row.audio), random=())
    assert find_published(AvelTask.published, facts) is row


def test_another_data_set_has_no_row():
    facts = StoreFacts(dataset="llp", visual=architecture_of("swinv2_l"), audio="htsat", random=())
    assert find_published(AvelTask.published, facts) is None
