"""The scan in operations of torch, event after event, all users of a batch at once: for any device and any numbers."""

from torch import Tensor

from model.nn.fused.backward import walk_back
from model.nn.fused.forward import step
from model.nn.fused.shapes import Plan, Saved, State, Walked, Weights, stacked

__all__ = ["walk", "walk_back"]


def walk(
    plan: Plan, w: Weights, before: State, controller_TBG: Tensor, channel_TBG: Tensor | None, *, save: bool
) -> Walked[list[Saved]]:
    """All events of all users."""
    norms_M = None if w.keys_MD is None else w.keys_MD.norm(dim=-1)
    controllers = controller_TBG.unbind(0)
    channels = [None] * len(controllers) if channel_TBG is None else channel_TBG.unbind(0)
    state = before
    after, adds, places, saved = [], [], [], []
    for users, controller_BG, channel_BG in zip(plan.going, controllers, channels, strict=True):
        if users < len(state.h_BH):
            state = state.first(users)
        of_channel = None if channel_BG is None else channel_BG[:users]
        state, kept = step(plan, w, state, controller_BG[:users], of_channel, norms_M)
        after.append(state)
        adds.append(kept.tanh[:, 2 * plan.variant.slot_width :])
        if kept.place_B1D is not None:
            places.append(kept.place_B1D[:, 0, 0])
        if save:
            saved.append(kept)
    return Walked(after, stacked(adds, controller_TBG.shape[1]), places, saved)
