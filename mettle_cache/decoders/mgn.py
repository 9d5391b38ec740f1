"""The multi-modal grouping network with DG-SCT's temporal gate: the decoder of the paper's peers.

Shapes: B videos, T segments, d meta-token width, h = 128 width, C categories. Source: docs/protocols/avvp.md, "MGN" and
"Losses". The published code computes a gate on the audio features too and drops it; that half (405,761 parameters) and
two layers that it only copies (298,112) are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.grouping import GroupingBlock, SelfAttentionBlock, initialise
from mettle_cache.decoders.mmil import DEFAULT_SMOOTHING, MotionFusion, Smoothing, weak_losses
from mettle_cache.options import Options, Share

WIDTH = 128
HEADS = 8
UNIMODAL_DEPTH = 3
CROSSMODAL_DEPTH = 6
GATE_WEIGHT = 0.05


@dataclass(frozen=True, kw_only=True)
class MGNOptions(Options):
    """The switches of :class:`MGN`.

    ``drop_path`` is the share of videos that skip a part of a self-attention block in training. ``temporal_gate`` lets
    sound weigh the visual features second by second. ``hard`` makes the block that groups audio segments by the visual
    ones assign each to one group, as released.
    """

    drop_path: Share = 0.1
    temporal_gate: bool = True
    hard: bool = True


class MGN(nn.Module):
    """Groups of one category each, for sound, for pictures, and for both.

    Parameters
    ----------
    dim, audio_dim
        d of the visual and of the audio meta-tokens, each projected to 128; ``audio_dim`` is ``dim`` by default.
    segments
        T: the seeds of the audio segments' groups are mixed over time, so their number is fixed.
    options
        Default: those of :class:`MGNOptions`.
    motion
        Whether the R(2+1)D features join the visual ones.
    """

    def __init__(
        self,
        dim: int,
        categories: int,
        *,
        audio_dim: int | None = None,
        segments: int = 10,
        options: MGNOptions | None = None,
        motion: bool = True,
        smoothing: Smoothing = DEFAULT_SMOOTHING,
    ) -> None:
        super().__init__()
        options = options or MGNOptions()
        self.smoothing = smoothing
        self.audio_in, self.visual_in = nn.Linear(audio_dim or dim, WIDTH), nn.Linear(dim, WIDTH)
        self.motion = MotionFusion(WIDTH) if motion else None
        self.audio_tokens, self.visual_tokens = (nn.Parameter(torch.zeros(categories, WIDTH)) for _ in range(2))
        self.audio_blocks, self.visual_blocks = (_blocks(UNIMODAL_DEPTH, options.drop_path) for _ in range(2))
        self.hybrid = GroupingBlock(WIDTH, segments, HEADS, hard=options.hard)
        self.audio_groups, self.visual_groups = (GroupingBlock(WIDTH, categories, HEADS) for _ in range(2))
        self.cross_blocks = _blocks(CROSSMODAL_DEPTH, options.drop_path)
        self.cross_groups = GroupingBlock(WIDTH, categories, HEADS)
        self.video_score, self.audio_score, self.visual_score = (nn.Linear(WIDTH, 1) for _ in range(3))
        self.token_category = nn.Linear(WIDTH, categories)
        self.apply(initialise)
        # built last: it keeps PyTorch's own initial weights
        self.gate = TemporalGate(WIDTH) if options.temporal_gate else None

    def forward(self, visual: Tensor, audio: Tensor, motion: Tensor | None = None) -> dict[str, Tensor]:
        """``[B, T, d]`` each, and motion ``[B, T, 512]``, to probabilities.

        ``video``, ``video_audio`` and ``video_visual`` ``[B, C]``; ``audio`` and ``visual`` ``[B, T, C]`` of the
        segments, which can exceed 1 and vary little over time: 1 to 2 times the video's.
        """
        audio, visual = self.audio_in(audio), self.visual_in(visual)
        if self.gate is not None:
            visual = visual * (1 + GATE_WEIGHT * self.gate(audio))
        if self.motion is not None:
            visual = self.motion(visual, motion)
        segments, seeds = _mix(self.visual_blocks, visual, self.visual_tokens)
        seen, visual_shares = self.visual_groups(segments, seeds)
        segments, seeds = _mix(self.audio_blocks, audio, self.audio_tokens)
        segments, _ = self.hybrid(segments, visual)
        heard, audio_shares = self.audio_groups(segments, seeds)
        both, _ = self.cross_groups(*_mix(self.cross_blocks, heard, seen))
        video_audio, video_visual = self.audio_score(heard).sigmoid(), self.visual_score(seen).sigmoid()
        return {
            "audio": (video_audio * (1 + audio_shares.softmax(dim=2))).transpose(1, 2),
            "visual": (video_visual * (1 + visual_shares.softmax(dim=2))).transpose(1, 2),
            "video": self.video_score(both).sigmoid().squeeze(-1),
            "video_audio": video_audio.squeeze(-1),
            "video_visual": video_visual.squeeze(-1),
        }

    def loss(self, outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The three terms on weak labels ``[B, C]``, and two that tell the category tokens apart; all of weight 1."""
        categories = torch.arange(len(self.audio_tokens), device=labels.device)
        return {
            **weak_losses(outputs, labels, self.smoothing),
            "audio_tokens": functional.cross_entropy(self.token_category(self.audio_tokens), categories),
            "visual_tokens": functional.cross_entropy(self.token_category(self.visual_tokens), categories),
        }


class TemporalGate(nn.Module):
    """How much there is to hear in each second: recurrent features, two transformer layers, one number."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = dim // 2
        self.recurrent = nn.LSTM(dim, inner, batch_first=True, bidirectional=True)
        self.narrow = nn.Linear(2 * inner, inner)
        layer = nn.TransformerEncoderLayer(inner, nhead=4, dim_feedforward=1024, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.score = nn.Linear(inner, 1)

    def forward(self, audio: Tensor) -> Tensor:
        """``[B, T, h]`` to weights from 0 to 1, ``[B, T, 1]``."""
        weights: Tensor = self.score(self.encoder(self.narrow(self.recurrent(audio)[0]))).sigmoid()
        return weights


def _blocks(depth: int, drop_path: float) -> nn.Sequential:
    return nn.Sequential(*(SelfAttentionBlock(WIDTH, HEADS, drop_path) for _ in range(depth)))


def _mix(blocks: nn.Sequential, segments: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Segments ``[B, S, h]`` and seeds ``[C, h]`` or ``[B, C, h]``, after they have attended to one another."""
    seeds = seeds.expand(len(segments), -1, -1)
    mixed: Tensor = blocks(torch.cat((segments, seeds), dim=1))
    return mixed[:, : segments.shape[1]], mixed[:, segments.shape[1] :]
