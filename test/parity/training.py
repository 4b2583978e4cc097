"""AdamW, clipping, EMA and learning-rate schedules of PyTorch and diffusers; then five steps of LoRA training."""

import json

import torch
from diffusers import DDIMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

import loras
import unets
from fixture import F64, FIXTURES, fresh, normal, write_json, write_safetensors

STEPS = 5
SHAPES = {"a": (3, 4), "b": (5,)}
ADAMW = {
    "plain": {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "decayed": {"lr": 3e-2, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
    "critic": {"lr": 2e-3, "betas": (0.0, 0.99), "eps": 1e-8, "weight_decay": 0.01},
}
CLIP = {"clipped": 0.7, "untouched": 100.0}
EMA = {
    "constant": {"decay": 0.9, "min_decay": 0.9},
    "ramp": {"decay": 0.5, "update_after_step": 1},
    "warmup": {"decay": 0.9999, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75},
}
# name of `get_scheduler`, warm-up steps, steps in all
RATES = [
    ("constant", 0, 12),
    ("constant_with_warmup", 4, 12),
    ("linear", 3, 12),
    ("cosine", 3, 12),
    ("polynomial", 2, 12),
]


def start(variant: str) -> dict:
    return {k: normal(s, "training", variant, k).double().requires_grad_() for k, s in SHAPES.items()}


def gradient(variant: str, step: int, name: str) -> torch.Tensor:
    return normal(SHAPES[name], "training", variant, step, name, std=10.0 ** (step - 2)).float()


def adamw() -> dict:
    """`adamw.<variant>.init.<p>`, then per step `grad<k>.<p>` and `step<k>.<p>`; the moments at the end."""
    out = {}
    for variant, options in ADAMW.items():
        params = start(variant)
        out |= {f"adamw.{variant}.init.{k}": p.detach().clone() for k, p in params.items()}
        optimiser = torch.optim.AdamW(params.values(), **options)
        for step in range(STEPS):
            for k, p in params.items():
                p.grad = gradient(variant, step, k).double()
                out[f"adamw.{variant}.grad{step}.{k}"] = p.grad.clone()
            optimiser.step()
            out |= {f"adamw.{variant}.step{step}.{k}": p.detach().clone() for k, p in params.items()}
        for k, p in params.items():
            out[f"adamw.{variant}.exp_avg.{k}"] = optimiser.state[p]["exp_avg"]
            out[f"adamw.{variant}.exp_avg_sq.{k}"] = optimiser.state[p]["exp_avg_sq"]
    return out


def clip() -> dict:
    """`clip.<variant>.in.<p>` to `.out.<p>` by one norm over all tensors, which is `.norm`."""
    out = {}
    for variant, limit in CLIP.items():
        params = start(variant)
        for k, p in params.items():
            p.grad = gradient(variant, 2, k).double()
            out[f"clip.{variant}.in.{k}"] = p.grad.clone()
        out[f"clip.{variant}.norm"] = torch.nn.utils.clip_grad_norm_(params.values(), limit)
        out |= {f"clip.{variant}.out.{k}": p.grad for k, p in params.items()}
    return out


def ema() -> dict:
    """`ema.<variant>.params<k>` is averaged into `.shadow<k>` with `.decays[k]`; the shadow starts as `.init`."""
    out = {}
    for variant, options in EMA.items():
        p = torch.nn.Parameter(normal((4,), "ema", variant).double())
        average, decays = EMAModel([p], **options), []
        out[f"ema.{variant}.init"] = p.detach().clone()
        for step in range(STEPS):
            p.data = normal((4,), "ema", variant, step).double()
            average.step([p])
            decays.append(average.cur_decay_value)
            out[f"ema.{variant}.params{step}"] = p.detach().clone()
            out[f"ema.{variant}.shadow{step}"] = average.shadow_params[0].clone()
        out[f"ema.{variant}.decays"] = torch.tensor(decays, dtype=F64)
    return out


def rates() -> list[dict]:
    """The factor on the learning rate at each step."""
    rows = []
    for name, warmup, total in RATES:
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = get_scheduler(name, optimiser, num_warmup_steps=warmup, num_training_steps=total)
        factors = []
        for _ in range(total + 1):
            factors.append(schedule.get_last_lr()[0])
            optimiser.step()
            schedule.step()
        rows.append({"schedule": name, "warmup": warmup, "steps": total, "factors": factors})
    return rows


OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.01}
KEPT = (
    "down_blocks.0.resnets.0.conv1",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
    "up_blocks.2.resnets.1.conv2",
)


def denoising() -> dict:
    """The LoRA `compose/pocket/look` on `unet/pocket`: v-prediction, mean squared error, clipped to norm 0.5, AdamW."""
    unet = unets.load(FIXTURES / "unet" / "pocket" / "unet").requires_grad_(False)
    unet.load_lora_adapter(
        FIXTURES / "compose" / "pocket", prefix="unet", weight_name="look.safetensors", adapter_name="look"
    )
    unet.to(F64)
    schedule = DDIMScheduler.from_pretrained(FIXTURES / "unet" / "pocket" / "scheduler")
    schedule.alphas_cumprod = schedule.alphas_cumprod.double()
    params = {k: p.requires_grad_() for k, p in loras.parameters(unet, "look").items()}
    optimiser = torch.optim.AdamW(params.values(), **OPTIONS)
    out, losses, norms = {}, [], []
    for step in range(STEPS):
        x = {k: normal((2, 4, 8, 8), "denoising", step, k) for k in ("latents", "noise")}
        x["encoder_hidden_states"] = normal((2, 5, 24), "denoising", step, "text")
        x["timestep"] = torch.tensor([[999, 3], [500, 120], [250, 760], [40, 640], [880, 310]][step])
        out |= {f"step{step}.in.{k}": v for k, v in x.items()}
        clean, noise, text = (x[k].double() for k in ("latents", "noise", "encoder_hidden_states"))
        noisy = schedule.add_noise(clean, noise, x["timestep"])
        target = schedule.get_velocity(clean, noise, x["timestep"])
        loss = torch.nn.functional.mse_loss(unet(noisy, x["timestep"], text).sample, target)
        optimiser.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 0.5))
        optimiser.step()
        losses.append(loss.detach())
    out |= {"out.losses": torch.stack(losses), "out.gradient_norms": torch.stack(norms)}
    kept = {k: p for k, p in params.items() if k.split(".lora_")[0] in KEPT}
    assert len(kept) == 2 * len(KEPT)
    return out | {f"out.look.unet.{k}": p for k, p in kept.items()}


def save(path, tensors: dict, **options) -> None:
    narrow = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    write_safetensors(path, narrow, {"options": json.dumps(options, sort_keys=True)})


def make() -> None:
    folder = fresh("training")
    save(folder / "optim.safetensors", adamw() | clip() | ema(), adamw=ADAMW, clip=CLIP, ema=EMA)
    save(folder / "denoising.safetensors", denoising(), adamw=OPTIONS, max_norm=0.5)
    write_json(folder / "rates.json", rates())
