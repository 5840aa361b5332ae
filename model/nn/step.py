"""What every memory is: `init`, `update(state, event)`, and a run over many events. It keeps nothing between two calls.

A new memory is one file: the NamedTuple of its state, its step, and a model (model/nn/ctr.py) that reads candidates from it.
Training, evaluation, export, stream and serving need no other line.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic

from torch import Tensor, nn

from model.nn.state import S, first
from uic.variant import MemoryVariant


class MemoryStep(nn.Module, Generic[S]):
    """One behaviour event applied to a memory.

    `kind` is the NamedTuple of its state. `resets` names what the authors' Taobao script puts back at padded positions.
    """

    kind: Callable[..., S]
    resets: ClassVar[tuple[str, ...]] = ()
    variant: MemoryVariant

    def initial_state(self, batch: int) -> S:
        """The memory of users without events."""
        raise NotImplementedError

    def advance(self, state: S, event: Any) -> tuple[S, Any]:
        """The memory after one event out of `each`, and what happened inside, where a step tells it."""
        raise NotImplementedError

    def forward(self, state: S, event_BX: Tensor) -> S:
        """The memory after one event."""
        (event,) = self.each(event_BX.unsqueeze(1))
        return self.advance(state, event)[0]

    def each(self, events_BTX: Tensor) -> list[Any]:
        """The events one by one, with all that is computed of them ahead of any state."""
        return list(events_BTX.unbind(1))

    def cut(self, event: Any, users: int) -> Any:
        """The same event of the first so many users of a batch."""
        return event[:users]

    def run(self, state: S, events_BTX: Tensor, going: Sequence[int]) -> list[S]:
        """The memories after each position; at position t the first `going[t]` users have an event, never more than before."""
        states = []
        users_before = events_BTX.shape[0]
        for event, users in zip(self.each(events_BTX), going, strict=True):
            if users < state[0].shape[0]:
                state = first(state, users)
            state = self.advance(state, event if users == users_before else self.cut(event, users))[0]
            states.append(state)
        return states
