"""The Python half of a promotion, called as ControlledUpdate.java calls it: which model is active after which messages."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

from prometheus_client import CollectorRegistry
from toy import make_bundle

from operators import bundle_status, control
from operators.batched import FAILED, OK, BatchedUpdates
from operators.bundle_status import BundleStatus
from operators.deployment import CACHE, Deployment, try_step
from operators.metrics import StreamMetrics
from operators.settings import UpdateSettings
from operators.worker import Worker
from uic.bundle import Bundle
from uic.errors import BadInput, BundleError, EnvironmentProblem
from uic.registry import Registry
from uic.runtime import OnnxStep
from uic.update import Rules

WAIT_S = 20
ADDRESS = "this start"


class World:
    """A job's folder, and a registry with a child, a grandchild, and bundles that must be refused."""

    def __init__(self, bundles: Path, job_dir: Path) -> None:
        self.bundles = bundles
        self.job_dir = job_dir
        self.registry = Registry(str(bundles / "registry"))
        self.first = bundles / "1"

    def push(self, version: int, **changes: Any) -> None:
        self.registry.push(make_bundle(self.bundles / str(version), version=version, **changes), now_ms=0)

    def settings(self, address: str = ADDRESS) -> UpdateSettings:
        return UpdateSettings(
            bundle=str(self.first),
            job_dir=str(self.job_dir),
            run=1,
            rules=Rules(),
            max_ahead_ms=0,
            store=None,
            address=address,
        )

    def open(self, saved: bytes = b"", subtask: int = 0, **more: Any) -> Deployment:
        return Deployment(self.settings(), saved=saved, subtask=subtask, **more)

    def message(self, kind: type[control.Prepare], version: int, *, issued_ms: int = 7, to: str = ADDRESS) -> control.Message:
        digest = self.registry.get(version).digest
        return kind(to=to, version=version, url=self.registry.url, digest=digest, issued_ms=issued_ms)

    def prepare(self, version: int, **more: Any) -> bytes:
        return control.to_json(self.message(control.Prepare, version, **more))

    def promote(self, version: int, **more: Any) -> bytes:
        return control.to_json(self.message(control.Promote, version, **more))

    def status(self, subtask: int = 0) -> BundleStatus:
        return bundle_status.read_all(self.job_dir, 1)[subtask]

    def answered(self, issued_ms: int = 7) -> BundleStatus:
        """The answer to the message issued then; a thread may have to come to it."""
        give_up_at = time.monotonic() + WAIT_S
        while (status := self.status()).answers_ms != issued_ms:
            assert time.monotonic() < give_up_at, status
            time.sleep(0.01)
        return status


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = World(tmp_path_factory.mktemp("bundles"), Path())
    make_bundle(world.first, version=1)
    world.push(2, parent=1, keeps=0.25, more_items=10)
    world.push(3, parent=2, keeps=1.0, more_items=20)
    world.push(4, lineage="other")
    world.push(5, is_broken=True, more_items=20)
    world.push(6, more_items=20)
    (Path(world.registry.url) / world.registry.get(6).folder / "vocabulary.npz").write_bytes(b"rot")
    return world.bundles


@pytest.fixture
def world(bundles: Path, tmp_path: Path) -> World:
    return World(bundles, tmp_path)


def active(deployment: Deployment) -> int:
    return deployment.model.updater.bundle_version


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([2, 3, 4, 5]), st.booleans()), max_size=6), st.integers(0, 6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_replay_from_any_checkpoint_ends_with_the_model_of_the_straight_run(
    world: World, drawn: list[tuple[bool, int, bool]], checkpoint: int
) -> None:
    messages = []
    for is_promote, version, is_ours in drawn:
        make = world.promote if is_promote else world.prepare
        messages.append(make(version, to=ADDRESS if is_ours else "another"))
    straight, saved, at_checkpoint = world.open(), b"", b""
    versions = [active(straight)]
    for n, message in enumerate(messages):
        at_checkpoint = saved if n == checkpoint else at_checkpoint
        saved = straight.take(message) or saved
        versions.append(active(straight))
    cut = min(checkpoint, len(messages))
    resumed = world.open(at_checkpoint if cut < len(messages) else saved)
    assert active(resumed) == versions[cut]
    for message in messages[cut:]:
        resumed.take(message)
    assert active(resumed) == versions[-1]
    # Versions only ever grow, and what was made ready was not applied by that.
    assert versions == sorted(versions)
    expected, now = [1], 1
    for is_promote, version, is_ours in drawn:
        now = version if is_promote and is_ours and version in (2, 3) and version > now else now
        expected.append(now)
    assert versions == expected


def test_a_bundle_is_made_ready_beside_the_active_one_and_swapped_by_the_second_message(world: World) -> None:
    deployment = world.open()
    assert (world.status().version, world.status().answer) == (1, "")
    assert deployment.take(world.prepare(2, issued_ms=10)) == b""
    ready = world.answered(10)
    assert (ready.answer, ready.version, active(deployment)) == ("ready", 1, 1)
    message = world.promote(2, issued_ms=11)
    assert deployment.take(message) == message  # what is kept is the message itself
    said = world.answered(11)
    assert (said.answer, said.version, said.training_cut_off_ms) == ("promoted", 2, 7_200_000)
    assert active(deployment) == 2
    assert deployment.take(message) == b""


def test_a_promotion_of_an_earlier_run_says_nothing_after_a_resume(world: World) -> None:
    saved = world.open().take(world.promote(2))
    assert active(world.open(saved)) == 2
    assert active(Deployment(world.settings(address="the next start"), saved=saved)) == 1


def test_what_was_promoted_may_be_told_at_the_opening_or_right_after_it(world: World) -> None:
    saved = world.open().take(world.promote(2))
    late = world.open()
    late.restore(saved)
    assert (active(late), world.status().version) == (2, 2)
    late.restore(b"")
    assert active(late) == 2
    other = Deployment(world.settings(address="the next start"))
    other.restore(saved)
    assert active(other) == 1


@pytest.mark.parametrize(
    ("version", "why"),
    [(4, "it is of lineage other, the job's memories are of toy"), (5, "its step cannot be taken"), (9, "no bundle 9 there")],
)
@pytest.mark.parametrize("kind", [control.Prepare, control.Promote])
def test_a_bundle_that_may_not_follow_is_refused_and_the_active_one_goes_on(
    world: World, version: int, why: str, kind: type[control.Prepare]
) -> None:
    registry = CollectorRegistry()
    deployment = world.open(metrics=StreamMetrics(registry))
    message = kind(to=ADDRESS, version=version, url=world.registry.url, digest="d", issued_ms=7)
    if version != 9:
        message = world.message(kind, version)
    assert deployment.take(control.to_json(message)) == b""
    said = world.answered()
    assert (said.answer, said.version, active(deployment)) == ("refused", 1, 1)
    assert why in said.why
    assert registry.get_sample_value("uic_bundle_refusals_total") == 1
    deployment.take(world.promote(3, issued_ms=8))
    assert active(deployment) == 3


def test_a_bundle_altered_in_the_registry_is_refused_by_its_files_name(world: World) -> None:
    deployment = world.open()
    deployment.take(world.prepare(6))
    said = world.answered()
    assert said.answer == "refused"
    assert "vocabulary.npz: altered" in said.why
    assert not list((world.job_dir / CACHE).glob("6-*"))


def test_a_version_with_another_digest_than_the_message_says_is_refused(world: World) -> None:
    message = control.Promote(to=ADDRESS, version=2, url=world.registry.url, digest="0" * 64, issued_ms=7)
    assert world.open().take(control.to_json(message)) == b""
    assert "bundle 2: expected digest 0000" in world.answered().why


def test_a_registry_out_of_reach_at_the_swap_fails_the_task_rather_than_leaving_it_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise EnvironmentProblem("registry.url: cannot be used")

    updates = BatchedUpdates(Worker(world.settings()))
    with monkeypatch.context() as patched:
        patched.setattr(Registry, "fetch", unreachable)
        answer = updates.control(world.promote(2))
    assert answer.startswith(FAILED)
    assert b"registry.url: cannot be used" in answer
    assert updates.control(world.promote(2)) == OK + world.promote(2)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"kind": "promote"}', b'{"kind": "forget", "to": "x"}', b"\xff"])
def test_a_message_that_nobody_can_read_is_passed_over(world: World, data: bytes) -> None:
    deployment = world.open()
    assert deployment.take(data) == b""
    assert active(deployment) == 1


def test_a_message_of_a_newer_format_is_not_guessed_at(world: World) -> None:
    message = world.promote(2).replace(b'"format":1', b'"format":2')
    with pytest.raises(BadInput, match="this release reads format 1, got 2"):
        control.read(message)


@given(st.text(), st.integers(0, 1 << 62), st.text(), st.text(), st.integers(0, 1 << 62), st.booleans())
def test_messages_survive_their_bytes_and_have_one_form(
    to: str, version: int, url: str, digest: str, issued_ms: int, is_promote: bool
) -> None:
    kind: Callable[..., control.Message] = control.Promote if is_promote else control.Prepare
    message = kind(to=to, version=version, url=url, digest=digest, issued_ms=issued_ms)
    assert control.read(control.to_json(message)) == message
    assert type(control.read(control.to_json(message))) is type(message)


def test_two_subtasks_of_one_machine_share_what_was_fetched(world: World) -> None:
    subtasks = [world.open(subtask=n) for n in (0, 1)]
    for each in subtasks:
        each.take(world.prepare(2))
    for each in subtasks:
        each.take(world.promote(2))
    assert [active(each) for each in subtasks] == [2, 2]
    assert len(list((world.job_dir / CACHE).glob("2-*"))) == 1


def test_a_step_that_makes_no_numbers_or_other_shapes_is_no_step(world: World) -> None:
    bundle = Bundle.open(world.first)
    step = OnnxStep(bundle)
    try_step(bundle, step)
    for wrong, said in (
        (lambda *given: step(*given) * float("nan"), "not finite"),
        (lambda *given: step(*given)[:, 1:], r"its step makes float32 \[1, "),
        (lambda *given: step(*given).astype("f8"), "its step makes float64"),
    ):
        with pytest.raises(BundleError, match=said):
            try_step(bundle, wrong)
