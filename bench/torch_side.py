"""PyTorch's side of the benchmarks: one JSON request a line in, one JSON answer a line out.

{"do": "make", "case": …, "folder": …}                     writes a model with random weights and what it gives
{"do": "load", "case": …, "folder": …, "variant": …}       variant: nchw, channels_last, bf16
{"do": "round", "times": n}                                 runs n times; answers {"seconds": for one}
"""

import json
import sys
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

RANK = 16
TARGETS = r".*attn\d\.to_(q|k|v|out\.0)"


def make(case: dict, folder: Path) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**case["unet"]).eval()
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(prediction_type="v_prediction", clip_sample=False).save_pretrained(folder / "scheduler")
    config = unet.config
    side = case["latent"]
    x = {
        "sample": torch.randn(case["rows"], config.in_channels, side, side),
        "timestep": torch.linspace(50, 950, case["rows"]).round(),
        "encoder_hidden_states": torch.randn(case["rows"], case["tokens"], config.cross_attention_dim),
    }
    with torch.inference_mode():
        out = unet(**x).sample
    save_file(x | {"out": out}, folder / "io.safetensors")


class Forward:
    def __init__(self, unet, x):
        self.unet, self.x = unet, x

    def __call__(self) -> float:
        with torch.inference_mode():
            return float(self.unet(**self.x).sample[0, 0, 0, 0])


class Step:
    """One optimiser step on v-prediction: noise, forward, backward, clip, AdamW."""

    def __init__(self, unet, x, scheduler, lora: bool):
        self.unet, self.x, self.scheduler = unet, x, scheduler
        if lora:
            from peft import LoraConfig

            unet.requires_grad_(False)
            unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
        unet.train()
        self.params = [p for p in unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-4, fused=True)

    def __call__(self) -> float:
        clean, text = self.x["sample"], self.x["encoder_hidden_states"]
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (clean.shape[0],))
        noised = self.scheduler.add_noise(clean, noise, t)
        target = self.scheduler.get_velocity(clean, noise, t)
        loss = torch.nn.functional.mse_loss(self.unet(noised, t, text).sample.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def load(case: dict, folder: Path, variant: str):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    x = load_file(folder / "io.safetensors")
    x.pop("out")
    if variant == "channels_last":
        unet = unet.to(memory_format=torch.channels_last)
        x["sample"] = x["sample"].to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    run = Forward(unet, x) if case["work"] == "forward" else Step(unet, x, scheduler, case["work"] == "lora")

    def cast() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run()

    return cast if variant == "bf16" else run


def main() -> None:
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        match request["do"]:
            case "make":
                make(request["case"], Path(request["folder"]))
            case "load":
                torch.set_num_threads(request["threads"])
                run = load(request["case"], Path(request["folder"]), request["variant"])
                answer["value"] = run()
            case "round":
                began = time.perf_counter()
                for _ in range(request["times"]):
                    answer["value"] = run()
                answer["seconds"] = (time.perf_counter() - began) / request["times"]
        print(json.dumps(answer), flush=True)


main()
