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
from diffusers import ControlNetModel, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint

sys.path.append(str(Path(__file__).parent.parent / "test" / "parity"))
from stacks import Stack  # noqa: E402

RANK = 16
TARGETS = r".*attn\d\.to_(q|k|v|out\.0)"
ALIGN = r"(?!.*motion_modules).*\.(attn\d\.to_(q|k|v|out\.0)|resnets\.\d+\.conv\d)"


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
    if case["work"] == "distill":
        x["image"] = torch.rand(case["rows"], 3, 4 * side, 4 * side)
        x["instruction"] = torch.randn(1, case["tokens"], config.cross_attention_dim)
        ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64)).save_pretrained(folder / "edit")
        MotionAdapter(
            block_out_channels=config.block_out_channels,
            motion_layers_per_block=config.layers_per_block,
            motion_norm_num_groups=config.norm_num_groups,
            motion_num_attention_heads=4,
            motion_max_seq_length=case["rows"],
        ).save_pretrained(folder / "video")
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


class Iteration:
    """One iteration of factorized diffusion distillation with score distillation from two teachers."""

    def __init__(self, folder: Path, case: dict, x: dict, layout):
        self.student = Stack(folder, folder / "edit", folder / "video")
        self.edit, self.video = Stack(folder, folder / "edit"), Stack(folder, video=folder / "video")
        self.student.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ALIGN))
        for stack in (self.student, self.edit, self.video):
            for net in (stack.unet, stack.edit):
                if net is not None and layout:
                    net.to(memory_format=layout)
        self.params = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-4, fused=True)
        self.k, self.remat = case["k"], case["remat"] == "step"
        self.text, self.instruction = x["encoder_hidden_states"][:1], x["instruction"]
        self.image = x["image"]
        self.shape = x["sample"].shape
        self.alphas = DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod

    def level(self, t):
        return self.alphas[t].sqrt(), (1 - self.alphas[t]).sqrt()

    def step(self, rows, t):
        clip = rows.transpose(0, 1)[None]
        v = self.student(clip, t[None], self.text, self.image, self.instruction)
        return v[0].transpose(0, 1)

    def pull(self, rows, predict) -> torch.Tensor:
        t = torch.randint(20, 980, ())
        a, s = self.level(t)
        noise = torch.randn_like(rows)
        with torch.no_grad():
            predicted = predict(a * rows + s * noise, t)
        return 2.5 * 0.5 * 2 * a * s * (predicted - (a * noise - s * rows))

    def __call__(self) -> float:
        width = 1000 // self.k
        times = [999] + [int(torch.randint((self.k - 1 - j) * width, (self.k - j) * width, ())) for j in range(1, self.k)]
        x = torch.randn(self.shape)
        for t, then in zip(times, [*times[1:], None]):
            at = torch.tensor(t)
            v = checkpoint(self.step, x, at, use_reentrant=False) if self.remat else self.step(x, at)
            (a, s), (a2, s2) = self.level(t), self.level(then) if then is not None else (1, 0)
            x = a2 * (a * x - s * v) + s2 * (s * x + a * v)
        rows = x.detach().float()
        cotangent = self.pull(
            rows, lambda y, t: self.video(y.transpose(0, 1)[None], t[None], self.text)[0].transpose(0, 1)
        ) + self.pull(
            rows,
            lambda y, t: self.edit(
                y, t[None], self.text.expand(len(y), -1, -1), self.image, self.instruction.expand(len(y), -1, -1)
            ),
        )
        x.backward(cotangent.to(x.dtype))
        torch.nn.utils.clip_grad_norm_(self.params, 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(rows.std())


def load(case: dict, folder: Path, variant: str):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    x = load_file(folder / "io.safetensors")
    x.pop("out")
    if variant == "channels_last":
        unet = unet.to(memory_format=torch.channels_last)
        x["sample"] = x["sample"].to(memory_format=torch.channels_last)
    if case["work"] == "distill":
        run = Iteration(folder, case, x, torch.channels_last if variant == "channels_last" else None)
    elif case["work"] == "forward":
        run = Forward(unet, x)
    else:
        run = Step(unet, x, DDIMScheduler.from_pretrained(folder / "scheduler"), case["work"] == "lora")

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
