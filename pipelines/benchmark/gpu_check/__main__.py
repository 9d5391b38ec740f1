"""``python -m mettle_cache.pipelines.benchmark.gpu_check [PART...]``: run parts, print tables, write one JSON file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mettle_cache.pipelines.benchmark.gpu_check.findings import PartResult, describe_result
from mettle_cache.pipelines.benchmark.gpu_check.parts import PARTS, run_part
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting

NO_GPU = "PyTorch finds no GPU here. To try the check itself on a CPU, on toy shapes: --device cpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every part that could run is right; 1 where one failed; 2 where there is nothing to check."""
    options = _parser().parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        print(f"error: {NO_GPU}", file=sys.stderr)  # noqa: T201
        return 2
    setting = Setting(device=torch.device(options.device), tiny=options.device == "cpu")
    machine = setting.describe()
    print("\n".join(f"{topic}: {fact}" for topic, fact in machine.items()), flush=True)  # noqa: T201
    results: list[PartResult] = []
    for name in dict.fromkeys(options.parts or PARTS):
        results.append(run_part(PARTS[name], setting))
        print(f"\n{describe_result(results[-1])}", flush=True)  # noqa: T201
        _write(options.out, machine, setting, results)
    states = [result.state for result in results]
    done, skipped = states.count("done"), states.count("skipped")
    print(f"\n{done} of {len(states)} parts done, {skipped} skipped; all in {options.out}")  # noqa: T201
    return 1 if "failed" in states else 0 if done else 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make gpu-check", description="Check what runs on a GPU, part by part.")
    parts = "; ".join(f"{part.name}: {part.what}" for part in PARTS.values())
    parser.add_argument("parts", nargs="*", type=_part, metavar="PART", help=f"{parts}. Without one: all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: toy shapes, to try the check")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check.json"), help="where the figures go")
    return parser


def _part(name: str) -> str:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"there is no part '{name}'; the parts are {', '.join(PARTS)}")
    return name


def _write(out: Path, machine: dict[str, str], setting: Setting, results: Sequence[PartResult]) -> None:
    """Write after every part: a part that takes the process down must not take the others' figures with it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "tiny": setting.tiny, "parts": [result.to_json() for result in results]}
    out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
