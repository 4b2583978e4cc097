"""CLIPTextModel: both activations, both ways to find the end of text, with and without the `text_model.` wrapper."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from fixture import every_parameter, fresh, randomise, record, rng, write_safetensors

VOCAB, LENGTH, BOS, EOS = 96, 12, 93, 94


def config(**rest) -> CLIPTextConfig:
    base = {"vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3}
    base |= {"num_attention_heads": 4, "max_position_embeddings": LENGTH, "bos_token_id": BOS}
    return CLIPTextConfig(**(base | rest))


CONFIGS = {
    # eos 2 is the old, wrong value: the pooled row is the one with the largest id
    "quick": lambda: config(hidden_act="quick_gelu", eos_token_id=2, vocab_size=EOS + 1, pad_token_id=EOS),
    # a real eos: the pooled row is the first that holds it, though added tokens (id 95) are larger
    "exact": lambda: config(hidden_act="gelu", eos_token_id=EOS, pad_token_id=0, num_attention_heads=3),
}


def load(folder: Path) -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(folder, dtype=torch.float32).eval()


def prompts(name: str) -> torch.Tensor:
    """Rows of different length; the last one is cut off at the end, as a long prompt is."""
    ids = torch.randint(1, 90, (3, LENGTH), generator=rng(name, "ids"))
    ids[:, 0] = BOS
    for row, end in enumerate((4, 7, LENGTH - 1)):
        ids[row, end:] = EOS if name == "quick" else 0
        ids[row, end] = EOS
    if name == "exact":
        ids[1, 3] = VOCAB - 1  # an added token, as textual inversion makes them
    return ids


def call(model, x):
    out = model(x["input_ids"], output_hidden_states=True)
    return {
        "last_hidden_state": out.last_hidden_state,
        "pooler_output": out.pooler_output,
        "penultimate_hidden_state": out.hidden_states[-2],
    }


def trainable(model) -> dict:
    """All parameters but the key biases: softmax cancels them, so their gradient is rounding noise around zero."""
    return {k: v for k, v in every_parameter("text_encoder")(model).items() if not k.endswith("k_proj.bias")}


def wrap(source: Path, target: Path) -> None:
    """The same weights as older transformers wrote them: `text_model.` in front and an integer buffer."""
    shutil.copytree(source, target)
    tensors = {f"text_model.{k}": v for k, v in load_file(source / "model.safetensors").items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    write_safetensors(target / "model.safetensors", tensors, {"format": "pt"})


def make() -> None:
    for name, conf in CONFIGS.items():
        folder = fresh("clip", name)
        randomise(CLIPTextModel(conf()), f"clip/{name}").save_pretrained(folder / "text_encoder")
        assert "embeddings.token_embedding.weight" in load_file(folder / "text_encoder" / "model.safetensors")
        wrap(folder / "text_encoder", folder / "text_encoder_wrapped")
        ids = {"input_ids": prompts(name)}
        plain, wrapped = (load(folder / f)(**ids) for f in ("text_encoder", "text_encoder_wrapped"))
        assert torch.equal(plain.pooler_output, wrapped.pooler_output)
        record(
            folder / "io.safetensors",
            load(folder / "text_encoder"),
            call,
            ids,
            params=trainable,
        )
