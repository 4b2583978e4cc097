"""A ControlNet's two other ways of adding: guess mode, and one value for all pixels. Under guidance, too."""

import functools

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

import stacks
from fixture import FIXTURES, error, fresh, normal, record, uniform, write_io

EDIT, MODEL = FIXTURES / "compose" / "pocket" / "edit", FIXTURES / "unet" / "pocket"


def stack(pooled: bool, guess: bool) -> stacks.Stack:
    made = stacks.Stack(MODEL, EDIT)
    if pooled:
        made.edit = ControlNetModel.from_pretrained(EDIT, global_pool_conditions=True).eval().requires_grad_(False)
    if guess:
        made.edit.forward = functools.partial(made.edit.forward, guess_mode=True)
    return made


def inputs(case: str) -> dict:
    return {
        "sample": normal((2, 4, 8, 12), "controls", case, "sample"),
        "timestep": torch.tensor([700, 120]),
        "encoder_hidden_states": normal((2, 5, 24), "controls", case, "text"),
        "edit.image": uniform((2, 3, 32, 48), "controls", case, "image"),
        "edit.encoder_hidden_states": normal((2, 6, 24), "controls", case, "edit text"),
    }


@torch.no_grad()
def exact(case: str, pooled: bool, guess: bool) -> torch.Tensor:
    """The prediction in float64, at strength 0.7."""
    model = stack(pooled, guess).double()
    model.edit_strength = 0.7
    return model.call({k: v.double() if v.is_floating_point() else v for k, v in inputs(case).items()})


# 1000 / steps is whole: where it is not, diffusers' steps do not begin where the one before ended.
PROMPT, NEGATIVE, STEPS, SCALE = "a cat", "the dog", 4, 3.0


@torch.no_grad()
def sampled(case: str, pooled: bool, guess: bool, scale: float = SCALE) -> torch.Tensor:
    """Latents that diffusers' own pipeline ends with, in float64; the control at strength 0.7."""
    control = ControlNetModel.from_pretrained(EDIT, global_pool_conditions=pooled)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(MODEL, controlnet=control, safety_checker=None)
    pipeline.to(torch.float64)
    return pipeline(
        PROMPT,
        image=uniform((1, 3, 32, 32), "controls", case, "picture").double(),
        negative_prompt=NEGATIVE,
        latents=normal((1, 4, 8, 8), "controls", case, "noise").double(),
        num_inference_steps=STEPS,
        guidance_scale=scale,
        guess_mode=guess,
        controlnet_conditioning_scale=0.7,
        output_type="latent",
    ).images


def make_sampled() -> None:
    for case, ways in {"guess": (False, True), "pool": (True, False)}.items():
        out, alone = sampled(case, *ways), sampled(case, *ways, scale=1.0)
        inputs = {
            "in.noise": normal((1, 4, 8, 8), "controls", case, "noise"),
            "in.image": uniform((1, 3, 32, 32), "controls", case, "picture"),
        }
        about = {"prompt": PROMPT, "negative": NEGATIVE, "steps": STEPS, "guidance": SCALE}
        write_io(FIXTURES / "controls" / f"sampled.{case}.safetensors", inputs | {"out.guided": out, "out.alone": alone}, **about)
        assert error(out, sampled(case, False, False)) > 1e-3, f"{case} changes nothing"


def make() -> None:
    folder = fresh("controls")
    for case, ways in {"guess": (False, True), "pool": (True, False)}.items():
        model = stack(*ways)
        model.edit_strength = 0.7
        options = {"global_pool_conditions": ways[0], "guess_mode": ways[1]}
        call = lambda stack, x: {"sample": stack.call(x)}  # noqa: E731
        record(folder / f"io.{case}.safetensors", model, call, inputs(case), adapters={"edit": 0.7}, options=options)
        assert error(exact(case, *ways), exact(case, False, False)) > 1e-3, f"{case} changes nothing"
    assert torch.equal(exact("pool", True, False), exact("pool", True, True)), "pooling does not go first"
    make_sampled()
