"""torch's AdamW, switched to its fused form also after a state of the plain one was loaded."""

import copy
from types import SimpleNamespace

import torch

from modellink_rm.train.optimizer import use_fused_adam


def adam_after_steps(num_steps: int, *, fused: bool) -> torch.optim.AdamW:
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 6))
    adam = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.1, fused=fused)
    take_steps(adam, num_steps)
    return adam


def take_steps(adam: torch.optim.AdamW, num_steps: int) -> None:
    (parameter,) = adam.param_groups[0]["params"]
    for _ in range(num_steps):
        parameter.grad = parameter.detach() ** 2
        adam.step()


def test_state_of_the_plain_form_continues_fused() -> None:
    plain = adam_after_steps(2, fused=False)
    adam = adam_after_steps(2, fused=True)
    adam.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert not adam.param_groups[0]["fused"]
    assert use_fused_adam(SimpleNamespace(optimizer=adam))
    assert adam.param_groups[0]["fused"]
    take_steps(plain, 3)
    take_steps(adam, 3)
    expected, got = plain.param_groups[0]["params"][0], adam.param_groups[0]["params"][0]
    torch.testing.assert_close(got, expected)
    assert [state["step"].item() for state in adam.state.values()] == [5.0]


def test_step_counts_become_what_the_fused_form_takes() -> None:
    plain = adam_after_steps(2, fused=False)
    (state,) = plain.state.values()
    state["step"] = torch.tensor(2)  # as a checkpoint of whole steps holds it
    assert use_fused_adam(SimpleNamespace(optimizer=plain))
    assert (state["step"].item(), state["step"].dtype) == (2.0, torch.float32)
    expected = adam_after_steps(5, fused=False)
    take_steps(plain, 3)
    torch.testing.assert_close(plain.param_groups[0]["params"][0], expected.param_groups[0]["params"][0])


def test_step_counts_move_to_the_device_of_their_parameter() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, device="meta"))
    adam = torch.optim.AdamW([parameter], lr=0.1)
    adam.state[parameter] = {"step": torch.tensor(2.0)}
    assert use_fused_adam(SimpleNamespace(optimizer=adam))
    assert adam.state[parameter]["step"].device == parameter.device


def test_other_and_empty_optimizers_are_unchanged() -> None:
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    chain = SimpleNamespace(
        chained_optimizers=[SimpleNamespace(optimizer=sgd), SimpleNamespace(optimizer=None)]
    )
    assert not use_fused_adam(chain)
    assert not sgd.param_groups[0].get("fused")
