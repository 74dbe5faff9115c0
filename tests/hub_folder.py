"""For tests: a model folder in the key layout of llava-hf's repositories, with a Llama-style
tokenizer (SentencePiece's rules: a word carries its leading space).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tiny
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

# Names of llava-hf/llava-1.5-7b-hf, by those that transformers 5 uses in memory.
OLD_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
CORPUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: What does this person do "
    "for work? A. chef B. pilot C. nurse D. baker Answer with the option's letter from the given "
    "choices directly. ASSISTANT: A B C D"
)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer with Llama's metaspace: "▁A" is one token behind "ASSISTANT:"."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words = f"{CORPUS} {' '.join(tiny.JOBS + tiny.PETS)}".split()
    training = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    training.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    training.train_from_iterator(
        words * 3, trainers.BpeTrainer(vocab_size=640, special_tokens=special, show_progress=False)
    )
    learned = json.loads(training.to_str())["model"]
    backend.model = models.BPE(
        vocab=learned["vocab"],
        merges=[tuple(m) for m in learned["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", learned["vocab"]["<s>"])]
    )
    backend.add_special_tokens([AddedToken("<image>", normalized=False), AddedToken("<pad>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def write_hub_folder(folder: Path, n_additional: int = 1) -> Path:
    """A random tiny LLaVA as llava-hf stores it: old key names, two shards, processor files."""
    tokenizer = llama_tokenizer()
    network = tiny.tiny_network(image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    assert len(tokenizer) <= network.config.text_config.vocab_size
    plain = folder / "plain"
    network.save_pretrained(plain)
    state = load_file(plain / "model.safetensors")
    renamed = {}
    for key, value in network.state_dict().items():
        for new, old in OLD_NAMES:
            if key.startswith(new):
                renamed[old + key.removeprefix(new)] = value.clone().contiguous()
                break
        else:
            raise AssertionError(f"no old name for {key}; saved are {sorted(state)[:3]}")
    names = sorted(renamed)
    shards = {f"model-{n:05d}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for shard, keys in shards.items():
        save_file({k: renamed[k] for k in keys}, folder / shard, metadata={"format": "pt"})
    index = {
        "metadata": {},
        "weight_map": {k: shard for shard, keys in shards.items() for k in keys},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(plain / "config.json", folder / "config.json")
    shutil.rmtree(plain)
    vision = network.config.vision_config
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": vision.image_size},
            crop_size={"height": vision.image_size, "width": vision.image_size},
        ),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=n_additional,
    ).save_pretrained(folder)
    return folder
