"""Whole stacks: UNet + ControlNet with its own text + MotionAdapter + LoRAs, one step and three, with all gradients."""

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel

import loras
import stacks
import tokenizer
from fixture import F64, FIXTURES, error, fresh, normal, record, uniform

SPECS = {"look": loras.LOOK, "sway": loras.SWAY, "words": loras.WORDS}
CLIPS, FRAMES, TOKENS, WIDTH = 2, 3, 5, 24


class Bundle:
    """A fixture folder: the base model, the adapters' files, and stacks made of them."""

    def __init__(self, name: str, size: tuple, factor: int, specs: dict):
        self.name, self.size, self.factor, self.specs = name, size, factor, specs
        self.per_frame = False  # of the motion modules' norms
        self.folder, self.model = fresh("compose", name), FIXTURES / "unet" / name
        self.unet = UNet2DConditionModel.from_pretrained(self.model / "unet")
        self.scheduler = DDIMScheduler.from_pretrained(self.model / "scheduler")

    def stack(self, strengths: dict) -> stacks.Stack:
        edit = self.folder / "edit" if "edit" in strengths else None
        video = self.folder / "video" if "video" in strengths else None
        stack = stacks.Stack(self.model, edit, video, text="words" in strengths)
        if self.per_frame:
            stack.norm_per_frame()
        stack.edit_strength = strengths.get("edit", 1.0)
        stack.video_strength = strengths.get("video", 1.0)
        active = [n for n in strengths if n in self.specs]
        for name in active:
            for part, spec in self.specs[name].items():
                loras.add(getattr(stack, part), name, spec)
        if active:
            stack.unet.set_adapters(active, [strengths[n] for n in active])
        return stack

    def parameters(self, strengths: dict):
        """Every LoRA tensor as `<adapter>.<its key in a diffusers file>`, for `record(params=…)`."""
        wanted = [(n, part) for n in strengths if n in self.specs for part in self.specs[n]]
        return lambda stack: {
            f"{n}.{part}.{k}": p.requires_grad_()
            for n, part in wanted
            for k, p in loras.parameters(getattr(stack, part), n).items()
        }

    def inputs(self, case: str, strengths: dict, rows: int = CLIPS, shared_image=False, **extra) -> dict:
        """Random values for what the adapters in `strengths` ask for; the image holds F rows where it is shared."""
        key = (self.name, case)
        height, width = self.size
        moving = "video" in strengths
        shape = (rows, 4, FRAMES, height, width) if moving else (rows, 4, height, width)
        image_rows = FRAMES if shared_image else rows * (FRAMES if moving else 1)
        x = {"sample": normal(shape, *key, "sample"), "timestep": torch.tensor([700, 120])[:rows]}
        x["encoder_hidden_states"] = normal((rows, TOKENS, WIDTH), *key, "text")
        if "edit" in strengths:
            x["edit.image"] = uniform((image_rows, 3, height * self.factor, width * self.factor), *key, "image")
            x["edit.encoder_hidden_states"] = normal((rows, TOKENS + 1, WIDTH), *key, "edit text")
        return x | extra

    def record(self, case: str, strengths: dict, call, inputs: dict, **wanted) -> dict:
        path = self.folder / f"io.{case}.safetensors"
        wanted = {"params": self.parameters(strengths)} | wanted
        return record(path, self.stack(strengths), call, inputs, **wanted, adapters=strengths)

    def step(self, case: str, strengths: dict, wanted=None, **options) -> dict:
        inputs = self.inputs(case, strengths, **options)
        return self.record(case, strengths, lambda stack, x: {"sample": stack.call(x)}, inputs, **(wanted or {}))

    def steps(self, case: str, strengths: dict, input_ids=None, wanted=None, **options) -> dict:
        """Three DDIM steps; with `input_ids` the text is encoded by the stack's own encoder."""
        inputs = self.inputs(case, strengths, shared_image=True, **options)
        inputs |= {"latents": inputs.pop("sample"), "timesteps": torch.tensor([999, 612, 215])}
        inputs.pop("timestep")
        if input_ids is not None:
            inputs["input_ids"] = input_ids
            del inputs["encoder_hidden_states"]

        def call(stack, x):
            if input_ids is not None:
                x = x | {"encoder_hidden_states": stack.text_encoder(x["input_ids"]).last_hidden_state}
            return {"latents": stack.rollout(x, self.scheduler)}

        return self.record(case, strengths, call, inputs, **(wanted or {}))

    def save_loras(self, kinds: dict) -> None:
        """`<name>.safetensors` by diffusers; where asked, `<name>.kohya.safetensors` and the folder `<name>.peft`."""
        for name, formats in kinds.items():
            spec = self.specs[name]
            stack = self.stack({"video": 1.0, name: 1.0})
            tensors = loras.values({part: getattr(stack, part) for part in spec}, name, spec)
            loras.save_diffusers(self.folder / f"{name}.safetensors", tensors, spec)
            if "kohya" in formats:
                loras.save_kohya(self.folder / f"{name}.kohya.safetensors", tensors, spec)
            if "peft" in formats:
                plain = self.stack({"video": 1.0} if name == "sway" else {}).unet
                loras.save_peft(self.folder / f"{name}.peft", plain, tensors, spec)


ALL = {"edit": 1.0, "video": 1.0, "look": 1.0, "sway": 1.0}


def pocket() -> None:
    bundle = Bundle("pocket", (8, 12), 4, SPECS)
    stacks.save_edit(bundle.folder / "edit", bundle.unet, (6, 8, 10))
    heads = {"motion_num_attention_heads": (2, 4, 3), "motion_max_seq_length": 8, "use_motion_mid_block": True}
    stacks.save_video(bundle.folder / "video", bundle.unet, learned_positions=False, **heads)
    bundle.save_loras({"look": ["kohya", "peft"], "sway": ["peft"], "words": ["kohya"]})

    bundle.step("control", {"edit": 1.0})
    bundle.step("motion", {"video": 1.0})
    x = bundle.inputs("motion", {"video": 1.0})
    over_clips = bundle.stack({"video": 1.0}).call(x)
    bundle.per_frame = True
    assert error(bundle.stack({"video": 1.0}).call(x), over_clips) > 1e-3
    bundle.step("motion_per_frame", {"video": 1.0}, wanted={"norm": "per_frame"})
    bundle.per_frame = False
    lora = bundle.step("lora", {"look": 0.7})
    bundle.step("stack", ALL)
    bundle.step("strengths", {"edit": 0.8, "video": 0.5, "look": 0.7, "sway": 1.3}, rows=1, wanted={"params": None})
    bundle.steps("rollout", ALL)
    words = tokenizer.build(length=16)
    ids = words(["a golden lion with a top hat", "the cat"], padding="max_length", return_tensors="pt").input_ids
    text = bundle.steps("rollout_text", ALL | {"words": 1.0}, input_ids=ids)
    assert any("text_encoder" in k for k in text)
    check_files(bundle, lora)
    check_motion(bundle)
    check_sensitivity(bundle)


def sd15() -> None:
    """f = 8 hints, a task label, learned positions, no motion in the mid block, LoRAs of rank 2."""
    bundle = Bundle("sd15", (8, 16), 8, {n: loras.small(SPECS[n]) for n in ("look", "sway")})
    stacks.save_edit(bundle.folder / "edit", bundle.unet, (4, 6, 8, 8), tasks=5)
    motion = {"motion_num_attention_heads": 4, "motion_max_seq_length": 6, "use_motion_mid_block": False}
    stacks.save_video(bundle.folder / "video", bundle.unet, learned_positions=True, **motion)
    bundle.save_loras({"look": [], "sway": []})
    bundle.step("stack", ALL, shared_image=True, **{"edit.task": torch.tensor([3, 1])})
    no_hint = {"frozen": ("edit.image",)}  # large at f = 8; `stack` has its gradient
    bundle.steps("rollout", ALL, rows=1, wanted=no_hint, **{"edit.task": torch.tensor([2])})
    check_sensitivity(bundle, shared_image=True, **{"edit.task": torch.tensor([3, 1])})


def check_files(bundle: Bundle, lora: dict) -> None:
    """Each LoRA file, read by its own library into the plain pipeline, gives the output of `lora` (strength 0.7)."""
    x, want = bundle.inputs("lora", {"look": 0.7}), lora["out.sample"]
    args = (x["sample"].double(), x["timestep"], x["encoder_hidden_states"].double())

    def same(what, unet, tolerance=1e-6):
        worst = error(unet.to(F64)(*args).sample, want)
        assert worst < tolerance, f"{what} differs by {worst:.1e}"

    def pipeline():
        return StableDiffusionPipeline.from_pretrained(bundle.model, torch_dtype=torch.float32)

    pipe = pipeline()
    pipe.load_lora_weights(bundle.folder, weight_name="look.safetensors", adapter_name="look")
    pipe.set_adapters(["look"], [0.7])
    same("look.safetensors", pipe.unet)

    plain = pipeline().unet.to(F64)
    loras.merge_kohya(plain, bundle.folder / "look.kohya.safetensors", 0.7)
    same("look.kohya.safetensors", plain)

    wrapped = PeftModel.from_pretrained(pipeline().unet, bundle.folder / "look.peft")
    for module in wrapped.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(0.7)
    same("look.peft", wrapped.base_model.model)
    check_words(bundle, pipeline)
    check_sway(bundle)


@torch.no_grad()
def check_words(bundle: Bundle, pipeline) -> None:
    """The same for `words`, on the text encoder and on the UNet that reads its output."""
    ids, x = torch.arange(16)[None], bundle.inputs("words", {}, rows=1)

    def run(text_encoder, unet):
        return unet(x["sample"], x["timestep"], text_encoder(ids)[0]).sample

    stack = bundle.stack({"words": 1.0})
    want = run(stack.text_encoder, stack.unet)
    pipe = pipeline()
    assert error(run(pipe.text_encoder, pipe.unet), want) > 1e-3, "words does nothing"
    pipe.load_lora_weights(bundle.folder, weight_name="words.safetensors")
    assert error(run(pipe.text_encoder, pipe.unet), want) < 2e-6, "words.safetensors differs"
    pipe, kohya = pipeline(), bundle.folder / "words.kohya.safetensors"
    loras.merge_kohya(pipe.unet, kohya, 1.0)
    loras.merge_kohya(pipe.text_encoder, kohya, 1.0, prefix="lora_te_text_model_")
    assert error(run(pipe.text_encoder, pipe.unet), want) < 2e-6, "words.kohya.safetensors differs"


@torch.no_grad()
def check_sway(bundle: Bundle) -> None:
    """The same for `sway`, on the UNet with its motion modules."""
    x = bundle.inputs("motion", {"video": 1.0})
    want = bundle.stack({"video": 1.0, "sway": 1.0}).call(x)
    moving = bundle.stack({"video": 1.0})
    moving.unet.load_lora_adapter(bundle.folder, prefix="unet", weight_name="sway.safetensors", adapter_name="sway")
    assert error(moving.call(x), want) < 2e-6, "sway.safetensors differs"
    moving = bundle.stack({"video": 1.0})
    moving.unet = PeftModel.from_pretrained(moving.unet, bundle.folder / "sway.peft").base_model.model
    assert error(moving.call(x), want) < 2e-6, "sway.peft differs"


@torch.no_grad()
def check_motion(bundle: Bundle) -> None:
    """Motion at strength 0 is the image UNet frame by frame; control without motion sees the same rows."""
    x = bundle.inputs("check", {"edit": 1.0, "video": 1.0})
    moving = bundle.stack({"edit": 1.0, "video": 0.0}).to(F64)
    still = bundle.stack({"edit": 1.0}).to(F64)
    x = {k: v.double() if v.is_floating_point() else v for k, v in x.items()}
    rows = {k: v.repeat_interleave(FRAMES, 0) for k, v in x.items() if k not in ("sample", "edit.image")}
    rows |= {"sample": x["sample"].transpose(1, 2).flatten(0, 1), "edit.image": x["edit.image"]}
    clip = moving.call(x).transpose(1, 2).flatten(0, 1)
    assert error(clip, still.call(rows)) < 1e-9, "motion at 0 is not the image model"


@torch.no_grad()
def check_sensitivity(bundle: Bundle, **options) -> None:
    """What a test must notice (another text, t, strengths 10 % off) moves the output by 20 x a 5e-5 tolerance."""
    x = bundle.inputs("stack", ALL, **options)
    base = bundle.stack(ALL).call(x)
    changed = {n: bundle.stack(ALL | {n: 0.9}).call(x) for n in ALL}
    changed["heads"] = other_heads(bundle.stack(ALL)).call(x)
    for name, value in x.items():
        other = (value * 0.9).to(value.dtype) if name in ("timestep", "sample", "edit.image") else value.roll(1, 0)
        changed[name] = bundle.stack(ALL).call(x | {name: other})
    for name, out in changed.items():
        moved = error(out, base)
        print(f"  {bundle.name}: {name} moves the output by {moved:.1e}")
        assert moved > 1e-3, f"{bundle.name}: {name} hardly matters ({moved:.1e})"


def other_heads(stack: stacks.Stack) -> stacks.Stack:
    for name, module in stack.unet.named_modules():
        if name.endswith("attn1") and "motion" not in name:
            module.heads = 1
            module.scale = module.inner_dim**-0.5
    return stack


def make() -> None:
    pocket()
    sd15()
