"""A full-size stack with random 16-bit weights: Stable Diffusion 1.5, a ControlNet, AnimateDiff's motion modules, a LoRA.

    python bench/full/make.py FOLDER [--width 320]

About 3.4 GB, outside the tree. Every parameter is random, zero convolutions and norms too, and scaled so that no
signal fades or grows (test/parity/fixture.py). `--width` below 320 makes the same structure smaller.
"""

import argparse
import sys
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, DDIMScheduler, MotionAdapter, UNet2DConditionModel

sys.path.append(str(Path(__file__).parents[2] / "test" / "parity"))
from fixture import randomise  # noqa: E402
from loras import SPATIAL, add, save_diffusers, values  # noqa: E402

LOOK = {"unet": {"r": 16, "lora_alpha": 16, "target_modules": SPATIAL + r"attn[12]\.to_(q|k|v|out\.0)"}}


def made(kind: type, folder: Path, **config) -> torch.nn.Module:
    """A model whose parameters are drawn in 16 bits, none of them initialised before."""
    with init_empty_weights():
        model = kind(**config)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty(p.shape, dtype=torch.float16), requires_grad=False))
    randomise(model, f"full/{folder.name}").half().save_pretrained(folder)
    print(f"{folder.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M values", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=320)
    args = parser.parse_args()
    widths = tuple(args.width * n for n in (1, 2, 4, 4))
    unet = made(
        UNet2DConditionModel,
        args.folder / "model" / "unet",
        block_out_channels=widths,
        cross_attention_dim=768,
        sample_size=64,
    )
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(args.folder / "model" / "scheduler")
    add(unet, "look", LOOK["unet"])
    tensors = {key: value.half() for key, value in values({"unet": unet}, "look", LOOK).items()}
    save_diffusers(args.folder / "look.safetensors", tensors, LOOK)
    del unet, tensors
    made(ControlNetModel, args.folder / "edit", block_out_channels=widths, cross_attention_dim=768)
    # As guoyww/animatediff-motion-adapter-v1-5-2 has it.
    made(
        MotionAdapter,
        args.folder / "video",
        block_out_channels=widths,
        motion_max_seq_length=32,
        use_motion_mid_block=True,
    )


main()
