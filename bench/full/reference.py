"""One denoising step of a full-size stack in diffusers: its inputs and outputs, how long, and how much memory.

    python bench/full/reference.py FOLDER [--pixels 512] [--frames 2] [--threads N]

Reads what make.py wrote, computes in float32 on the 16-bit weights, writes FOLDER/io.safetensors. Both branches of the
guidance go through the network as one batch, as diffusers' pipelines do it.
"""

import argparse
import json
import re
import sys
import threading
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler

sys.path.append(str(Path(__file__).parents[2] / "test" / "parity"))
from fixture import normal, uniform, write_safetensors  # noqa: E402
from stacks import Stack  # noqa: E402

GUIDANCE, STEPS, TOKENS = 7.5, 20, 77


class Peak:
    """Looks at this process's anonymous memory every 20 ms."""

    def __init__(self):
        self.most = 0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            self.look()
            time.sleep(0.02)

    def look(self):
        text = Path("/proc/self/status").read_text()
        self.most = max(self.most, 1024 * int(re.search(r"RssAnon:\s+(\d+)", text)[1]))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    peak = Peak()
    began = time.perf_counter()
    stack = Stack(args.folder / "model", args.folder / "edit", args.folder / "video")
    stack.unet.load_lora_adapter(args.folder, prefix="unet", weight_name="look.safetensors", adapter_name="look")
    stack.eval()
    opened = time.perf_counter() - began

    scheduler = DDIMScheduler.from_pretrained(args.folder / "model" / "scheduler")
    scheduler.set_timesteps(STEPS)
    t, side = scheduler.timesteps[0], args.pixels // 8
    latents = normal((1, 4, args.frames, side, side), "full", "latents")
    text = normal((2, TOKENS, 768), "full", "text")  # nothing, words
    image = uniform((args.frames, 3, args.pixels, args.pixels), "full", "image")

    began, busy = time.perf_counter(), time.process_time()
    both = stack(latents.repeat(2, 1, 1, 1, 1), t[None], text, image, text)
    none, words = both.chunk(2)
    guided = none + GUIDANCE * (words - none)
    after = scheduler.step(guided, t, latents).prev_sample
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    peak.look()

    facts = {"opened": opened, "seconds": seconds, "busy": busy, "anonymous": peak.most, "threads": torch.get_num_threads()}
    facts |= {"pixels": args.pixels, "frames": args.frames, "guidance": GUIDANCE, "steps": STEPS, "torch": torch.__version__}
    tensors = {"latents": latents, "text": text, "image": image, "none": none, "words": words, "guided": guided, "after": after}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    write_safetensors(args.folder / "io.safetensors", tensors, {"facts": json.dumps(facts)})
    spread = " ".join(f"{name} {tensor.std():.3f}" for name, tensor in tensors.items())
    print(f"standard deviations: {spread}; words apart from nothing: {(words - none).std():.3f}")
    print(
        f"PyTorch {torch.__version__}, {args.frames} frames of {args.pixels}², {facts['threads']} threads: "
        f"opened in {opened:.1f} s, one step with guidance in {seconds:.1f} s ({busy:.1f} s of CPU), {peak.most / 1e9:.2f} GB anonymous at most"
    )


main()
