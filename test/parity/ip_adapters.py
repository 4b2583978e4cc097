"""IP-Adapters in their own file layout, on the pocket UNet: base, Plus and Full, from features, from pictures, in a stack."""

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import loras
import stacks
from fixture import F64, FIXTURES, error, fresh, normal, randomise, record, uniform, write_safetensors
from compose import ALL, FRAMES, SPECS

TEXT, PROJECTION, HIDDEN, SIDE, PATCH = 24, 10, 12, 8, 4
TOKENS = 1 + (SIDE // PATCH) ** 2
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# diffusers' names of the resampler's parts, and the file's
PLUS = {"ln0": "0.norm1", "ln1": "0.norm2", "attn.to_q": "0.to_q", "attn.to_k": "0.to_k", "attn.to_v": "0.to_v"}
PLUS |= {"attn.to_out.0": "0.to_out", "ff.0": "1.0", "ff.1.net.0.proj": "1.1", "ff.1.net.2": "1.3"}
NAMES = {
    "base": {"image_embeds": "proj"},
    "plus": {f"layers.{i}.{k}.": f"layers.{i}.{v}." for i in range(4) for k, v in PLUS.items()},
    "full": {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "proj.3"},
}


def shapes(kind: str) -> dict:
    """Of `image_proj`; 64 channels a head and 4 layers are diffusers' own for Plus."""
    if kind == "base":
        return {"proj.weight": (4 * TEXT, PROJECTION), "proj.bias": (4 * TEXT,)} | norm("norm", TEXT)
    if kind == "full":
        ff = {"proj.0.weight": (HIDDEN, HIDDEN), "proj.0.bias": (HIDDEN,)}
        return ff | {"proj.2.weight": (TEXT, HIDDEN), "proj.2.bias": (TEXT,)} | norm("proj.3", TEXT)
    width, heads, queries = 8, 2, 3
    whole = {"latents": (1, queries, width), "proj_in.weight": (width, HIDDEN), "proj_in.bias": (width,)}
    whole |= {"proj_out.weight": (TEXT, width), "proj_out.bias": (TEXT,)} | norm("norm_out", TEXT)
    for i in range(4):
        layer = norm("0.norm1", width) | norm("0.norm2", width) | norm("1.0", width)
        layer |= {"0.to_q.weight": (64 * heads, width), "0.to_kv.weight": (128 * heads, width)}
        layer |= {"0.to_out.weight": (width, 64 * heads)}
        layer |= {"1.1.weight": (4 * width, width), "1.3.weight": (width, 4 * width)}
        whole |= {f"layers.{i}.{k}": v for k, v in layer.items()}
    return whole


def norm(name: str, width: int) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def value(kind: str, name: str, shape: tuple) -> torch.Tensor:
    """As `fixture.randomise`: norms around one, biases off zero, matrices of unit gain, keys that attend to something."""
    drawn = normal(shape, "ip-adapter", kind, name)
    if name.endswith("latents"):
        return drawn
    if len(shape) == 1:
        return 0.2 * drawn + (1 if name.endswith("weight") else 0)
    return drawn * (1.5 if ".to_k_ip" in name else 1.0) / shape[1] ** 0.5


def cross_attentions(unet) -> list:
    return [n.removesuffix(".processor") for n in unet.attn_processors if ".attn2." in n and "motion" not in n]


def state(kind: str, unet) -> dict:
    """A checkpoint as `torch.save` has it: {"image_proj": …, "ip_adapter": {"1.to_k_ip.weight": …}}."""
    proj = {k: value(kind, f"image_proj.{k}", s) for k, s in shapes(kind).items()}
    attn = {}
    for i, name in enumerate(cross_attentions(unet)):
        width = unet.get_submodule(name).inner_dim
        for leaf in ("to_k_ip", "to_v_ip"):
            key = f"{2 * i + 1}.{leaf}.weight"
            attn[key] = value(kind, f"ip_adapter.{key}", (width, TEXT))
    return {"image_proj": proj, "ip_adapter": attn}


def flat(state: dict) -> dict:
    return {f"{part}.{k}": v for part, tensors in state.items() for k, v in tensors.items()}


def load(unet, checkpoint: dict, scale: float) -> None:
    unet._load_ip_adapter_weights([checkpoint], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [scale]


def parameters(kind: str, unet) -> dict:
    """All as `ip.<key in the file>`, `to_kv` in its two halves; they ask for gradients from here on."""
    found = {}
    for name, p in unet.encoder_hid_proj.image_projection_layers[0].named_parameters():
        for theirs, own in NAMES[kind].items():
            name = name.replace(theirs, own, 1) if theirs in name else name
        found[f"ip.image_proj.{name}"] = p
    for i, name in enumerate(cross_attentions(unet)):
        processor = unet.get_submodule(name).processor
        for leaf in ("to_k_ip", "to_v_ip"):
            found[f"ip.ip_adapter.{2 * i + 1}.{leaf}.weight"] = getattr(processor, leaf)[0].weight
    return {k: p.requires_grad_() for k, p in found.items()}


def joined(results: dict) -> dict:
    """Gradients of `to_k` and `to_v` of the resampler as the one of `to_kv` that the file has."""
    halves = [k for k in results if "image_proj" in k and ".to_k." in k]
    whole = {k.replace("to_k", "to_kv"): torch.cat([results[k], results[k.replace("to_k", "to_v")]]) for k in halves}
    gone = {k.replace("to_k", leaf) for k in halves for leaf in ("to_k", "to_v")}
    return {k: v for k, v in results.items() if k not in gone} | whole


def pixels(image: torch.Tensor) -> torch.Tensor:
    """As CLIPImageProcessor: shorter side to SIDE (bicubic, smoothed), the middle square, CLIP's mean and deviation."""
    short = min(image.shape[-2:])
    size = [SIDE if n == short else int(SIDE * n / short) for n in image.shape[-2:]]
    small = F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = ((n - SIDE) // 2 for n in size)
    square = small[..., top : top + SIDE, left : left + SIDE]
    mean, std = (torch.tensor(v, dtype=image.dtype)[:, None, None] for v in (MEAN, STD))
    return (square - mean) / std


class Prompted(torch.nn.Module):
    """The pocket UNet with one IP-Adapter, fed features or a picture."""

    def __init__(self, kind: str, scale: float, encoder: CLIPVisionModelWithProjection | None = None):
        super().__init__()
        self.kind = kind
        self.unet = UNet2DConditionModel.from_pretrained(FIXTURES / "unet" / "pocket" / "unet")
        load(self.unet, state(kind, self.unet), scale)
        self.encoder = encoder
        self.eval().requires_grad_(False)
        parameters(kind, self.unet)

    def features(self, x: dict) -> torch.Tensor:
        if self.encoder is None:
            return x["ip.image_embeds"]
        out = self.encoder(pixels(x["ip.image"]), output_hidden_states=True)
        return out.image_embeds if self.kind == "base" else out.hidden_states[-2]

    def call(self, x: dict) -> dict:
        prompt = {"image_embeds": [self.features(x).unsqueeze(1)]}
        args = (x["sample"], x["timestep"], x["encoder_hidden_states"])
        return {"sample": self.unet(*args, added_cond_kwargs=prompt).sample}


def inputs(case: str, **extra) -> dict:
    key = ("ip-adapter", case)
    x = {"sample": normal((2, 4, 8, 12), *key, "sample"), "timestep": torch.tensor([700, 120])}
    return x | {"encoder_hidden_states": normal((2, 5, TEXT), *key, "text")} | extra


def features(kind: str, case: str) -> torch.Tensor:
    return normal((2, PROJECTION) if kind == "base" else (2, TOKENS, HIDDEN), "ip-adapter", case, "features")


def vision() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=PROJECTION,
        hidden_act="gelu",
    )
    model = randomise(CLIPVisionModelWithProjection(config), "ip-adapter/vision")
    with torch.no_grad():
        own = model.vision_model.embeddings.class_embedding
        own.copy_(normal(own.shape, "ip-adapter", "class"))
    return model


class PromptedTwice(Prompted):
    """Two pictures, each through an adapter of its own: diffusers sums what they add."""

    def __init__(self, scales: tuple):
        super().__init__("base", scales[0])
        self.unet._load_ip_adapter_weights([state(k, self.unet) for k in ("base", "plus")], low_cpu_mem_usage=False)
        for processor in self.unet.attn_processors.values():
            if hasattr(processor, "to_k_ip"):
                processor.scale = list(scales)
        self.requires_grad_(False)

    def call(self, x: dict) -> dict:
        prompt = {"image_embeds": [x["ip.image_embeds"].unsqueeze(1), x["face.image_embeds"].unsqueeze(1)]}
        args = (x["sample"], x["timestep"], x["encoder_hidden_states"])
        return {"sample": self.unet(*args, added_cond_kwargs=prompt).sample}


class PromptedStack(stacks.Stack):
    """Edit, video and LoRAs with the base IP-Adapter on top."""

    def __init__(self, folder, scale: float):
        super().__init__(FIXTURES / "unet" / "pocket", folder / "edit", folder / "video")
        for name in ("look", "sway"):
            loras.add(self.unet, name, SPECS[name]["unet"])
        self.unet.set_adapters(["look", "sway"], [1.0, 1.0])
        load(self.unet, state("base", self.unet), scale)
        parameters("base", self.unet)

    def call(self, x: dict) -> dict:
        self.prompt = {"image_embeds": [x["ip.image_embeds"].unsqueeze(1)]}
        return {"sample": super().call(x)}


def stack(folder) -> None:
    """Gradients of the motion LoRA stand in `compose`; here are those of the two adapters on cross-attention."""
    model = PromptedStack(FIXTURES / "compose" / "pocket", 0.6)
    key = ("ip-adapter", "stack")
    x = inputs("stack", sample=normal((2, 4, FRAMES, 8, 12), *key, "clip"))
    x["edit.image"] = uniform((2 * FRAMES, 3, 32, 48), *key, "image")
    x["edit.encoder_hidden_states"] = normal((2, 6, TEXT), *key, "edit text")
    x["ip.image_embeds"] = features("base", "stack")

    def params(m):
        own = {f"look.unet.{k}": p.requires_grad_() for k, p in loras.parameters(m.unet, "look").items()}
        return {k: p for k, p in own.items() if "attn2" in k} | parameters("base", m.unet)

    record(
        folder / "io.stack.safetensors", model, PromptedStack.call, x, params, adapters=ALL | {"ip": 0.6}, kind="base"
    )


@torch.no_grad()
def check_files(folder) -> None:
    """Both files, read by diffusers' own `load_ip_adapter`, give the output of the case."""
    x = {k: v.double() if v.is_floating_point() else v for k, v in inputs("base").items()}
    x["ip.image_embeds"] = features("base", "base").double()
    want = Prompted("base", 0.7).to(F64).call(x)["sample"]
    for file in ("base.safetensors", "base.bin"):
        pipe = StableDiffusionPipeline.from_pretrained(FIXTURES / "unet" / "pocket")
        pipe.load_ip_adapter(folder, subfolder="", weight_name=file, image_encoder_folder=None)
        pipe.set_ip_adapter_scale(0.7)
        prompt = {"image_embeds": [x["ip.image_embeds"].unsqueeze(1)]}
        args = (x["sample"], x["timestep"], x["encoder_hidden_states"])
        assert error(pipe.unet.to(F64)(*args, added_cond_kwargs=prompt).sample, want) < 1e-9, file


def make() -> None:
    folder = fresh("ip-adapter")
    plain = UNet2DConditionModel.from_pretrained(FIXTURES / "unet" / "pocket" / "unet")
    encoder = vision()
    encoder.save_pretrained(folder / "image_encoder")
    for kind, scale in (("base", 0.7), ("plus", 1.0), ("full", 1.0)):
        checkpoint = state(kind, plain)
        write_safetensors(folder / f"{kind}.safetensors", flat(checkpoint))
        if kind == "base":
            torch.save(checkpoint, folder / "base.bin")
        model = Prompted(kind, scale)
        x = inputs(kind) | {"ip.image_embeds": features(kind, kind)}
        params = lambda m: parameters(m.kind, m.unet)  # noqa: E731
        record(
            folder / f"io.{kind}.safetensors",
            model,
            Prompted.call,
            x,
            params,
            tidy=joined,
            adapters={"ip": scale},
            kind=kind,
        )
        if kind == "full":
            continue
        case = f"{kind}_image"
        size = (2, 3, 11, 14) if kind == "base" else (2, 3, 7, 5)
        x = inputs(case) | {"ip.image": uniform(size, "ip-adapter", case, "image")}
        model = Prompted(kind, scale, encoder)
        record(folder / f"io.{case}.safetensors", model, Prompted.call, x, adapters={"ip": scale}, kind=kind)
    x = inputs("two", **{f"{n}.image_embeds": features(k, f"two {k}") for n, k in (("ip", "base"), ("face", "plus"))})
    record(folder / "io.two.safetensors", PromptedTwice((0.7, 0.5)), PromptedTwice.call, x)
    stack(folder)
    check_files(folder)
