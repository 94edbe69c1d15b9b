"""Trains the miniature on its own speech: teacher forcing in both directions, and CTC on English letters beside it.

The CTC head (Graves et al. 2006) only speeds up learning the alignment and is thrown away.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from miniature.phrases import Sentence
from models.inputs import PROMPTS, audio_tokens

LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789"
CTC_WEIGHT = 0.3
IGNORED = -100


@dataclass(frozen=True)
class Spoken:
    """One utterance ready for training: `features` (mel bins, frames used) in float16."""

    features: NDArray[np.float16]
    sentence: Sentence


def featurize(processor: Qwen2AudioProcessor, samples: NDArray[np.int16]) -> NDArray[np.float16]:
    """Mel features cut to the frames that hold speech."""
    out = processor.feature_extractor(
        samples.astype(np.float32) / 32768, sampling_rate=16_000, return_attention_mask=True, return_tensors="np"
    )
    return np.asarray(out["input_features"][0, :, : int(out["attention_mask"].sum())], dtype=np.float16)


class Trainer(nn.Module):
    """The model and the throw-away CTC head; `forward` returns the two losses of a batch."""

    def __init__(self, model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> None:
        super().__init__()
        self.model = model
        self.ctc_head = nn.Linear(model.config.audio_config.d_model, len(LETTERS) + 1)
        tokenizer = processor.tokenizer
        self._encode = lambda text: tokenizer(text).input_ids
        self._audio = model.config.audio_token_index
        self._begin = tokenizer.convert_tokens_to_ids("<|audio_bos|>")
        self._finish = tokenizer.convert_tokens_to_ids("<|audio_eos|>")
        self._end = tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def encode_audio(self, batch: list[Spoken]) -> tuple[Tensor, Tensor, list[int]]:
        """Encoder states before pooling, projected audio embeddings, and frames; padded to the longest, not to 4 s."""
        tower = self.model.model.audio_tower
        frames = [item.features.shape[1] for item in batch]
        longest = (max(frames) + 3) // 4 * 4
        features = torch.full((len(batch), batch[0].features.shape[0], longest), -1.0)
        for row, item in enumerate(batch):
            features[row, :, : frames[row]] = torch.from_numpy(item.features.astype(np.float32))
        states = nn.functional.gelu(tower.conv2(nn.functional.gelu(tower.conv1(features)))).permute(0, 2, 1)
        states = states + tower.embed_positions.weight[: states.shape[1]]
        lengths = torch.tensor([(frame - 1) // 2 + 1 for frame in frames])
        keep = (torch.arange(states.shape[1])[None] < lengths[:, None])[:, None, None, :]
        for layer in tower.layers:
            states = layer(states, keep.expand(-1, -1, states.shape[1], -1))
        pooled = tower.layer_norm(tower.avg_pooler(states.permute(0, 2, 1)).permute(0, 2, 1))
        return states, self.model.model.multi_modal_projector(pooled), frames

    def forward(self, batch: list[Spoken]) -> tuple[Tensor, Tensor]:
        states, audio, frames = self.encode_audio(batch)
        return self._translation_loss(batch, audio, frames), self._ctc_loss(batch, states, frames)

    def _translation_loss(self, batch: list[Spoken], audio: Tensor, frames: list[int]) -> Tensor:
        rows, labels, pieces = [], [], []
        for index, item in enumerate(batch):
            count = audio_tokens(frames[index])
            for language, prompt in PROMPTS.items():
                head = [self._begin] + [self._audio] * count + [self._finish] + self._encode(prompt)
                target = [*self._encode(getattr(item.sentence, language)), self._end]
                rows.append(head + target)
                labels.append([IGNORED] * len(head) + target)
                pieces.append(audio[index, :count])
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self._end] * (longest - len(row)) for row in rows])
        wanted = torch.tensor([row + [IGNORED] * (longest - len(row)) for row in labels])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        embeds = self.model.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter((ids == self._audio)[..., None], torch.cat(pieces).to(embeds.dtype))
        hidden = self.model.model.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)[0]
        predicts = wanted[:, 1:] != IGNORED
        logits = self.model.lm_head(hidden[:, :-1][predicts]).float()
        return nn.functional.cross_entropy(logits, wanted[:, 1:][predicts])

    def _ctc_loss(self, batch: list[Spoken], states: Tensor, frames: list[int]) -> Tensor:
        texts = [[LETTERS.index(c) + 1 for c in item.sentence.en.lower() if c in LETTERS] for item in batch]
        log_probs = self.ctc_head(states).float().log_softmax(-1).transpose(0, 1)
        return nn.functional.ctc_loss(
            log_probs,
            torch.tensor([c for text in texts for c in text]),
            torch.tensor([(frame - 1) // 2 + 1 for frame in frames]),
            torch.tensor([len(text) for text in texts]),
            zero_infinity=True,
        )


def train(
    trainer: Trainer,
    data: list[Spoken],
    held_out: list[Spoken],
    *,
    steps: int,
    batch_size: int,
    peak_rate: float,
    seed: int,
    state_path: Path,
    stop_after: int | None = None,
) -> None:
    """AdamW with warm-up and cosine decay; goes on from `state_path` where an earlier run was stopped."""
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01)
    first = _restore(trainer, optimizer, state_path)
    last = min(steps, stop_after or steps)
    started = time.monotonic()
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * min((step + 1) / 200, 0.5 * (1 + math.cos(math.pi * step / steps)))
        batch = _batch(data, step, batch_size, seed)
        trainer.train()
        translation, ctc = trainer(batch)
        optimizer.zero_grad(set_to_none=True)
        (translation + CTC_WEIGHT * ctc).backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            pace = (time.monotonic() - started) / (step - first + 1)
            print(f"step {step} loss {translation:.3f} ctc {ctc:.3f} {pace:.2f} s/step", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == last:
            print(f"step {step + 1} held-out loss {_held_out_loss(trainer, held_out):.4f}", flush=True)
            _save(trainer, optimizer, step + 1, state_path)


def _batch(data: list[Spoken], step: int, size: int, seed: int) -> list[Spoken]:
    """Batch `step` of an endless shuffle; neighbours in length go together, so little is padded."""
    per_epoch = len(data) // size
    rng = random.Random(f"{seed}/{step // per_epoch}")
    order = list(range(len(data)))
    rng.shuffle(order)
    pool = size * 20
    chunks = [sorted(order[i : i + pool], key=lambda k: data[k].features.shape[1]) for i in range(0, len(order), pool)]
    flat = [k for chunk in chunks for k in chunk]
    batches = [flat[i * size : (i + 1) * size] for i in range(per_epoch)]
    rng.shuffle(batches)
    return [data[k] for k in batches[step % per_epoch]]


@torch.no_grad()
def _held_out_loss(trainer: Trainer, held_out: list[Spoken]) -> float:
    trainer.eval()
    losses = [trainer(held_out[i : i + 48])[0].item() for i in range(0, len(held_out), 48)]
    return sum(losses) / len(losses)


def _save(trainer: Trainer, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    names = {parameter: name for name, parameter in trainer.named_parameters()}
    tensors = {f"weight/{name}": tensor.contiguous() for name, tensor in trainer.state_dict().items()}
    for parameter, state in optimizer.state.items():
        tensors |= {f"moment/{key}/{names[parameter]}": state[key] for key in ("exp_avg", "exp_avg_sq")}
    temporary = path.with_suffix(".tmp")
    save_file({**tensors, "step": torch.tensor(step)}, temporary)
    temporary.replace(path)


def _restore(trainer: Trainer, optimizer: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    tensors = load_file(path)
    step = int(tensors["step"])
    trainer.load_state_dict({k.removeprefix("weight/"): v for k, v in tensors.items() if k.startswith("weight/")})
    for name, parameter in trainer.named_parameters():
        if f"moment/exp_avg/{name}" in tensors:
            moments = {key: tensors[f"moment/{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step
