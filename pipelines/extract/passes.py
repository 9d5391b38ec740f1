"""A group's forward pass and codes, and whose failure it is when that fails: a clip's, or the device's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mettle_cache.datasets.boundary import describe, is_out_of_memory, out_of_memory
from mettle_cache.errors import MachineError, MediaError
from mettle_cache.pipelines.extract.encoding import Codes
from mettle_cache.pipelines.extract.extractor import Extractor, PreparedClip

_DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
# what libraries under PyTorch say in a plain RuntimeError
_DEVICE_WORDS = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "CUFFT_")


def encode_clips(extractor: Extractor, clips: Sequence[PreparedClip]) -> dict[int, Codes | MediaError]:
    """A group's codes by clip index; for a clip whose tokens cannot be computed or stored, the reason instead.

    Raises
    ------
    MachineError
        The device failed, or memory ran out; names the clips.
    """
    try:
        return dict(extractor.encode(clips))
    except Exception as error:  # noqa: BLE001 - whatever a backbone or a codec raises is its clip's failure
        trouble = pass_trouble(extractor, clips, error)
    if len(clips) == 1:
        return {clips[0].index: trouble}
    # one of them spoils it for all; each alone gives the bytes that it gives among the others
    return {index: result for clip in clips for index, result in encode_clips(extractor, [clip]).items()}


def pass_trouble(extractor: Extractor, clips: Sequence[PreparedClip], error: Exception) -> MediaError:
    """The failure that ``error``, raised by the pass of these clips, is for each of them.

    Raises
    ------
    MachineError
        It is none of theirs: the device failed, or memory ran out.
    """
    names = ", ".join(extractor.dataset.clips[clip.index].id for clip in clips)
    device = extractor.device
    if is_out_of_memory(error):
        raise out_of_memory(f"the backbones looked at clip {names}") from error
    if isinstance(error, _DEVICE_ERRORS) or any(word in str(error) for word in _DEVICE_WORDS):
        raise MachineError(
            f"the device {device} failed while the backbones looked at clip {names}: {describe(error)}",
            hint="see that no other program uses it and that its memory suffices, then run the same command again; "
            "or compute elsewhere: --device",
        ) from error
    return MediaError(describe(error), hint=getattr(error, "hint", None))
