"""PEFT's files on the pocket UNet: biases of low-rank matrices, patterns whose order counts, layers saved whole."""

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model

from fixture import FIXTURES, error, fresh, normal, record, write_json

MODEL = FIXTURES / "unet" / "pocket" / "unet"
# In the order in which PEFT saves them. JavaScript puts keys that count before all others, where "0" and "2" would
# take layers from the two expressions; "0" takes all that "to_out.0" fits, and "10" fits none.
PATTERNS = {
    "rank_pattern": {".*attn2.*": 2, ".*ff.*": 1, "0": 3, "10": 7, "2": 5, "to_out.0": 6},
    "alpha_pattern": {".*attn2.*": 5, ".*ff.*": 4, "0": 9, "10": 8, "2": 7, "to_out.0": 6},
}
TARGETS = r".*mid_block.*(attn[12]\.to_q|attn[12]\.to_out\.0|ff\.net\.2|conv1)"


def base() -> UNet2DConditionModel:
    model = UNet2DConditionModel.from_pretrained(MODEL).eval()
    model.name_or_path, model.config._name_or_path = "", ""
    return model


def save(name: str, **settings):
    """By PEFT itself, with random values in all that it trains."""
    folder = FIXTURES / "peft" / name
    wrapped = get_peft_model(base(), LoraConfig(**settings, init_lora_weights=False))
    with torch.no_grad():
        for key, p in wrapped.named_parameters():
            if p.requires_grad:
                p.copy_(normal(p.shape, "peft", name, key) * (0.5 if p.ndim == 1 else 0.5 / p[0].numel() ** 0.5))
    wrapped.peft_config["default"].base_model_name_or_path = None
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def opened(folder) -> PeftModel:
    return PeftModel.from_pretrained(base(), folder, is_trainable=True).eval()


def call(model, x):
    return {"sample": model(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample}


def parameters(model) -> dict:
    """Of the adapter, by their keys in its file."""
    return {f"ordered.{k.replace('.default', '')}": p for k, p in model.named_parameters() if "lora_" in k}


@torch.no_grad()
def output(model, x) -> torch.Tensor:
    return call(model, x)["sample"]


def make() -> None:
    fresh("peft")
    ordered = save("ordered", r=4, lora_alpha=3, lora_bias=True, target_modules=TARGETS, **PATTERNS)
    inputs = {
        "sample": normal((2, 4, 8, 12), "peft", "sample"),
        "timestep": torch.tensor([700, 120]),
        "encoder_hidden_states": normal((2, 5, 24), "peft", "text"),
    }
    record(FIXTURES / "peft" / "io.ordered.safetensors", opened(ordered), call, inputs, params=parameters)
    truth = output(opened(ordered), inputs)
    unbiased = opened(ordered)
    with torch.no_grad():
        for key, p in unbiased.named_parameters():
            if "lora_B" in key and key.endswith("bias"):
                p.zero_()
    assert error(output(unbiased, inputs), truth) > 1e-3, "the biases change nothing"
    save("whole", r=1, target_modules=r".*mid_block.*attn2\.to_q", modules_to_save=["conv_out", "linear_1"])
