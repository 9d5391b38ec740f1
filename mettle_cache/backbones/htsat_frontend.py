"""HTS-AT's log-mel front end on torchaudio (docs/protocols/htsat.md, "Front end").

Shapes: B waveforms, F STFT bins (513), M mel bands (64), T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio import functional as audio
from torchaudio import transforms

AMIN = 1e-10


@dataclass(frozen=True, kw_only=True)
class MelSettings:
    """The published AudioSet settings; only ``n_fft`` and ``mels`` can be read from a checkpoint."""

    sample_rate: int = 32000
    n_fft: int = 1024
    hop: int = 320
    mels: int = 64
    f_min: float = 50.0
    f_max: float = 14000.0

    def filters(self) -> Tensor:
        """[F, M] triangular filters on librosa's (Slaney's) scale, of unit area."""
        bins = self.n_fft // 2 + 1
        filters: Tensor = audio.melscale_fbanks(
            bins, self.f_min, self.f_max, self.mels, self.sample_rate, norm="slaney", mel_scale="slaney"
        )
        return filters


class LogMel(nn.Module):
    """Waveforms [B, samples] to decibels [B, 1, T, M]: power, filters, 10 log10 above 1e-10, no ceiling.

    Parameters
    ----------
    filters
        [F, M], the checkpoint's ``melW`` where there is one: torchaudio's differ by 6e-5 dB.
    dft
        The checkpoint's cosine and sine kernels, each [F, 1, n_fft]: then the spectrum is the reference's convolution,
        bit for bit. None computes an FFT, 20 times faster and 1e-5 dB away on broadband sound.
    """

    def __init__(self, settings: MelSettings, filters: Tensor, dft: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.filters: Tensor
        self.cosines: Tensor
        self.sines: Tensor
        self.settings = settings
        self.register_buffer("filters", filters)
        self.spectrogram = transforms.Spectrogram(settings.n_fft, hop_length=settings.hop, power=None)
        self.exact = dft is not None
        if dft is not None:
            self.register_buffer("cosines", dft[0])
            self.register_buffer("sines", dft[1])

    def forward(self, waveforms: Tensor) -> Tensor:
        # autocast would move the decibels by 0.9
        with torch.autocast(waveforms.device.type, enabled=False):
            real, imaginary = self._convolve(waveforms) if self.exact else self._transform(waveforms)
            power = real**2 + imaginary**2
            bands = torch.matmul(power.transpose(-1, -2), self.filters)
            decibels: Tensor = audio.amplitude_to_DB(bands, 10.0, AMIN, 0.0)
        return decibels.unsqueeze(1)

    def _transform(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = self.spectrogram(waveforms)
        return spectrum.real, spectrum.imag

    def _convolve(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        half = self.settings.n_fft // 2
        padded = functional.pad(waveforms.unsqueeze(1), (half, half), mode="reflect")
        real = functional.conv1d(padded, self.cosines, stride=self.settings.hop)
        return real, functional.conv1d(padded, self.sines, stride=self.settings.hop)


def dft_kernels(n_fft: int) -> tuple[Tensor, Tensor]:
    """Cosines and minus sines under a periodic Hann window, each [F, 1, n_fft], as HTS-AT's checkpoints hold them."""
    time = torch.arange(n_fft, dtype=torch.float64)
    frequency = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    phase = 2 * torch.pi / n_fft * torch.outer(frequency, time)
    window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)
    return (phase.cos() * window).float().unsqueeze(1), (-phase.sin() * window).float().unsqueeze(1)
