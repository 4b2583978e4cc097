"""Noise schedules, timestep spacings and samplers of diffusers, as JSON tables."""

from unittest.mock import patch

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
)
from diffusers.schedulers import scheduling_lcm

from fixture import fresh, normal, write_json

SD = {"beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SPACINGS = ("leading", "linspace", "trailing")
SIZE = 6  # values per sample


def numbers(tensor) -> list[float]:
    return [float(f"{v:.9g}") for v in torch.as_tensor(tensor).flatten().tolist()]


def ddim(**config) -> DDIMScheduler:
    return DDIMScheduler(**(SD | {"beta_schedule": "scaled_linear", "clip_sample": False} | config))


def alphas() -> dict:
    """alphas_cumprod over 1000 steps; `<schedule>` and `<schedule>+zero_snr`."""
    return {
        name + ("+zero_snr" if zero else ""): numbers(
            ddim(beta_schedule=name, rescale_betas_zero_snr=zero).alphas_cumprod
        )
        for name in SCHEDULES
        for zero in (False, True)
    }


def timesteps() -> list[dict]:
    rows = []
    for spacing in SPACINGS:
        for offset in (0, 1):
            for steps in (1, 2, 3, 4, 7, 10, 25, 50):
                scheduler = ddim(timestep_spacing=spacing, steps_offset=offset)
                scheduler.set_timesteps(steps)
                row = {"spacing": spacing, "steps_offset": offset, "steps": steps}
                rows.append(row | {"timesteps": scheduler.timesteps.tolist()})
    return rows


def ddim_steps() -> list[dict]:
    """One deterministic step (eta 0) each: sample and prediction in, previous sample and predicted original out."""
    rows = []
    for zero_snr in (False, True):
        for prediction in ("epsilon", "v_prediction", "sample"):
            for to_one in (True, False):
                config = {"prediction_type": prediction, "rescale_betas_zero_snr": zero_snr, "set_alpha_to_one": to_one}
                scheduler = ddim(timestep_spacing="trailing", **config)
                scheduler.set_timesteps(4)
                for t in scheduler.timesteps.tolist():
                    if zero_snr and prediction == "epsilon" and t == 999:
                        continue  # a division by zero
                    key = ("ddim", prediction, zero_snr, t)
                    x, pred = normal((SIZE,), *key, "x"), normal((SIZE,), *key, "pred")
                    out = scheduler.step(pred.double(), t, x.double(), eta=0.0)
                    row = config | {"timestep": t, "previous_timestep": t - 250, "sample": numbers(x)}
                    row |= {"prediction": numbers(pred), "previous_sample": numbers(out.prev_sample)}
                    rows.append(row | {"pred_original_sample": numbers(out.pred_original_sample)})
    return rows


def trace(name: str, scheduler, steps: int, noises=None) -> dict:
    """Every state of a run with the "model" pred = 0.3 * input + shift."""
    scheduler.set_timesteps(steps)
    shift = normal((SIZE,), "trace", "shift", std=0.5)
    x = normal((SIZE,), "trace", "noise") * scheduler.init_noise_sigma
    row = {"sampler": name, "config": dict(public(scheduler)), "steps": steps, "shift": numbers(shift)}
    row |= {"timesteps": numbers(scheduler.timesteps), "init_noise_sigma": float(scheduler.init_noise_sigma)}
    if hasattr(scheduler, "sigmas"):
        row["sigmas"] = numbers(scheduler.sigmas)
    if noises is not None:
        row["noises"] = [numbers(n) for n in noises]
    states = [x]
    for t in scheduler.timesteps:
        pred = 0.3 * scheduler.scale_model_input(x, t) + shift
        x = scheduler.step(pred, t, x).prev_sample
        states.append(x)
    return row | {"states": [numbers(s) for s in states]}


def public(scheduler):
    return ((k, v) for k, v in scheduler.config.items() if not k.startswith("_") and v not in (None, -float("inf")))


def traces() -> list[dict]:
    rows = []
    common = SD | {"beta_schedule": "scaled_linear"}
    zero = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    rows.append(trace("ddim", ddim(steps_offset=1, timestep_spacing="leading"), 5))
    rows.append(trace("ddim", ddim(**zero), 5))
    for spacing in SPACINGS:
        for prediction in ("epsilon", "v_prediction"):
            config = common | {"timestep_spacing": spacing, "prediction_type": prediction, "steps_offset": 1}
            rows.append(trace("euler", EulerDiscreteScheduler(**config), 5))
            rows.append(trace("dpm++2m", DPMSolverMultistepScheduler(**config), 6))
    rows.append(trace("euler", EulerDiscreteScheduler(**common, **zero), 4))
    rows.append(trace("euler", EulerDiscreteScheduler(**common, use_karras_sigmas=True), 5))
    rows.append(trace("dpm++2m", DPMSolverMultistepScheduler(**common, use_karras_sigmas=True), 6))
    for steps in (1, 4):
        noises = [normal((SIZE,), "lcm", i) for i in range(steps)]
        with patch.object(scheduling_lcm, "randn_tensor", side_effect=noises):
            rows.append(trace("lcm", LCMScheduler(**common), steps, noises[: steps - 1]))
    return rows


def heun() -> list[dict]:
    """For the example plugin; every step but the last calls the model twice."""
    rows = []
    for spacing in SPACINGS:
        for prediction in ("epsilon", "v_prediction"):
            config = SD | {"beta_schedule": "scaled_linear", "timestep_spacing": spacing, "steps_offset": 1}
            rows.append(trace("heun", HeunDiscreteScheduler(**config, prediction_type=prediction), 5))
    return rows


def check_rotation() -> None:
    """diffusers' DDIM in v is the rotation that our rollouts use."""
    scheduler = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    x, v = normal((SIZE,), "rotation", "x").double(), normal((SIZE,), "rotation", "v").double()
    for t in scheduler.timesteps.tolist():
        before = scheduler.alphas_cumprod[t].double()
        after = scheduler.alphas_cumprod[t - 250].double() if t >= 250 else torch.ones(()).double()
        turn = before.sqrt().arccos() - after.sqrt().arccos()
        assert torch.allclose(turn.cos() * x - turn.sin() * v, scheduler.step(v, t, x).prev_sample, atol=1e-6)


def make() -> None:
    check_rotation()
    folder = fresh("schedulers")
    write_json(folder / "alphas.json", alphas())
    write_json(folder / "timesteps.json", timesteps())
    write_json(folder / "ddim.json", ddim_steps())
    write_json(folder / "traces.json", traces())
    write_json(folder / "heun.json", heun())
    # its config holds -Infinity, which is not JSON
    DPMSolverMultistepScheduler(**SD, beta_schedule="scaled_linear").save_pretrained(folder / "dpm")
    assert "-Infinity" in (folder / "dpm" / "scheduler_config.json").read_text()
