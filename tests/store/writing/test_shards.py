"""A clip's tokens on their way into shards: what is refused, and what is said of them."""

from types import SimpleNamespace

import google_crc32c
import pytest
import torch

from mettle_cache.errors import StoreError
from mettle_cache.store.format.codecs import CodecArray, get_codec
from mettle_cache.store.format.layout import ArrayLayout, clip_layout
from mettle_cache.store.writing.shards import build_chunks, largest_values
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import FLOATS, INT8, LayerTokens
from tests.store.tiny import CODECS, LAYERS, SEGMENTS, clip_tokens, make_spec


@pytest.mark.parametrize("codec", CODECS)
def test_a_clip_is_the_layers_chunks_each_with_its_checksum(codec):
    tokens = clip_tokens(1, codec)
    for array in clip_layout(LAYERS, SEGMENTS, get_codec(codec)):
        members = [tokens[layer.name] for layer in array.layers]
        parts = ("scale", "zero") if codec != "float16" else ()
        chunks = [b"".join(x.numpy().tobytes() for x in (t.codes, *(t.parts[name] for name in parts))) for t in members]
        clip = build_chunks(array, tokens)
        content = b"".join(bytes(piece) for piece in clip.buffers)
        sums = [google_crc32c.value(chunk) for chunk in chunks]
        assert content == b"".join(chunk + crc.to_bytes(4, "little") for chunk, crc in zip(chunks, sums, strict=True))
        assert len(content) == array.clip_bytes
        assert clip.checksums == tuple(f"{crc:08x}" for crc in sums)


def test_a_codec_may_store_no_codes_at_all():
    empty = CodecArray(part="codes", dtype="uint8", axes=("segment", "token", "channel"), shape=(2, 0, 4))
    rest = CodecArray(part="rest", dtype="float16", axes=("segment", "channel"), shape=(2, 4))
    array = ArrayLayout("visual/s1", LAYERS[:1], (empty, rest), 1, 1)
    values = torch.arange(8).half().view(2, 4)
    tokens = SimpleNamespace(codes=torch.empty(2, 0, 4, dtype=torch.uint8), parts={"rest": values})
    clip = build_chunks(array, {LAYERS[0].name: tokens})
    chunk = values.numpy().tobytes()
    assert b"".join(bytes(piece) for piece in clip.buffers) == chunk + google_crc32c.value(chunk).to_bytes(4, "little")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("extreme", [-55.0, 55.0])
def test_the_largest_value_is_of_either_sign(codec, extreme):
    layer = LAYERS[0]
    x = torch.linspace(-2, 3, SEGMENTS * layer.tokens * layer.width).view(SEGMENTS, layer.tokens, layer.width)
    x[1, 4, 2] = extreme
    encoded = get_codec(codec).encode({layer.name: x}, [layer], {})
    largest = largest_values(encoded, [layer], "clip-0")[layer.name]
    assert largest == pytest.approx(encoded[layer.name].floats(torch.float64).abs().max().item(), rel=1e-5)
    assert largest == pytest.approx(55, rel=0.01)


def broken_tokens():
    tokens = clip_tokens(0)
    name = LAYERS[0].name
    codes, scale, zero = tokens[name].codes, tokens[name].scale, tokens[name].zero
    yield {key: value for key, value in tokens.items() if key != name}, rf"layers \['{name}'\] are missing"
    yield {**tokens, "visual/s9b01": tokens[name]}, r"\['visual/s9b01'\] are not of this store"
    yield (
        {**tokens, name: LayerTokens(codes[:, :-1], INT8, {"scale": scale, "zero": zero})},
        f"layer {name}: codes are int8",
    )
    yield (
        {**tokens, name: LayerTokens(codes, INT8, {"scale": scale.float(), "zero": zero})},
        f"layer {name}: scale are float32",
    )
    yield {**tokens, name: LayerTokens(codes.half(), FLOATS)}, f"layer {name}: codes are float16"
    yield (
        {**tokens, name: LayerTokens(codes, INT8, {"scale": scale * float("nan"), "zero": zero})},
        f"layer {name}: tokens decode to values",
    )


@pytest.mark.parametrize(("tokens", "message"), list(broken_tokens()))
def test_tokens_that_are_not_the_store_s_are_refused(path, tokens, message):
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        with pytest.raises(StoreError, match=f"clip clip-0.*{message}"):
            writer.write_clip(0, tokens, source="")
        assert not (path / "commits" / "00000000.jsonl").exists()
