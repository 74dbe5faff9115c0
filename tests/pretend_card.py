"""A graphics card that is not there: within `pretend_card` tensors can be said to be on "cuda", and are
reckoned with on the CPU. What would fail on a card, because something was left on the CPU, fails here.

Two modes of torch do it. `Calls` sees what Python asks of torch: it answers where a tensor is, and turns
a move to the card into a copy. `Operations` sees every operation, those of a backward pass too, and
refuses one whose tensors are on both sides, but for the few that a card allows.

It knows nothing of memory, of a card's own kernels and their numbers, nor of other threads and
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import bitsandbytes  # noqa: F401  (looks for a card when it is imported, and would ask for its kernels)
import torch
import torch.utils.checkpoint
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
# Operations that may be given tensors of the CPU beside one of the card: copies, and those with an
# index, if what they put in is where it is put
COPIES = {"copy_", "_to_copy"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
MOVES = (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu)
HOST_ONLY = (torch.Tensor.numpy, torch.Tensor.__array__)
NAMED = (torch.device, torch._C._nn._parse_to)  # calls that only read the name of a place


class Card:
    """Which storages are on the card."""

    def __init__(self) -> None:
        self._there: dict[int, StorageWeakRef] = {}
        self.operations = 0  # that read a tensor of the card

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the card."""
        storage = _storage(tensor)
        kept = self._there.get(storage._cdata) if storage is not None else None
        return kept is not None and not kept.expired()  # expired: that was another at its address

    def put(self, tensor: torch.Tensor, there: bool = True) -> None:
        """From now on it is on the card, or is not."""
        if (storage := _storage(tensor)) is not None:
            self._there.pop(storage._cdata, None)
            if there:
                self._there[storage._cdata] = StorageWeakRef(storage)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # by vmap
        tensor = torch._C._functorch.get_unwrapped(tensor)
    with torch._C.DisableTorchFunction():
        has_none = tensor.layout != torch.strided or tensor.is_meta
        return None if has_none else tensor.untyped_storage()


def _leaves(*values: Any) -> Iterator[Any]:
    """What a call is given or gives, lists and tuples taken apart."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(*value)
        else:
            yield value


def _tensors(*values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _leaves(*values) if isinstance(leaf, torch.Tensor)]


def _place(leaf: Any) -> str:
    """The kind of device that an argument names, or ""."""
    kind = leaf.partition(":")[0] if isinstance(leaf, str) else ""
    return leaf.type if isinstance(leaf, torch.device) else kind * (kind in ("cuda", "cpu"))


def _on_the_cpu(func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call gives if the CPU is meant wherever it names the card."""
    there = {name: CPU if _place(value) == "cuda" else value for name, value in kwargs.items()}
    return func(*(CPU if _place(value) == "cuda" else value for value in args), **there)


class Operations(TorchDispatchMode):
    """Every operation: refused where it mixes, and what it makes is where its tensors are."""

    def __init__(self, card: Card):
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name().partition("::")[2].partition(".")[0]
        given = _tensors(*args, *kwargs.values())
        alike = follows = given
        if name in COPIES | INDEXED:
            follows = _tensors(args[0])
            alike = [] if name in COPIES or _in_backward() else _tensors(args[0], *args[2:])
        # A number of the CPU may stand beside tensors of the card
        if len({self.card.has(tensor) for tensor in alike if tensor.ndim}) > 1:
            shapes = ", ".join(
                f"{tuple(t.shape)} on {'cuda' if self.card.has(t) else 'cpu'}" for t in given
            )
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {func.name()} of {shapes}"
            )
        self.card.operations += any(map(self.card.has, given))
        made = func(*args, **kwargs)
        if any(map(self.card.has, follows)):
            known = {storage._cdata for t in given if (storage := _storage(t)) is not None}
            for tensor in _tensors(made):
                storage = _storage(tensor)
                if storage is not None and storage._cdata not in known:
                    self.card.put(tensor)
        return made


def _in_backward() -> bool:
    """Whether torch works out gradients: by an index it puts in zeros then that it has made of a size
    alone, of which nobody can say where they are.
    """
    return torch._C._current_graph_task_id() != -1


class Calls(TorchFunctionMode):
    """Calls from Python: places as they are asked and named."""

    def __init__(self, card: Card):
        super().__init__()
        self.card = card

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") == "__get__":
            return self._property(func, args[0])
        if func in NAMED:
            return func(*args, **kwargs)
        if func in MOVES:
            return self._moved(func, args, kwargs)
        if func in HOST_ONLY and self.card.has(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu()")
        if func is torch.Tensor.backward:  # runs Python: layers' own backward passes
            kwargs["grad_tensors"] = kwargs.pop("gradient", None)
            with self:
                return torch.autograd.backward(*args, **kwargs)
        return self._called(func, args, kwargs)

    def _property(self, func: Callable, tensor: torch.Tensor) -> Any:
        asked = getattr(func.__self__, "__name__", "")
        places = {"device": CARD, "is_cuda": True, "is_cpu": False}
        return places[asked] if asked in places and self.card.has(tensor) else func(tensor)

    def _called(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """What a call makes: on the card if that is named or, without a place's name, if all that it
        is given is there (some make a tensor of a size alone, inside of torch, and copy into it).
        """
        leaves = list(_leaves(*args, *kwargs.values()))
        named = {place for leaf in leaves if (place := _place(leaf))}
        given = [tensor for tensor in _tensors(*leaves) if tensor.ndim]
        on_card = "cuda" in named or bool(not named and given and all(map(self.card.has, given)))
        drawn = kwargs.get("generator")
        if drawn is not None and on_card != getattr(drawn, "on_card", False):
            raise RuntimeError(f"Expected a generator of the same device: {func}")
        made = _on_the_cpu(func, args, kwargs)
        for tensor in _tensors(made) if on_card else ():
            self.card.put(tensor)
        return made

    def _moved(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        tensor, before = args[0], self.card.has(args[0])
        if func is not torch.Tensor.to:
            place = CARD if func is torch.Tensor.cuda else CPU
            func, args, kwargs = torch.Tensor.to, (tensor, place), {}
        leaves = [*args[1:], *kwargs.values()]
        named = [place == "cuda" for leaf in leaves if (place := _place(leaf))]
        named += [self.card.has(other) for other in _tensors(*leaves)]
        target = named[0] if named else before
        moved = _on_the_cpu(func, args, kwargs)
        if target != before and not moved.is_meta:
            same = moved.untyped_storage()._cdata == tensor.untyped_storage()._cdata
            moved = moved.clone() if same else moved
            self.card.put(moved, target)
        return moved


class PlacedGenerator(torch.Generator):
    """A generator that is said to be on the card."""

    on_card: bool

    def __new__(cls, device: Any = "cpu"):
        made = super().__new__(cls, "cpu")
        made.on_card = _place(device) == "cuda"
        return made


@contextmanager
def pretend_card(capability: tuple[int, int] = (8, 0)) -> Generator[Card]:
    """A card of this compute capability, until the end of `with`."""
    card = Card()
    said = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": capability,
        "get_device_name": "a card that is not there",
        "mem_get_info": (2**40, 2**40),
        "max_memory_allocated": 2**30,
        "memory_allocated": 2**20,
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "get_rng_state": torch.zeros(1, dtype=torch.uint8),
        "set_rng_state": None,
    }
    # A checkpointed layer's tensors are compared without their places: some are kept from within torch,
    # where no mode is asked
    checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
    compared = {"default": lambda tensor: (tensor.shape, tensor.dtype)}
    with ExitStack() as stack:
        for name, value in said.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *a, v=value, **k: v))
        stack.enter_context(mock.patch.object(torch, "Generator", PlacedGenerator))
        stack.enter_context(mock.patch.dict(checks, compared))
        # transformers would load in threads, which have no modes
        stack.enter_context(mock.patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"}))
        stack.enter_context(Operations(card))
        stack.enter_context(Calls(card))
        yield card
