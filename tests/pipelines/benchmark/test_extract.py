"""A bench of extraction on toy shapes: what its numbers mean, not how large they are."""

import pytest
import torch

from mettle_cache.errors import RunError
from mettle_cache.pipelines.benchmark import extract
from mettle_cache.pipelines.benchmark.extract import error_row, precision_rows, relative_errors
from mettle_cache.pipelines.benchmark.extraction import PICTURE, Extraction, write_media
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.registry import run_bench
from mettle_cache.pipelines.benchmark.table import BenchRow
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.progress import Silent
from mettle_cache.store.format.codecs import encode_layers, get_codec


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("media") / "AVE"
    write_media(root, 2)
    visual, audio = extract.TINY_BACKBONES
    return ExtractConfig(dataset="ave", root=root, visual=visual, audio=audio, device="cpu")


@pytest.fixture
def extraction(config, tmp_path):
    return Extraction.set_up(config, 2, tmp_path / "stores")


def test_media_are_real_files_of_a_videos_size(config):
    from PIL import Image

    pictures = sorted((config.root / "frames").glob("*/*.jpg"))
    assert len(pictures) == 30
    with Image.open(pictures[0]) as picture:
        assert (picture.format, picture.size) == ("JPEG", PICTURE)
    assert len(list((config.root / "wave").glob("*.wav"))) == 3


def test_the_stream_stores_what_a_forward_pass_gives(extraction):
    extraction.check_store()
    assert extraction.segments == 20


def test_a_stream_that_stores_something_else_is_found_out(extraction):
    name, tokens = next(iter(extraction.tokens.items()))
    extraction.tokens[name] = tokens + 1
    with pytest.raises(RunError, match=f"stores other tokens than one forward pass gives, in layer {name}"):
        extraction.check_store()


def test_resident_passes_hold_what_the_rig_would_compute(extraction):
    """One pass a clip on a CPU: the decoded clip itself, for each backbone."""
    assert len(extraction.passes) == 2
    for index, inputs in enumerate(extraction.passes):
        for x, prepared in zip(inputs, extraction.prepared[index].inputs, strict=True):
            assert torch.equal(x, prepared)


def test_a_batch_of_several_clips_is_filled_up_with_nothing(extraction, monkeypatch):
    monkeypatch.setattr(type(extraction.extractor), "clips_a_batch", property(lambda _: 3))
    (inputs,) = extraction.passes
    for x, first, second in zip(inputs, *(clip.inputs for clip in extraction.prepared), strict=True):
        assert torch.equal(x, torch.cat((first, second, torch.zeros_like(first))))


def test_media_that_cannot_be_extracted_are_an_error(extraction):
    for picture in (extraction.config.root / "frames").glob("*/*.jpg"):
        if extraction.extractor.dataset.clips[0].id in str(picture):
            good = picture.read_bytes()
            picture.write_bytes(b"no picture")
            break
    try:
        with pytest.raises(RunError, match="the bench's own media could not be extracted"):
            extraction.whole()
    finally:
        picture.write_bytes(good)


@pytest.mark.parametrize(("codec", "most"), [("float16", 1e-3), ("int8", 2e-2), ("int4", 0.2)])
def test_the_error_is_that_of_the_decoded_tokens(codec, most):
    exact = {"a": torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))}
    stored = encode_layers(exact, get_codec(codec))
    error = relative_errors(stored, exact)["a"]
    assert error == pytest.approx(float((stored["a"].floats() - exact["a"]).norm() / exact["a"].norm()))
    assert 0 < error < most
    doubled = {"a": 2 * exact["a"]}
    assert relative_errors(stored, doubled)["a"] == pytest.approx(0.5, abs=0.02)


def test_half_precision_reports_its_rate_and_its_error_beside_the_codecs_own(extraction):
    """Only a GPU runs it in the bench, but the arithmetic is the same here."""
    bare = BenchRow(variant=extract.BARE, value=2.0, unit="frames/s")
    rows = {row.variant: row for row in precision_rows(extraction, repeats=1, progress=Silent(), of=bare)}
    codec = rows["error of the stored tokens, float32"].value
    assert codec == error_row("float32", extraction, extraction.tokens).value
    for precision in ("bfloat16", "float16"):
        whole = rows[f"whole extraction, {precision}"]
        assert whole.ratio == whole.value / 2.0
        assert 0 < rows[f"error of the stored tokens, {precision}"].value < 0.2
    assert rows["error of the stored tokens, bfloat16"].value > codec


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    made = run_bench("extract", BenchOptions(tiny=True, repeats=2, clips=2, folder=folder, device="cpu"))
    assert list(folder.iterdir()) == []
    return made


def test_ratios_are_to_what_they_say(table):
    for row in table.rows:
        assert row.ratio == row.value / table.row(row.denominator).value
    assert table.row(extract.WHOLE).denominator == table.row(extract.PLAN_COMPUTES).denominator == extract.BARE
    assert table.row(extract.PLAN_READS).denominator == extract.READ
    assert set(extract.PARTS) <= {row.variant for row in table.rows}


def test_klt_is_held_to_the_same_share_and_its_encoding_to_a_tenth(table):
    goals = {goal.what: goal for goal in table.goals}
    assert goals["whole extraction, klt1.5, of the bare backbones"].found == table.row(extract.WHOLE_KLT).ratio
    encoding = goals["encoding, klt1.5, of the backbones"]
    assert encoding.found == table.row(extract.ENCODING_KLT).ratio
    assert (encoding.wanted, encoding.least) == (0.1, False)


def test_another_codec_stores_what_one_forward_pass_gives(extraction):
    klt = extraction.in_codec("klt1.5")
    klt.check_store()
    assert {tokens.format.name for tokens in klt.codes.values()} == {"klt"}


def test_a_pass_takes_its_share_of_the_time(table):
    """A pass's seconds times the frames/s of that same repeat are the segments of all the passes at once."""
    at_once = int(table.title.split(", ")[-1].split()[0])
    assert table.row(extract.PASS).low * table.row(extract.BARE).high == pytest.approx(10 * at_once)


def test_plan_is_held_to_its_word(table):
    goals = {goal.what: goal for goal in table.goals}
    assert goals["whole extraction, of the bare backbones"].found == table.row(extract.WHOLE).ratio
    value = {row.variant: row.value for row in (*table.rows, *table.denominators)}
    expected = value[extract.PLAN_READS] / value[extract.PLAN_COMPUTES]
    found = value[extract.READ] / value[extract.BARE]
    crossover = goals["mettle plan: crossover, expected against found"]
    assert crossover.found == pytest.approx(max(expected / found, found / expected))
    assert (crossover.wanted, crossover.least) == (1.3, False)


def test_plan_and_bench_measure_with_the_same_functions(config, tmp_path, monkeypatch):
    """What bench compares with is what plan prints."""
    from mettle_cache.pipelines.extract import plan

    monkeypatch.setattr(plan, "seconds_a_clip", lambda backbones, device, segments: 0.5)
    monkeypatch.setattr(plan, "measure_read_speed", lambda folder: 1e9)
    report = plan.make_plan(config)
    assert report.recomputes_per_second == 2.0
    assert report.chosen.reads_per_second == 1e9 / report.chosen.clip_bytes
    assert extract.seconds_a_clip.__module__ == "mettle_cache.pipelines.extract.plan"
