"""The parts of the check by name. A new one is a module with ``run(setting) -> findings``, and a line here."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from mettle_cache.errors import MettleError
from mettle_cache.pipelines.benchmark.gpu_check.findings import PartResult
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting

# what every part that trains or reads a store takes, by the names they are imported under
_TRAINING = ("pydantic", "pyarrow", "safetensors", "fastcrc", "psutil")


@dataclass(frozen=True)
class Part:
    """``needs`` are packages by the names that they are imported under; PyTorch is taken for granted."""

    name: str
    what: str
    needs: tuple[str, ...]

    def lacking(self) -> tuple[str, ...]:
        """The packages that are not here."""
        return tuple(name for name in self.needs if find_spec(name) is None)


_KNOWN = (
    Part("tests", "the tests that need a GPU", ("pytest", "pytest_timeout", "hypothesis", *_TRAINING)),
    Part("kernels", "pooling against the float64 reference, and its share of the copy bandwidth", ("numpy",)),
    Part("step", "a training step at full size from each tier", _TRAINING),
    Part("extract", "tokens in half precision, and encoding on the device", (*_TRAINING, "timm", "torchaudio")),
    Part(
        "online", "a step with the backbones in the loop against a step from codes", (*_TRAINING, "timm", "torchaudio")
    ),
)
PARTS = {part.name: part for part in _KNOWN}


def run_part(part: Part, setting: Setting) -> PartResult:
    """Run one part; what goes wrong in it is its result, and the others go on."""
    lacking = part.lacking()
    if lacking:
        return PartResult(part=part.name, state="skipped", reason=f"it lacks the packages {', '.join(lacking)}")
    started = time.perf_counter()
    try:
        findings = tuple(import_module(f"{__package__}.{part.name}").run(setting))
    except MettleError as error:
        return _failed(part, started, error.message)
    except Exception as error:  # noqa: BLE001
        # a device's own errors are of many classes; the part's reader needs the place, the other parts must still run
        traceback.print_exc()
        return _failed(part, started, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    wrong = [one.what for one in findings if not one.passed]
    return PartResult(
        part=part.name,
        state="failed" if wrong else "done",
        seconds=time.perf_counter() - started,
        reason=f"wrong: {', '.join(wrong)}" if wrong else "",
        findings=findings,
    )


def _failed(part: Part, started: float, reason: str) -> PartResult:
    return PartResult(part=part.name, state="failed", seconds=time.perf_counter() - started, reason=reason)
