"""UNet2DConditionModel: the SD-1.5, SD-2, pocket, InstructPix2Pix and inpainting shapes at small widths."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from fixture import every_parameter, fresh, normal, randomise, record
from pipeline import save_pipeline, scheduler

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def up(down_types):
    """The mirrored decoder."""
    return tuple(t.replace("Down", "Up") for t in reversed(down_types))


def config(down, widths, **rest) -> dict:
    base = {"sample_size": 16, "in_channels": 4, "out_channels": 4, "norm_num_groups": 4, "cross_attention_dim": 24}
    return base | {"down_block_types": down, "up_block_types": up(down), "block_out_channels": widths} | rest


CONFIGS = {
    # attention_head_dim is the NUMBER of heads
    "sd15": config(
        (CROSS, CROSS, CROSS, PLAIN), (8, 8, 16, 16), layers_per_block=2, attention_head_dim=4, norm_num_groups=2
    ),
    "sd2": config(
        (CROSS, CROSS, CROSS, PLAIN),
        (8, 8, 16, 16),
        layers_per_block=1,
        attention_head_dim=(2, 4, 4, 8),
        use_linear_projection=True,
        upcast_attention=True,
        cross_attention_dim=20,
    ),
    "pocket": config((PLAIN, CROSS, CROSS), (8, 16, 24), layers_per_block=1, attention_head_dim=4),
    "ip2p": config(
        (CROSS, CROSS, PLAIN),
        (8, 16, 12),
        in_channels=8,
        layers_per_block=(1, 2, 1),
        transformer_layers_per_block=(1, 2, 1),
        attention_head_dim=(2, 4, 3),
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    ),
    "inpaint": config((PLAIN, CROSS), (8, 16), in_channels=9, layers_per_block=(2, 1), attention_head_dim=2),
}
# name: (rows, height, width, timestep, tokens)
INPUTS = {
    "sd15": (2, 16, 24, torch.tensor([981, 7]), 7),
    "sd2": (2, 8, 16, torch.tensor([500]), 5),
    "pocket": (2, 16, 12, torch.tensor([612.5, 3.25]), 7),
    "ip2p": (1, 8, 20, torch.tensor([999]), 6),
    "inpaint": (3, 6, 10, torch.tensor([0, 500, 999]), 1),
}


def build(name: str) -> UNet2DConditionModel:
    return randomise(UNet2DConditionModel(**CONFIGS[name]), f"unet/{name}")


def load(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()


def inputs(name: str) -> dict:
    rows, height, width, timestep, tokens = INPUTS[name]
    conf = CONFIGS[name]
    return {
        "sample": normal((rows, conf["in_channels"], height, width), name, "sample"),
        "timestep": timestep,
        "encoder_hidden_states": normal((rows, tokens, conf["cross_attention_dim"]), name, "text"),
    }


def call(unet, x):
    return {"sample": unet(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample}


def make() -> None:
    for name in CONFIGS:
        folder = fresh("unet", name)
        model = build(name)
        # one of each storage form: sharded, float16, bfloat16
        if name == "ip2p":
            model = model.half()
        if name == "inpaint":
            model = model.bfloat16()
        model.save_pretrained(folder / "unet", **({"max_shard_size": "400KB"} if name == "sd2" else {}))
        record(folder / "io.safetensors", load(folder / "unet"), call, inputs(name))
        if name == "sd15":
            scheduler().save_pretrained(folder / "scheduler")
        if name == "pocket":
            save_pipeline(folder, build(name))
            # training from scratch: every parameter's gradient
            everything = every_parameter("unet")
            record(folder / "io.params.safetensors", load(folder / "unet"), call, inputs(name), params=everything)
