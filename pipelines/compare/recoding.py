"""A float16 store written again in another codec."""

from __future__ import annotations

from pathlib import Path

from mettle_cache.pipelines.progress import Progress
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.format.codecs import NO_STATIC, Codec, StaticArrays, encode_layers, get_codec
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.writer import StoreWriter

_BATCH = 4


def recode_store(store: TokenStore, name: str, out: Path, progress: Progress) -> None:
    """Write the clips of ``store`` in the codec called ``name`` to ``out``; goes on where an earlier call stopped."""
    codec = get_codec(name)
    static = _run_pilot(store, codec)
    spec = StoreSpec(
        dataset=store.dataset,
        segments=store.segments,
        layers=store.layers,
        codec=name,
        clips=store.clips,
        samples=store.samples,
        vocabulary=store.vocabulary,
        key={"recoded": store.key_digest, "content": store.content_digest},
        static=static,
    )
    with StoreWriter.create_or_resume(out, spec) as writer:
        pending = writer.pending()
        for clip in [clip for clip in pending if store.clips[clip] in store.failed]:
            writer.fail_clip(clip, store.failed[store.clips[clip]])
        left = [clip for clip in pending if store.clips[clip] not in store.failed]
        progress.start(len(left), "clips", f"recode to {name}")
        order = [left[start : start + _BATCH] for start in range(0, len(left), _BATCH)]
        for batch in store.batches(order):
            floats = {layer: tokens.floats() for layer, tokens in batch.layers.items()}
            encoded = encode_layers(floats, codec, store.layers, static)
            for slot, clip in enumerate(batch.clips):
                tokens = {layer: one[slot] for layer, one in encoded.items()}
                writer.write_clip(clip, tokens, source=store.key_digest)
                progress.advance(1)
        progress.finish()
        writer.finish()


def _run_pilot(store: TokenStore, codec: Codec) -> StaticArrays:
    """The codec's static arrays, from frames of training clips."""
    pilot = codec.pilot(store.layers)
    if pilot is None:
        return NO_STATIC
    splits = store.samples["split"].to_pylist()
    named = [clips for clips, split in zip(clips_of_samples(store.samples), splits, strict=True) if split == "train"]
    usable = [clip for clips in dict.fromkeys(named) for clip in clips if clip not in store.failed]
    shown = 0
    for index, segments in pilot.choose(usable, store.segments):
        if shown >= pilot.wanted:
            break
        tokens = store[usable[index]]
        pilot.add({name: x.floats()[list(segments)] for name, x in tokens.items()})
        shown += len(segments)
    return pilot.finish()
