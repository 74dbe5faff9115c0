"""Losses as pure functions of tensors. Minimising what they return is what a method does.

labels (B, T) int64 are already shifted: logits[:, t] predicts labels[:, t]; -100 is no answer
token. Log-softmax in float32 or wider (float64 stays float64). Token means pool all answer tokens
of the batch; `n_tokens` replaces the denominator, so that the sum over micro-batches equals the
large batch exactly. Sequence losses are means over the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pulse_lib.model.forward import IGNORE


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


def nll_and_kl(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    labels: torch.Tensor,
    n_tokens: int | None = None,
) -> torch.Tensor:
    """`nll` + `kl_to_reference`, nats a token, >= 0: the retain side of MLLMU-Bench's KL_Min.

    There the KL is summed over all positions and divided by the batch size, some hundred times this
    mean. [Liu et al. 2024, arXiv 2410.22108]
    """
    return nll(logits, labels, n_tokens) + kl_to_reference(
        logits, reference_logits, labels, n_tokens
    )


def nll_and_kl_sum(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    labels: torch.Tensor,
    n_tokens: int | None = None,
    n_sequences: int | None = None,
) -> torch.Tensor:
    """`nll` + KL(reference || model) summed over answer tokens and divided by the number of
    sequences, nats, >= 0: `nll_and_kl` with the KL weighted by the length of an answer.

    What `F.kl_div(..., reduction="batchmean")` gives for logits (B, T, V). There padding and image
    tokens count too, so that the weight is some hundreds. [MLLMU-Bench's baselines/KL_Min.py]
    """
    n_sequences = len(labels) if n_sequences is None else n_sequences
    kl = kl_to_reference(logits, reference_logits, labels, n_sequences)
    return nll(logits, labels, n_tokens) + kl


def npo(logprob: torch.Tensor, reference_logprob: torch.Tensor, beta: float) -> torch.Tensor:
    """Mean over sequences of -(2/beta) log sigmoid(-beta (s - s_ref)); (B,), (B,) nats -> scalar >=
    0.

    2 log 2 / beta at the reference; for beta -> 0 its gradient becomes that of the mean of s.
    [Zhang et al. 2024, arXiv 2404.05868, Eq. 3]
    """
    ratio = logprob - reference_logprob.detach().to(logprob.dtype)
    return -(2 / beta) * F.logsigmoid(-beta * ratio).mean()


def npo_token_mean(
    logprob: torch.Tensor,
    reference_logprob: torch.Tensor,
    labels: torch.Tensor,
    beta: float,
    n_tokens: int | None = None,
    batch_ratio: torch.Tensor | None = None,
) -> torch.Tensor:
    """-(2/beta) log sigmoid(-beta r), r = mean over all answer tokens of the batch of log p - log
    p_ref; (B,), (B,) nats -> scalar >= 0; 2 log 2 / beta at the reference.

    The sigmoid is taken once a batch, of a mean over tokens, not of each sequence's sum: at the same
    beta its argument is smaller by the length of an answer. batch_ratio: r of the whole batch, if
    this is a part of it (n_tokens then counts the whole); the value is the batch's, the gradient
    this part's share. [MLLMU-Bench's baselines/NPO.py, where labels hold the prompt too]
    """
    difference = logprob - reference_logprob.detach().to(logprob.dtype)
    ratio = difference.sum() / _count(labels, n_tokens)
    if batch_ratio is not None:
        ratio = batch_ratio.to(ratio.dtype) + ratio - ratio.detach()
    return -(2 / beta) * F.logsigmoid(-beta * ratio)


def dpo(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Mean over pairs of -log sigmoid(beta ((c - c_ref) - (j - j_ref))); four (B,) of nats -> scalar
    >= 0; log 2 at the reference.

    While unlearning, chosen is a refusal and rejected the true answer. Open-Unlearning multiplies
    this by 2/beta. [Rafailov et al. 2023, arXiv 2305.18290, Eq. 7]
    """
    gain = chosen - reference_chosen.detach().to(chosen.dtype)
    loss = rejected - reference_rejected.detach().to(rejected.dtype)
    return -F.logsigmoid(beta * (gain - loss)).mean()


def simnpo(mean_logprob: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """Mean over sequences of -(2/beta) log sigmoid(-beta m - gamma); m (B,) nats a token -> scalar
    >= 0.

    m is the mean log p of a sequence's answer tokens, so long answers weigh no more than short
    ones; there is no reference. gamma stands beside beta m, as in the paper: the authors' code and
    Open-Unlearning (delta) compute beta (-m - gamma), so ours is beta times theirs.
    [Fan et al. 2024, arXiv 2410.07163, Eq. 4]
    """
    return -(2 / beta) * F.logsigmoid(-beta * mean_logprob - gamma).mean()


def undial(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    labels: torch.Tensor,
    beta: float,
    n_tokens: int | None = None,
) -> torch.Tensor:
    """Mean over answer tokens of the cross-entropy to softmax(reference - beta onehot(label)), nats
    a token, >= 0.

    Its least value is that target's entropy, not 0. No gradient goes to the reference.
    DIFFERS: Open-Unlearning's mean is over all positions, prompt and padding too. [Dong et al. 2024,
    arXiv 2402.10052]
    """
    counted = labels != IGNORE
    model = _log_softmax(logits[counted])
    lowered = _wide(reference_logits[counted].detach()).clone()
    lowered[torch.arange(len(lowered)), labels[counted]] -= beta
    return _cross_entropy(model, lowered) / _count(labels, n_tokens)


def wga(
    logits: torch.Tensor, labels: torch.Tensor, beta: float, n_tokens: int | None = None
) -> torch.Tensor:
    """Mean over answer tokens of stopgrad(p^beta) log p, nats a token, <= 0; beta = 0 is
    gradient_ascent.

    Tokens that are forgotten already weigh little. [Wang et al. 2025, arXiv 2502.19301]
    """
    logp = token_logprobs(logits, labels)
    return ((beta * logp).exp().detach() * logp).sum() / _count(labels, n_tokens)


def satimp(
    logits: torch.Tensor,
    labels: torch.Tensor,
    beta1: float,
    beta2: float,
    n_tokens: int | None = None,
) -> torch.Tensor:
    """Mean over answer tokens of stopgrad(p^beta1 (1 - p)^beta2) log p, nats a token, <= 0; beta2 =
    0 is wga.

    The authors' README recommends beta1 = 5, beta2 = 0.1. [Yang et al. 2025, arXiv 2505.11953]
    """
    logp = token_logprobs(logits, labels)
    weight = (beta1 * logp).exp() * (-torch.expm1(logp)) ** beta2
    return (weight.detach() * logp).sum() / _count(labels, n_tokens)


def ceu(
    logits: torch.Tensor, labels: torch.Tensor, skip: int = 0, n_tokens: int | None = None
) -> torch.Tensor:
    """Mean over answer tokens of the cross-entropy to stopgrad(softmax without the true token),
    nats a token, >= 0.

    The first `skip` answer tokens of each sequence are left out, and do not count in the mean.
    [Yang 2025, arXiv 2503.01224]
    """
    kept = skip_leading(labels, skip)
    counted = kept != IGNORE
    target = _wide(logits[counted].detach()).clone()
    target[torch.arange(len(target)), kept[counted]] = -float("inf")
    return _cross_entropy(_log_softmax(logits[counted]), target) / _count(kept, n_tokens)


def rmu(
    hidden: torch.Tensor,
    control: torch.Tensor,
    mask: torch.Tensor,
    n_tokens: int | None = None,
) -> torch.Tensor:
    """Mean over masked positions of the mean over H of (hidden - control)^2, >= 0; hidden (B, T, H),
    mask (B, T) bool -> scalar.

    control: (H,), the same everywhere (a steering vector), or (B, T, H) (the reference's own hidden
    states, to hold retain). No gradient goes to it. DIFFERS: the authors' mean is over all
    positions, here it is over those of answers. [Li et al. 2024, arXiv 2403.03218]
    """
    where = mask.bool()
    found = _wide(hidden[where])
    wanted = control.detach().to(found.dtype).expand(hidden.shape)[where]
    n = int(where.sum()) if n_tokens is None else n_tokens
    if n == 0:
        raise ValueError("no position in the batch: the mask is false everywhere")
    return ((found - wanted) ** 2).mean(-1).sum() / n


# --- what MUSE's code computes, for comparison only -------------------------------------------


def muse_klr(
    logits: torch.Tensor, reference_logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """MUSE's "KLR", which is no KL: (1/B) sum over answer tokens and vocabulary of exp(z_ref) (z_ref
    - z), z raw logits.

    Unbounded below; adding a constant to all logits changes it; its gradient, -exp(z_ref)/B, is not
    zero where the two agree. There it also counts prompts and padding, which are left out here.
    Sums, not means, over tokens. [jaechan-repo/muse_bench, baselines/baselines/iterative.py]
    """
    counted = labels != IGNORE
    model, reference = _wide(logits[counted]), _wide(reference_logits[counted].detach())
    return (reference.exp() * (reference - model)).sum() / len(labels)


def muse_npo(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    labels: torch.Tensor,
    beta: float,
    n_tokens: int | None = None,
) -> torch.Tensor:
    """MUSE's "NPO", which ignores the labels: mean over answer tokens and the whole vocabulary of
    -(2/beta) log sigmoid(-beta (z - z_ref)), z raw logits.

    At the reference its gradient is the same for every entry of the vocabulary, a direction in
    which no probability changes. There it also counts prompts and padding, which are left out here.
    [jaechan-repo/muse_bench, baselines/baselines/iterative.py]
    """
    counted = labels != IGNORE
    ratio = _wide(logits[counted]) - _wide(reference_logits[counted].detach())
    return -(2 / beta) * F.logsigmoid(-beta * ratio).mean(-1).sum() / _count(labels, n_tokens)


# --- shared -----------------------------------------------------------------------------------


def skip_leading(labels: torch.Tensor, skip: int) -> torch.Tensor:
    """The labels (B, T) with the first `skip` answer tokens of each row set to -100."""
    counted = labels != IGNORE
    return labels.masked_fill(counted & (counted.cumsum(-1) <= skip), IGNORE)


def _cross_entropy(logprobs: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    """Sum over rows of the cross-entropy to softmax(target_logits); both (N, V)."""
    p = torch.softmax(target_logits.to(logprobs.dtype), dim=-1)
    return -torch.where(p > 0, p * logprobs, p.new_zeros(())).sum()  # 0 log 0 = 0


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(_wide(logits), dim=-1)


def _count(labels: torch.Tensor, n_tokens: int | None) -> int:
    count = int((labels != IGNORE).sum()) if n_tokens is None else n_tokens
    if count == 0:
        raise ValueError("no answer token in the batch: all labels are -100")
    return count
