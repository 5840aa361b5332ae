"""The registry of bundles (uic/registry.py): whole or not there, never changed, and every digest checked on the way out."""

import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

from toy import make_bundle

from uic.bundle import MANIFEST, Bundle
from uic.errors import BadInput, BundleError, EnvironmentProblem
from uic.registry import Registry, digest_of


@pytest.fixture(params=["folder", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A registry in a folder, and one in an object store that has neither folders nor renames."""
    if request.param == "folder":
        yield Registry(str(tmp_path / "registry"))
        return
    yield Registry("memory://registry")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", version=5)


def files(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


def spoil(registry: Registry, name: str, data: bytes | None) -> None:
    fs, root = fsspec.core.url_to_fs(registry.url)
    if data is None:
        fs.rm_file(f"{root}/{name}")
    else:
        fs.pipe_file(f"{root}/{name}", data)


def test_what_was_pushed_is_fetched_byte_for_byte(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    entry = registry.push(bundle, now_ms=77)
    assert (entry.version, entry.digest, entry.pushed_ms, entry.state) == (5, digest_of(bundle), 77, "pushed")
    assert registry.entries() == [entry]
    assert registry.manifest(entry) == Bundle.open(bundle).manifest
    fetched = registry.fetch(entry, tmp_path / "cache")
    assert files(fetched.path) == files(bundle)
    assert registry.fetch(entry, tmp_path / "cache").path == fetched.path


def test_an_empty_registry_lists_nothing_and_names_the_command_for_more(registry: Registry) -> None:
    assert registry.entries() == []
    with pytest.raises(BadInput, match=r"no bundle 5 there; there are none. `uic bundle push`"):
        registry.get(5)


def test_pushing_the_same_bundle_again_changes_nothing(registry: Registry, bundle: Path) -> None:
    first = registry.push(bundle, now_ms=1)
    assert registry.push(bundle, now_ms=2) == first


def test_a_second_bundle_of_one_version_is_refused_and_the_first_stays(
    registry: Registry, bundle: Path, tmp_path: Path
) -> None:
    first = registry.push(bundle, now_ms=1)
    other = make_bundle(tmp_path / "other", version=5, lineage="other")
    with pytest.raises(BadInput, match=r"version 5 is in .* already, with other contents"):
        registry.push(other, now_ms=2)
    assert registry.entries() == [first]
    assert registry.fetch(first, tmp_path / "cache").manifest.lineage == "toy"


def test_an_altered_bundle_is_not_pushed(registry: Registry, bundle: Path) -> None:
    (bundle / "step.onnx").write_bytes(b"x" + (bundle / "step.onnx").read_bytes()[1:])
    with pytest.raises(BundleError, match=r"step\.onnx: altered"):
        registry.push(bundle, now_ms=1)
    assert registry.entries() == []


def test_a_push_that_died_on_its_way_left_nothing_to_see_and_is_done_again(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(text: str) -> None:
        if text.startswith("vocabulary"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.push(bundle, now_ms=1, say=die)
    assert registry.entries() == []
    registry.push(bundle, now_ms=2)
    spoil(registry, "pushed/5.json", b'{"digest": "ab')  # its last write, torn
    assert registry.entries() == []
    assert registry.push(bundle, now_ms=3).pushed_ms == 3


@pytest.mark.parametrize("name", ["step.onnx", MANIFEST])
@pytest.mark.parametrize("data", [None, b"", b"altered"])
def test_what_was_altered_or_lost_in_the_registry_is_named_and_not_kept(
    registry: Registry, bundle: Path, tmp_path: Path, name: str, data: bytes | None
) -> None:
    entry = registry.push(bundle, now_ms=1)
    spoil(registry, f"{entry.folder}/{name}", data)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        registry.fetch(entry, tmp_path / "cache")
    spoil(registry, f"{entry.folder}/{name}", (bundle / name).read_bytes())
    assert registry.fetch(entry, tmp_path / "cache").manifest.version == 5


def test_a_damaged_copy_in_the_cache_is_fetched_anew(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    entry = registry.push(bundle, now_ms=1)
    fetched = registry.fetch(entry, tmp_path / "cache").path
    (fetched / "step.onnx").write_bytes(b"rot")
    registry.fetch(entry, tmp_path / "cache")
    assert files(fetched) == files(bundle)


def test_what_happened_to_a_bundle_is_its_state(registry: Registry, bundle: Path) -> None:
    registry.push(bundle, now_ms=1)
    registry.note_refused(5, "its items do not begin with those of the active bundle", 2)
    assert (registry.get(5).state, registry.get(5).refused) == (
        "refused",
        "its items do not begin with those of the active bundle",
    )
    registry.note_promoted(5, 3)
    assert (registry.get(5).state, registry.get(5).promoted_ms) == ("promoted", 3)
    registry.note_retired(5, 4)
    assert (registry.get(5).state, registry.get(5).retired_ms) == ("retired", 4)


def test_a_url_that_nothing_reaches_is_named() -> None:
    with pytest.raises(BadInput, match=r"registry.url nowhere://x: "):
        Registry("nowhere://x")


def test_a_registry_that_cannot_be_written_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((EnvironmentProblem, BundleError), match="file"):
        Registry(str(tmp_path / "file")).push(bundle, now_ms=1)
