"""Losses as pure functions of tensors. Minimising what they return is what a method does.

labels (B, T) int64 are already shifted: logits[:, t] predicts labels[:, t]; -100 is no answer
token. Log-softmax in float32 or wider (float64 stays float64). Token means pool all answer tokens
of the batch; `n_tokens` replaces the denominator, so that the sum over micro-batches equals the
large batch exactly. Sequence losses are means over the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

IGNORE = -100


def token_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label, nats, 0 where it is -100. logits (B, T, V), labels (B, T) ->
    (B, T), <= 0.
    """
    counted = (
        labels != IGNORE
    )  # chosen before the softmax: padded positions take no part, whatever they hold
    picked = _log_softmax(logits[counted]).gather(-1, labels[counted][:, None])[:, 0]
    return picked.new_zeros(labels.shape).masked_scatter(counted, picked)


def sequence_logprob(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over answer tokens of log p, per sequence. logits (B, T, V), labels (B, T) -> (B,) nats,
    <= 0.
    """
    return token_logprobs(logits, labels).sum(-1)


def nll(logits: torch.Tensor, labels: torch.Tensor, n_tokens: int | None = None) -> torch.Tensor:
    """Mean of -log p over answer tokens, nats a token, >= 0. Raises ValueError if there is no
    answer token and no n_tokens.
    """
    return -token_logprobs(logits, labels).sum() / _count(labels, n_tokens)


def gradient_ascent(
    logits: torch.Tensor, labels: torch.Tensor, n_tokens: int | None = None
) -> torch.Tensor:
    """Mean of log p over answer tokens (= minus `nll`: minimising it raises the NLL), nats a token,
    <= 0, unbounded below.

    [Jang et al. 2023, arXiv 2210.01504; GA in PULSE]
    """
    return -nll(logits, labels, n_tokens)


def kl_to_reference(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    labels: torch.Tensor,
    n_tokens: int | None = None,
) -> torch.Tensor:
    """Mean over answer tokens of KL(reference || model) over the vocabulary, nats a token, >= 0; 0
    where they agree.

    No gradient goes to the reference. [KLR in PULSE; Yao et al. 2023, arXiv 2310.10683]
    """
    counted = labels != IGNORE
    model = _log_softmax(logits[counted])
    reference = _log_softmax(reference_logits[counted].detach().to(model.dtype))
    p = reference.exp()
    terms = torch.where(p > 0, p * (reference - model), p.new_zeros(()))  # 0 log 0 = 0
    return terms.sum() / _count(labels, n_tokens)


def npo(logprob: torch.Tensor, reference_logprob: torch.Tensor, beta: float) -> torch.Tensor:
    """Mean over sequences of -(2/beta) log sigmoid(-beta (s - s_ref)); (B,), (B,) nats -> scalar >=
    0.

    2 log 2 / beta at the reference; for beta -> 0 its gradient becomes that of the mean of s.
    [Zhang et al. 2024, arXiv 2404.05868, Eq. 3]
    """
    ratio = logprob - reference_logprob.detach().to(logprob.dtype)
    return -(2 / beta) * F.logsigmoid(-beta * ratio).mean()


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def _count(labels: torch.Tensor, n_tokens: int | None) -> int:
    count = int((labels != IGNORE).sum()) if n_tokens is None else n_tokens
    if count == 0:
        raise ValueError("no answer token in the batch: all labels are -100")
    return count
