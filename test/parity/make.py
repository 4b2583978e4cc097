"""Writes the reference fixtures: `python test/parity/make.py [unets vaes clips ops …]` (all without names)."""

import importlib
import os
import sys
import time
import warnings

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}
warnings.filterwarnings("ignore")

import torch  # noqa: E402

from fixture import FIXTURES  # noqa: E402

ALL = ["unets", "vaes", "clips", "ops", "tokenizer", "compose", "schedulers", "training", "checkpoints", "ip_adapters", "controls", "pefts"]


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in names or ALL:
        start = time.time()
        importlib.import_module(name).make()
        print(f"{name}: {time.time() - start:.0f} s")
    for path in FIXTURES.rglob("*"):  # some writers leave files that only their owner reads
        path.chmod(0o755 if path.is_dir() else 0o644)
    sizes = {p: p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file()}
    for part in sorted(FIXTURES.iterdir()):
        print(f"{sum(s for p, s in sizes.items() if p.is_relative_to(part)) / 1e6:8.2f} MB  {part.name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  in all, {len(sizes)} files")


if __name__ == "__main__":
    main(sys.argv[1:])
