"""What users may write after --visual and --audio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.backbones.choice import BackboneChoice, parse_backbone, split_size
from mettle_cache.errors import UsageError

NAMES = st.from_regex(r"[a-z][a-z0-9_.]{0,30}", fullmatch=True)
FILES = st.from_regex(r"[A-Za-z0-9_./ =@-]{0,30}[A-Za-z0-9]", fullmatch=True).filter(lambda text: text == text.strip())


@pytest.mark.parametrize(
    ("text", "name", "weights"),
    [
        ("swinv2_l", "swinv2_l", "pretrained"),
        ("swinv2_l=random", "swinv2_l", "random"),
        (" htsat = weights/HTSAT.ckpt ", "htsat", "weights/HTSAT.ckpt"),
        ("vit_small_patch14_dinov2@224=a=b.safetensors", "vit_small_patch14_dinov2@224", "a=b.safetensors"),
    ],
)
def test_names_and_weights_are_read(text, name, weights):
    assert parse_backbone(text) == BackboneChoice(name, weights)


@given(NAMES, st.none() | st.integers(16, 4096), st.none() | FILES)
def test_reading_what_was_written_gives_the_same(name, size, weights):
    choice = BackboneChoice(name if size is None else f"{name}@{size}", weights or "pretrained")
    assert parse_backbone(str(choice)) == choice
    assert split_size(choice.name) == (name, size)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        choice = parse_backbone(text)
    except UsageError:
        return
    assert choice.name
    assert choice.weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no name"),
        ("=file.pth", "has no name"),
        ("swinv2_l=", "names no weights after '='"),
        ("swinv2_l@", "whole number of pixels from 16 to 4096"),
        ("swinv2_l@15", "whole number of pixels from 16 to 4096"),
        ("swinv2_l@4097", "whole number of pixels from 16 to 4096"),
        ("swinv2_l@" + "9" * 5000, "whole number of pixels from 16 to 4096"),
        ("swinv2_l@٢٢٤", "whole number of pixels from 16 to 4096"),
        ("@224", "whole number of pixels from 16 to 4096"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(UsageError, match=message):
        parse_backbone(text)
