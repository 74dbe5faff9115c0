"""Answering questions: greedy generation and the likelihood of every option, from one reading of
each prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import pandas as pd
import torch
from transformers import DynamicCache

from pulse_lib.data.records import LETTERS, ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.model.forward import embed
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import answer_tokens, encode_questions
from pulse_lib.profile import EvaluateSettings
from pulse_lib.progress import step

_PAD = -1  # no option


@dataclass
class _Read:
    """Prompts that the model has read. P = longest prompt of the batch; shorter ones are padded on
    the right.
    """

    cache: DynamicCache
    lengths: torch.Tensor  # (B,) tokens of each prompt
    _: KW_ONLY
    first: torch.Tensor  # (B, V) float32 logits of the token after the prompt
    width: int  # P


def answer_questions(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    images: ImageStore,
    settings: EvaluateSettings,
    with_loglik: bool = True,
    label: str = "",
) -> pd.DataFrame:
    """One row a question, in their order: question_id, response (text, stripped), option_loglik
    (nats, a float64 an option).

    option_loglik sums the log-probabilities of an option's tokens and the end token; the column is
    None without `with_loglik`. Prompts of like length share a batch. The adapters in force count.
    `label` reports progress.
    """
    model.features.add((q.image for q in questions), images)
    prompts = encode_questions(model, questions)
    order = sorted(
        range(len(questions)), key=lambda i: len(prompts[i])
    )  # stable: the same batches for the same questions
    responses: list[str] = [""] * len(questions)
    logliks: list[list[float] | None] = [None] * len(questions)
    training = model.network.training
    if training:
        model.network.eval()
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        with torch.inference_mode():
            read = _read(
                model,
                [prompts[i] for i in rows],
                questions=[questions[i] for i in rows],
                max_new_tokens=settings.max_new_tokens,
            )
            if with_loglik:
                options = [_option_tokens(model, questions[i]) for i in rows]
                for i, values in zip(
                    rows, _option_logliks(model, read, options=options), strict=True
                ):
                    logliks[i] = values
            for i, tokens in zip(
                rows, _greedy(model, read, max_new_tokens=settings.max_new_tokens), strict=True
            ):
                responses[i] = model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if label:
            step(label, start + len(rows), n=len(order))
    if training:
        model.network.train()
    return pd.DataFrame(
        {
            "question_id": [q.id for q in questions],
            "response": pd.Series(responses, dtype=object),
            "option_loglik": pd.Series(logliks, dtype=object),
        }
    )


def _option_tokens(model: LoadedModel, question: Question) -> list[tuple[int, ...]]:
    letters = model.settings.answer_form == "letter"
    return [
        answer_tokens(model, a if letters else o)
        for a, o in zip(LETTERS, question.options, strict=False)
    ]


def _read(
    model: LoadedModel, prompts: list[list[int]], *, questions: list[Question], max_new_tokens: int
) -> _Read:
    lengths = torch.tensor([len(p) for p in prompts], device=model.device)
    width = int(lengths.max())
    if width + max_new_tokens > model.context:
        longest = questions[int(lengths.argmax())].id
        raise PulseError(
            f"question {longest!r}: {width} prompt tokens and max_new_tokens = {max_new_tokens} do "
            "not fit the model's context "
            f"of {model.context}; shorten it or lower evaluate.max_new_tokens"
        )
    # Padding is on the right, so that the causal mask alone is right for the prompts (and fast);
    # what follows masks it out.
    input_ids = torch.tensor(
        [[*p, *[model.tokenizer.eos_token_id] * (width - len(p))] for p in prompts],
        device=model.device,
    )
    cache = DynamicCache()
    hidden = model.network.model.language_model(
        inputs_embeds=embed(model, input_ids, image_ids=[q.image for q in questions if q.image]),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    last = hidden[torch.arange(len(prompts), device=model.device), lengths - 1]
    return _Read(cache, lengths, first=model.network.lm_head(last).float(), width=width)


def _continue(
    model: LoadedModel,
    read: _Read,
    *,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    among_new: torch.Tensor,
) -> torch.Tensor:
    """Logits (B, Q, V) float32 after `tokens` (B, Q) at `positions`; `among_new` (B, Q, K): which
    of the last K keys each sees.
    """
    in_prompt = torch.arange(read.width, device=model.device) < read.lengths[:, None]  # (B, P)
    allowed = torch.cat([in_prompt[:, None].expand(-1, tokens.shape[1], -1), among_new], dim=-1)
    embeddings = model.network.get_input_embeddings()(tokens)
    mask = torch.zeros(allowed.shape, dtype=embeddings.dtype, device=model.device)
    mask = mask.masked_fill_(~allowed, torch.finfo(embeddings.dtype).min)
    hidden = model.network.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask[:, None],  # (B, 1, Q, P + K), used as it is
        position_ids=positions,
        past_key_values=read.cache,
        use_cache=True,
    ).last_hidden_state
    return model.network.lm_head(hidden).float()


def _option_logliks(
    model: LoadedModel, read: _Read, *, options: list[list[tuple[int, ...]]]
) -> list[list[float]]:
    """Log-likelihood of each row's options. All options of a row are read at once, side by side
    behind the one prompt.

    Option tokens see the prompt and their own option only, so nothing is copied and each option is
    read as if alone.
    """
    nodes = [
        [(j, k, o[k], o[k + 1]) for j, o in enumerate(row) for k in range(len(o) - 1)]
        for row in options
    ]
    first = torch.log_softmax(read.first, dim=-1)
    totals = [[float(first[b, o[0]]) for o in row] for b, row in enumerate(options)]
    n_nodes = max((len(n) for n in nodes), default=0)
    if n_nodes == 0:
        return totals
    filled = [n + [(_PAD, 0, 0, 0)] * (n_nodes - len(n)) for n in nodes]
    option, depth, token, target = torch.tensor(filled, device=model.device).unbind(
        -1
    )  # each (B, Q)
    ordered = torch.ones(n_nodes, n_nodes, dtype=torch.bool, device=model.device).tril()
    own = (option[:, :, None] == option[:, None, :]) & ordered
    logits = _continue(
        model, read, tokens=token, positions=read.lengths[:, None] + depth, among_new=own
    )
    read.cache.crop(-n_nodes)  # generation goes on from the prompt
    picked = (logits.gather(-1, target[..., None])[..., 0] - logits.logsumexp(-1)).double().tolist()
    for b, row in enumerate(nodes):
        for q, (j, *_) in enumerate(row):
            totals[b][j] += picked[b][q]
    return totals


def _greedy(model: LoadedModel, read: _Read, *, max_new_tokens: int) -> list[list[int]]:
    """Most likely tokens one after another, up to the end token (left out) or `max_new_tokens`."""
    end = model.tokenizer.eos_token_id
    token = read.first.argmax(-1)
    chosen, done = [token], token == end
    for n in range(1, max_new_tokens):
        if bool(done.all()):
            break
        among_new = torch.ones(len(token), 1, n, dtype=torch.bool, device=model.device)
        logits = _continue(
            model,
            read,
            tokens=token[:, None],
            positions=(read.lengths + n - 1)[:, None],
            among_new=among_new,
        )
        token = logits[:, -1].argmax(-1).masked_fill(done, end)
        chosen.append(token)
        done = done | (token == end)
    rows = torch.stack(chosen, dim=1)[:, :max_new_tokens].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]
