"""Which model serves while the registry moves, lies and disappears."""

from pathlib import Path

import pytest

from feature_repo.errors import ArtifactCorrupt, FeatureSetMismatch, ModelLoading, ModelVersionMismatch
from serving.registry import Registry
from serving.source import CHALLENGER, CHAMPION, Registered
from tests.cases import tiny_model
from tests.cases.model_service import FolderSource


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    folder = tmp_path / "published"
    folder.mkdir()
    return FolderSource(folder)


@pytest.fixture
def registry(source: FolderSource, tmp_path: Path) -> Registry:
    return Registry(source, tmp_path / "cache")


def serving(registry: Registry) -> list[str]:
    return [model.version for model in registry.held.loaded]


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8] + b"\xff" * 8)


def test_nothing_serves_before_the_alias_is_set(registry: Registry) -> None:
    assert registry.refresh() is False
    with pytest.raises(ModelLoading):
        registry.held.get()
    with pytest.raises(ModelLoading):
        registry.held.get("1")


def test_the_champion_serves_and_the_version_before_it_stays(registry: Registry, source: FolderSource) -> None:
    for version in ("1", "2", "3"):
        source.publish(version, scale=0.1 * int(version))
        assert registry.refresh() is True
    assert serving(registry) == ["3", "2"]
    assert registry.held.get("2").version == "2"
    with pytest.raises(ModelVersionMismatch) as caught:
        registry.held.get("1")
    assert caught.value.loaded == ["3", "2"]


def test_an_alias_that_stays_costs_nothing(registry: Registry, source: FolderSource) -> None:
    source.publish("1")
    registry.refresh()
    model = registry.held.champion
    assert registry.refresh() is False
    assert registry.held.champion is model
    assert source.fetched == ["1"]


def test_rolling_back_takes_the_model_still_in_memory(registry: Registry, source: FolderSource) -> None:
    first = source.publish("1")
    registry.refresh()
    source.publish("2", scale=0.2)
    registry.refresh()
    source.aliases[CHAMPION] = first
    registry.refresh()
    assert serving(registry) == ["1", "2"]
    assert source.fetched == ["1", "2"]


def test_a_spoilt_artefact_is_refused_once_and_the_old_one_serves(registry: Registry, source: FolderSource) -> None:
    source.publish("1")
    registry.refresh()
    source.publish("2", scale=0.2, spoilt=True)
    for _ in range(3):
        assert registry.refresh() is False
    assert serving(registry) == ["1"]
    assert source.fetched == ["1", "2"]
    assert registry.refusal is not None
    assert registry.refusal.registered.version == "2"
    assert isinstance(registry.refusal.error, ArtifactCorrupt)


def test_the_next_sound_version_ends_a_refusal(registry: Registry, source: FolderSource) -> None:
    source.publish("1")
    registry.refresh()
    source.publish("2", scale=0.2, spoilt=True)
    registry.refresh()
    source.publish("3", scale=0.3)
    registry.refresh()
    assert serving(registry) == ["3", "1"]
    assert registry.refusal is None


@pytest.mark.parametrize("tag", ["", "0" * 64, "../../etc/passwd", "not a hash"])
def test_a_version_without_its_true_hash_is_refused(registry: Registry, source: FolderSource, tag: str) -> None:
    source.publish("1")
    source.aliases[CHAMPION] = Registered("1", tag)
    registry.refresh()
    assert registry.held.champion is None
    assert registry.refusal is not None
    assert registry.refusal.error.code == "ARTIFACT_CORRUPT"


def test_features_this_build_does_not_compute_are_refused(
    registry: Registry, source: FolderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.publish("1")
    monkeypatch.setattr("feature_repo.features.SHRINK_K", 7.0)  # the meaning of every feature moves
    registry.refresh()
    assert registry.refusal is not None
    assert isinstance(registry.refusal.error, FeatureSetMismatch)


def test_the_registry_going_away_changes_nothing(registry: Registry, source: FolderSource) -> None:
    source.publish("1")
    registry.refresh()
    source.down = True
    registry.refresh()
    assert serving(registry) == ["1"]
    assert registry.reachable is False
    source.down = False
    source.publish("2", scale=0.2)
    registry.refresh()
    assert serving(registry) == ["2", "1"]
    assert registry.reachable is True


def test_a_restart_without_the_registry_serves_the_last_good_model(
    registry: Registry, source: FolderSource, tmp_path: Path
) -> None:
    source.publish("1")
    registry.refresh()
    source.publish("2", scale=0.2)
    registry.refresh()
    source.down = True
    restarted = Registry(source, tmp_path / "cache")
    assert restarted.refresh() is True
    assert serving(restarted) == ["2"]


def test_a_restart_on_a_bad_champion_serves_the_last_good_model(
    registry: Registry, source: FolderSource, tmp_path: Path
) -> None:
    source.publish("1")
    registry.refresh()
    source.publish("2", scale=0.2, spoilt=True)
    restarted = Registry(source, tmp_path / "cache")
    restarted.refresh()
    assert serving(restarted) == ["1"]
    assert restarted.refusal is not None


def test_a_spoilt_last_good_model_does_not_serve(registry: Registry, source: FolderSource, tmp_path: Path) -> None:
    kept = source.publish("1")
    registry.refresh()
    spoil(tmp_path / "cache" / f"{kept.sha256}.onnx")
    source.down = True
    restarted = Registry(source, tmp_path / "cache")
    restarted.refresh()
    assert restarted.held.champion is None


def test_a_copy_spoilt_on_disk_is_fetched_again(registry: Registry, source: FolderSource, tmp_path: Path) -> None:
    kept = source.publish("1")
    registry.refresh()
    spoil(tmp_path / "cache" / f"{kept.sha256}.onnx")
    restarted = Registry(source, tmp_path / "cache")
    restarted.refresh()
    assert serving(restarted) == ["1"]
    assert source.fetched == ["1", "1"]


def test_the_cache_keeps_the_two_models_that_are_loaded(
    registry: Registry, source: FolderSource, tmp_path: Path
) -> None:
    kept = []
    for version in ("1", "2", "3"):
        kept.append(source.publish(version, scale=0.1 * int(version)).sha256)
        registry.refresh()
    assert {file.stem for file in (tmp_path / "cache").glob("*.onnx")} == set(kept[1:])
    assert not list((tmp_path / "cache").glob("*.part"))


def challenged(registry: Registry) -> str | None:
    challenger = registry.held.challenger
    return None if challenger is None else challenger.version


def test_a_challenger_is_loaded_beside_the_champion_and_let_go_with_its_alias(
    registry: Registry, source: FolderSource, tmp_path: Path
) -> None:
    source.publish("1")
    other = source.publish("2", scale=0.2, alias=CHALLENGER)
    assert registry.refresh() is True
    assert (serving(registry), challenged(registry)) == (["1", "2"], "2")
    assert registry.held.get().version == "1"
    assert registry.refresh() is False
    del source.aliases[CHALLENGER]
    assert registry.refresh() is True
    assert (serving(registry), challenged(registry)) == (["1"], None)
    assert not (tmp_path / "cache" / f"{other.sha256}.onnx").exists()


def test_a_challenger_alone_is_not_served(registry: Registry, source: FolderSource) -> None:
    source.publish("1", alias=CHALLENGER)
    assert registry.refresh() is False
    with pytest.raises(ModelLoading):
        registry.held.get("1")


def test_a_spoilt_challenger_is_refused_once_and_harms_nobody(registry: Registry, source: FolderSource) -> None:
    source.publish("1")
    source.publish("2", scale=0.2, alias=CHALLENGER)
    registry.refresh()
    source.publish("3", scale=0.3, alias=CHALLENGER, spoilt=True)
    for _ in range(3):
        registry.refresh()
    assert (serving(registry), challenged(registry)) == (["1"], None), "what was challenger before is no longer named"
    assert source.fetched == ["1", "2", "3"]
    assert registry.refusal is None and registry.challenger_refusal is not None
    assert registry.challenger_refusal.registered.version == "3"
    source.publish("4", scale=0.4, alias=CHALLENGER)
    registry.refresh()
    assert (challenged(registry), registry.challenger_refusal) == ("4", None)


def test_a_promoted_challenger_serves_from_memory_and_challenges_no_more(
    registry: Registry, source: FolderSource
) -> None:
    source.publish("1")
    source.publish("2", scale=0.2, alias=CHALLENGER)
    registry.refresh()
    source.aliases[CHAMPION] = source.aliases[CHALLENGER]  # the alias challenger goes a moment later
    registry.refresh()
    assert (serving(registry), challenged(registry)) == (["2", "1"], None)
    assert source.fetched == ["1", "2"]


def test_the_version_before_may_challenge_the_one_that_serves(registry: Registry, source: FolderSource) -> None:
    source.aliases[CHALLENGER] = source.publish("1")
    registry.refresh()
    assert challenged(registry) is None, "nobody challenges himself"
    source.publish("2", scale=0.2)
    registry.refresh()
    assert (serving(registry), challenged(registry)) == (["2", "1"], "1")
    source.publish("3", scale=0.3)
    registry.refresh()
    assert (serving(registry), challenged(registry)) == (["3", "2", "1"], "1")


def test_the_registry_going_away_leaves_the_challenger(registry: Registry, source: FolderSource) -> None:
    source.publish("1")
    source.publish("2", scale=0.2, alias=CHALLENGER)
    registry.refresh()
    source.down = True
    assert registry.refresh() is False
    assert (registry.reachable, challenged(registry)) == (False, "2")


def test_another_threshold_is_another_artefact(tmp_path: Path) -> None:
    one, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert tiny_model.write(one, threshold=0.5) != tiny_model.write(other, threshold=0.6)
