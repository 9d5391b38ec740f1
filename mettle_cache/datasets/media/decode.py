"""One clip's files to arrays, by what kind of file each is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.content import begins_as_container, begins_as_sound
from mettle_cache.datasets.media import arrays, pictures, video, waveform
from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.container import SLACK, measure
from mettle_cache.datasets.media.fault import MediaFileError, read_head, require_file
from mettle_cache.datasets.media.places import TRACKS, VIDEOS
from mettle_cache.datasets.media.remarks import Remark
from mettle_cache.datasets.media.soundtrack import load_video_audio
from mettle_cache.datasets.protocol import SPREAD, Clip, PictureRule
from mettle_cache.preprocessing import Recording

_READ_SIZE = 1 << 20


def load_frames(clip: Clip, segments: int, rule: PictureRule = SPREAD) -> list[NDArray[np.uint8]]:
    """T RGB pictures ``[H, W, 3]``. Raises MediaFileError."""
    with allowed(Allowance()):
        if is_video(clip.frames):
            return load_video(clip.frames, segments, rule)
        return pictures.load_pictures(clip.frames, segments, rule)


def load_video(path: Path, segments: int, rule: PictureRule = SPREAD) -> list[NDArray[np.uint8]]:
    """What a video shows in the middle of each of its first T seconds, ``[H, W, 3]`` each.

    Of a video that lasts longer than T seconds by the rule, they are T of all its seconds, spread as pictures are.

    Raises
    ------
    MediaFileError
        As :func:`mettle_cache.datasets.media.video.load_video_frames`.
    """
    seconds = max(segments, round(measure(path, "video"))) if rule.longer else segments
    return video.load_video_frames(path, [second + 0.5 for second in pictures.choose_frames(seconds, segments)])


def load_waveform(clip: Clip, segments: int, sample_rate: int) -> NDArray[np.float32]:
    """Mono samples ``[n]`` at ``sample_rate`` Hz. Raises MediaFileError."""
    with allowed(Allowance()):
        if _is_array(clip.audio):
            samples, rate = arrays.read_npy(clip.audio, segments)
        else:
            samples, rate = read_recording(clip.audio)
        return waveform.bring_to(clip.audio, samples, rate, sample_rate)


def load_recording(clip: Clip, segments: int, sample_rate: int) -> Recording:
    """The first channel of a sound file at its own rate, else :func:`load_waveform`. Raises MediaFileError."""
    path = clip.audio
    if _is_array(path) or holds_track(path):
        return Recording(load_waveform(clip, segments, sample_rate), sample_rate)
    return read_first_channel(path)


def read_first_channel(path: Path) -> Recording:
    """The first channel of a sound file at its own rate. Raises MediaFileError."""
    with allowed(Allowance()):
        samples, rate = waveform.read_sound_file(path, waveform.first_channel)
        return Recording(waveform.bring_to(path, samples, rate, rate), rate)


def holds_track(path: Path) -> bool:
    """Whether a recording is a stream in a container, by its content: an M4A may be named .wav, an MP3 .m4a.

    Its name tells for Ogg files, which may be either, and who is to say what is wrong with what is neither.
    """
    require_file(path)
    head = read_head(path)
    named = path.suffix.lower() in (*VIDEOS, *TRACKS)
    return begins_as_container(head) or (named and not begins_as_sound(head))


def read_recording(path: Path) -> tuple[NDArray[np.float32], int]:
    """Mono samples ``[n]`` of a sound file or of a video's sound track, and their rate. Raises MediaFileError."""
    return load_video_audio(path) if holds_track(path) else waveform.read_sound_file(path)


def check_frames(clip: Clip, segments: int, rule: PictureRule = SPREAD, *, deep: bool) -> list[Remark]:
    """What is to be said of the clip's pictures or video, though nothing is wrong.

    Raises
    ------
    MediaFileError
        A file is missing or empty or, if ``deep``, does not open.
    """
    if not is_video(clip.frames):
        return pictures.check_pictures(clip.frames, segments, rule, deep=deep)
    if deep:
        end = measure(clip.frames, "video")
        if end + SLACK < segments:
            what = f"have a video that ends before their {segments} s are over"
            return [Remark(what, "its last picture stands for the rest", f"{end:.0f} s")]
    else:
        require_file(clip.frames)
    return []


def check_audio(clip: Clip, segments: int, *, deep: bool) -> list[Remark]:
    """Like :func:`check_frames` for the recording."""
    if not deep:
        require_file(clip.audio)
    elif _is_array(clip.audio):
        arrays.open_npy(clip.audio, segments)
    else:
        end = check_recording(clip.audio)
        if end is not None and end + SLACK < segments:
            what = f"have a sound track that ends before their {segments} s are over"
            return [Remark(what, "each backbone treats a short recording as its published code does", f"{end:.0f} s")]
    return []


def check_recording(path: Path) -> float | None:
    """Open a sound file, or a video, of whose sound track the end is returned, in seconds. Raises MediaFileError."""
    if holds_track(path):
        return measure(path, "audio")
    waveform.check_sound_file(path)
    return None


def source_files(clip: Clip, segments: int, rule: PictureRule = SPREAD) -> tuple[Path, ...]:
    """The files that decoding uses, each once. Raises MediaFileError where the pictures cannot be told."""
    frames = [clip.frames] if is_video(clip.frames) else pictures.segment_pictures(clip.frames, segments, rule)
    return tuple(dict.fromkeys((*frames, clip.audio)))


def source_digest(clip: Clip, segments: int, rule: PictureRule = SPREAD) -> str:
    """BLAKE2b over the files that decoding uses, each with its length, in order; names and places do not count."""
    digest = hashlib.blake2b(digest_size=16)
    for path in source_files(clip, segments, rule):
        add_file(digest, path)
    return digest.hexdigest()


def add_file(digest: hashlib.blake2b, path: Path) -> None:
    """Add a file's length and content, however large it is. Raises MediaFileError."""
    digest.update(require_file(path).st_size.to_bytes(8, "little"))
    try:
        with path.open("rb") as file:
            while piece := file.read(_READ_SIZE):
                digest.update(piece)
    except OSError as error:
        raise MediaFileError(path, f"cannot be read: {error.strerror}") from error


def policy(segments: int, patterns: dict[str, list[str]], rule: PictureRule = SPREAD) -> dict[str, object]:
    """The rules and library versions of the kinds of files in use, as JSON; ``patterns`` as ``locate_media`` gives."""
    kinds = {pattern.rsplit(".", 1)[-1] for group in patterns.values() for pattern in group}
    in_use: dict[str, object] = {"segments": segments, "places": patterns, "recording": waveform.POLICY}
    if "jpg" in kinds:
        in_use["pictures"] = pictures.policy(rule)
        if rule.rate:
            in_use["picture_rate"] = f"every {rule.rate}th picture where there are about {rule.rate} a second"
    if "wav" in kinds:
        in_use["wav"] = {"versions": waveform.decoder_versions()}
    if kinds & {"mp4", "m4a"}:
        in_use["video"] = {**video.POLICY, "versions": video.decoder_versions()}
    return in_use


def _is_array(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def is_video(path: Path) -> bool:
    """Whether a clip's pictures are a video, by its name: what is in it may be something else."""
    return path.suffix.lower() in VIDEOS
