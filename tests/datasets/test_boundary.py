"""What one clip's failure is, and what ends a run."""

import errno
import os
import shutil

import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.boundary import clip_errors, describe
from mettle_cache.datasets.media import decode
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.errors import DatasetError, MachineError, MediaError, PluginError


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError


def deep():
    return deep()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "clip.wav").touch()
    return tmp_path


def fail(root, error):
    with clip_errors(root / "clip.wav", root):
        raise error


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ValueError("Unsupported subtype\nGSM610"), "ValueError: Unsupported subtype"),
        (KeyError("video"), "KeyError: 'video'"),
        (OverflowError(), "OverflowError"),
        (UnprintableError(), "UnprintableError"),
        (
            AttributeError("<Stream object at 0x7f0123456789> has no rate"),
            "AttributeError: <Stream object at 0x...> has no rate",
        ),
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (PluginError("no such picture", hint="see its page"), "no such picture"),
        (MediaError("no sound"), "no sound"),
    ],
)
def test_whatever_is_raised_is_the_clips(root, error, what):
    with pytest.raises(MediaFileError) as caught:
        fail(root, error)
    assert (caught.value.path, caught.value.what) == (root / "clip.wav", what)
    assert caught.value.hint == getattr(error, "hint", None)


def test_endless_recursion_is_the_clips(root):
    with pytest.raises(MediaFileError, match="RecursionError"), clip_errors(root / "clip.wav", root):
        deep()


def test_an_error_that_names_its_file_keeps_it(root):
    inner = MediaFileError(root / "clip" / "0001.jpg", "is empty (0 bytes)")
    with pytest.raises(MediaFileError) as caught:
        fail(root, inner)
    assert caught.value is inner


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_programs_is_nobodys(root, error):
    with pytest.raises(type(error)):
        fail(root, error)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT])
def test_the_machines_end_ends_the_run_even_where_a_decoder_says_it_in_its_words(root, number):
    error = MediaFileError(root / "clip.wav", "cannot be read")
    error.__context__ = OSError(number, os.strerror(number))
    with pytest.raises(MachineError, match=os.strerror(number)) as caught:
        fail(root, error)
    assert str(root / "clip.wav") in caught.value.message
    assert caught.value.hint


def test_memory_that_runs_out_ends_the_run(root):
    with pytest.raises(MachineError, match="memory ran out") as caught:
        fail(root, MemoryError())
    assert "--memory" in caught.value.hint


def test_an_array_that_no_clip_may_take_is_the_clips(root):
    with pytest.raises(MediaFileError, match="Unable to allocate"), clip_errors(root / "clip.wav", root):
        np.zeros((1 << 20, 1 << 25))


@pytest.mark.parametrize("emptied", [True, False])
def test_a_root_that_goes_ends_the_run(root, emptied):
    shutil.rmtree(root)
    if emptied:
        root.mkdir()
    with pytest.raises(DatasetError, match="is empty now" if emptied else "cannot be read any more"):
        fail(root, MediaFileError(root / "clip.wav", "is missing"))
    root.mkdir(exist_ok=True)


def test_describe_is_one_line():
    assert describe(ValueError("  \n first\nsecond")) == "ValueError: first"


def test_looking_at_media_finds_whatever_a_library_raises(tmp_path, monkeypatch):
    write_demo_ave(tmp_path / "AVE", train=2, val=1, test=1, seed=0, layout="mixed")
    dataset = open_dataset("ave", tmp_path / "AVE")
    bad, real = dataset.clips[1], decode.check_audio

    def check(clip, segments, *, deep):
        if clip == bad:
            raise ValueError("unknown format: 49")
        return real(clip, segments, deep=deep)

    monkeypatch.setattr(decode, "check_audio", check)
    (problem,) = dataset.problems(deep=True)
    assert (problem.clip, problem.path, problem.what) == (bad.id, bad.audio, "ValueError: unknown format: 49")
