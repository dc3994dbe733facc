#!/usr/bin/env bash
# A mixture of experts that transformers reads from a GGUF file is saved in another layout than the same model is
# published in, and than transformers itself saves it in when it was made or loaded in any other way.
#
# Versions: transformers 5.23.0, torch 2.13.0, gguf 0.19.0.
# Guess, before looking: read with GgufConfig(dequantize=True), which is what makes it possible to save, save_pretrained writes the published layout (experts one by one, `experts.0.gate_proj.weight`),
#   as its argument save_original_format is True by default, and as it does for a model made from a config.
# Seen: the file holds the fused tensors of memory, `experts.gate_up_proj` and `experts.down_proj`. Loading a GGUF of such an
#   architecture (qwen2moe, which transformers' newer GGUF reader does not cover) leaves the model with an empty list of
#   conversions "that were used", and saving reverts those alone; for a model from a config it looks up the model's own.
# Why it matters: the usual way from a GGUF to safetensors makes a folder that transformers 5 reads and that tools which
#   know the published names (transformers 4, vLLM, mergekit) do not; nothing is said.
# Fails (exit 1) if the behaviour changes. PYTHON_ENV=/path/to/venv skips the installation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "${PYTHON_ENV:-}" ]; then
    PYTHON_ENV=$work/venv
    python3 -m venv "$PYTHON_ENV"
    "$PYTHON_ENV/bin/pip" install -q torch==2.13.0
    "$PYTHON_ENV/bin/pip" install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 gguf==0.19.0
fi
cd "$work"
"$PYTHON_ENV/bin/python" - <<'PYTHON'
import sys

import gguf
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GgufConfig, Qwen2MoeConfig, Qwen2MoeForCausalLM

config = Qwen2MoeConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, num_experts=2, num_experts_per_tok=1, max_position_embeddings=64,
)  # the widths of the experts are the defaults, which is what a GGUF of this architecture is read with
torch.manual_seed(0)
model = Qwen2MoeForCausalLM(config)


def experts(folder):
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        return sorted(name for name in file.keys() if ".experts." in name)


model.save_pretrained("made")

writer = gguf.GGUFWriter("model.gguf", "qwen2moe")
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_block_count(1)
writer.add_feed_forward_length(48)
writer.add_expert_count(2)
writer.add_expert_used_count(1)
writer.add_head_count(4)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(config.rms_norm_eps)
writer.add_rope_freq_base(10000.0)
writer.add_vocab_size(64)
writer.add_tokenizer_model("gpt2")
writer.add_token_list([f"t{i}" for i in range(64)])
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2MOE, 1)
for name, tensor in model.state_dict().items():
    parts = {name.removesuffix(".weight"): tensor}
    if name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, dim=1)
        parts = {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
    for part, values in parts.items():
        kind = ".bias" if part.endswith(".bias") else ".weight"
        writer.add_tensor(names.get_name(part.removesuffix(".bias")) + kind, values.squeeze().contiguous().numpy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

read = AutoModelForCausalLM.from_pretrained(
    ".", gguf_file="model.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
)
same = all(torch.equal(values, read.state_dict()[name]) for name, values in model.state_dict().items())
read.save_pretrained("read")
print("the weights that were read are those that were written:", same)
print("made from a config, and saved:", experts("made"))
print("read from GGUF, and saved:    ", experts("read"))
fused = ["model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.experts.gate_up_proj"]
sys.exit(0 if same and experts("read") == fused and "model.layers.0.mlp.experts.0.gate_proj.weight" in experts("made") else 1)
PYTHON
# Output seen:
#   the weights that were read are those that were written: True
#   made from a config, and saved: [... 'model.layers.0.mlp.experts.0.gate_proj.weight' ...] (six names)
#   read from GGUF, and saved:     ['model.layers.0.mlp.experts.down_proj', 'model.layers.0.mlp.experts.gate_up_proj']
