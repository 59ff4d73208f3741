"""The gate's own test: versions spoilt in every way we can think of, each refused for the named check, and
better ones that pass."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from feature_repo.errors import ArtifactCorrupt, FeatureSetMismatch
from feature_repo.features import NAMES, feature_set_id
from pipelines.gate.evidence import unsound
from pipelines.gate.judge import RULE, Evidence, judge
from pipelines.gate.verdict import INSUFFICIENT_EVIDENCE, Verdict
from serving import artifact
from serving.artifact import Artifact, Manifest
from tests.cases import gate_world as world
from tests.cases.gate_world import TRAIN_DAYS, WINDOW_DAYS
from training.data import TrainingSet
from training.registration import Fitted


@dataclass(frozen=True)
class World:
    """What most cases share: a good version, a weak champion, and the data of both."""

    folder: Path
    trained: TrainingSet
    window: TrainingSet
    good: Fitted
    weak: Artifact  # trained for three steps

    def evidence(self, candidate: Artifact, **changes: object) -> Evidence:
        parts = {
            "champion": self.weak,
            "trained": self.trained,
            "window": self.window,
            "truth": world.truth_of(self.window),
            "now": world.NOW,
            **changes,
        }
        return Evidence(candidate, **parts)  # type: ignore[arg-type]  # fields by name

    def load(self, fitted: Fitted | None = None, **changes: object) -> Artifact:
        return world.loaded(fitted or self.good, self.folder, **changes)


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("gate")
    trained, window = world.rows(0, TRAIN_DAYS, 1), world.rows(TRAIN_DAYS, WINDOW_DAYS, 2)
    weak = world.loaded(world.fit(trained, "updates=3"), folder, "1")
    return World(folder, trained, window, world.fit(trained), weak)


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if check.passed is False}


def blind(rows: TrainingSet, columns: list[int]) -> TrainingSet:
    """Rows in which these columns never change: a version trained on them does not look at them."""
    x = rows.x.copy()
    x[:, columns] = 0
    return replace(rows, x=x)


# ---- artefacts that are no models: refused before a payment is scored ---------------------------------


def edited(fitted: Fitted, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(fitted.model)
    change(model)
    return model


def set_weight(value: float) -> Callable[[onnx.ModelProto], None]:
    """The first entry of the largest float weight becomes `value`."""

    def change(model: onnx.ModelProto) -> None:
        floats = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
        tensor = max(floats, key=lambda one: int(np.prod(one.dims)))
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] = value
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def other_bytes(w: World) -> None:
    path = w.folder / "bytes.onnx"
    sha256 = artifact.save(path, w.good.model, w.good.manifest)
    path.write_bytes(path.read_bytes()[:-10])
    artifact.load(path, sha256)


def pickled(w: World) -> None:
    path = w.folder / "pickle.onnx"
    path.write_bytes(b"\x80\x04\x95pickle")
    artifact.load(path)


def manifest_of(**changes: object) -> Callable[[World], None]:
    return lambda w: void(w.load(**changes))


def weights_of(value: float) -> Callable[[World], None]:
    return lambda w: void(world.written(edited(w.good, set_weight(value)), w.good.manifest, w.folder))


def void(_: Artifact) -> None:
    """The artefact was accepted."""


def swapped(manifest: Manifest) -> tuple[str, ...]:
    return (*manifest.columns[1:], manifest.columns[0])


UNSOUND: list[tuple[str, str, Callable[[World], None]]] = [
    ("bytes cut off after registration", "sha256", other_bytes),
    ("a pickle under the name of a model", "onnx", pickled),
    ("NaN weights", "weights", weights_of(float("nan"))),
    ("infinite weights", "weights", weights_of(float("inf"))),
    ("weights changed after the golden rows", "golden_rows", weights_of(9.0)),
    ("no golden rows", "golden_rows", manifest_of(golden_features=[], golden_scores=[])),
    ("a threshold no score reaches", "manifest", manifest_of(threshold=1.5)),
    (
        "wrong column order",
        "feature_set",
        lambda w: void(w.load(columns=swapped(w.good.manifest))),
    ),
    (
        "a feature nobody computes",
        "feature_set",
        lambda w: void(w.load(columns=(*w.good.manifest.columns[:-1], "shoe_size"))),
    ),
    (
        "a column too many",
        "graph",
        lambda w: void(w.load(columns=NAMES, feature_set_id=feature_set_id(NAMES))),
    ),
]


@pytest.mark.parametrize(("name", "check", "spoil"), UNSOUND, ids=[case[0] for case in UNSOUND])
def test_an_artefact_that_is_no_model_is_refused_by_name(
    w: World, name: str, check: str, spoil: Callable[[World], None]
) -> None:
    with pytest.raises((ArtifactCorrupt, FeatureSetMismatch)) as refused:
        spoil(w)
    verdict = unsound("2", refused.value)
    assert failed(verdict) == {check}, name
    assert verdict.refusals("it will do"), "no override covers integrity"


# ---- versions that are not what they say they are ----------------------------------------------------


def columns_renamed(w: World) -> Evidence:
    """Another order with the hash to match: the golden rows still score as they did."""
    columns = swapped(w.good.manifest)
    return w.evidence(w.load(columns=columns, feature_set_id=feature_set_id(columns)))


def shuffled_labels(w: World) -> Evidence:
    order = np.random.default_rng(3).permutation(len(w.trained))
    shuffled = replace(w.trained, label=w.trained.label[order], label_known=w.trained.label[order])
    return w.evidence(w.load(world.fit(shuffled)))


def leaked_future(w: World) -> Evidence:
    """In training a column told what was learnt later; live it cannot."""
    x = w.trained.x.copy()
    x[:, NAMES.index("new_merchant")] = np.random.default_rng(4).standard_normal(len(x)) + 40 * w.trained.label
    x[:, world.TAME] = 0
    return w.evidence(w.load(world.fit(replace(w.trained, x=x))))


def label_in_a_column(w: World) -> Evidence:
    column = NAMES.index("new_merchant")
    parts = []
    for rows in (w.trained, w.window):
        x = rows.x.copy()
        x[:, column] = np.random.default_rng(5).standard_normal(len(x)) + 40 * rows.label
        parts.append(replace(rows, x=x))
    return w.evidence(w.load(world.fit(parts[0])), trained=parts[0], window=parts[1])


def stale_calibration(w: World) -> Evidence:
    """Calibrated when everything was quieter."""
    quiet = replace(w.trained, x=w.trained.x * np.float32(0.6))
    return w.evidence(w.load(world.fit(quiet)), trained=quiet)


def wrong_reasons(w: World) -> Evidence:
    """The score is right and says so with another column's name."""

    def rotate(model: onnx.ModelProto) -> None:
        width = len(w.good.manifest.columns)
        for node in model.graph.node:
            node.output[:] = ["unrotated" if name == "contributions" else name for name in node.output]
        model.graph.initializer.append(numpy_helper.from_array(np.roll(np.arange(width), 5), "rotated_columns"))
        model.graph.node.append(helper.make_node("Gather", ["unrotated", "rotated_columns"], ["contributions"], axis=1))

    good = w.load()
    return w.evidence(world.written(edited(w.good, rotate), w.good.manifest, w.folder), champion=good)


def short_window(w: World) -> Evidence:
    return w.evidence(w.load(), window=w.window.take(w.window.day < w.window.day.min() + 10))


def few_frauds(w: World) -> Evidence:
    rare = ~w.window.label | (np.cumsum(w.window.label) % 3 == 0)
    return w.evidence(w.load(), window=w.window.take(rare))


def one_mechanism_lost(w: World) -> Evidence:
    """Does not look at the place; its champion does."""
    candidate = w.load(world.fit(blind(w.trained, world.PLACE)))
    return w.evidence(candidate, champion=world.loaded(w.good, w.folder, "1"))


def worse_refresh(w: World) -> Evidence:
    """Newer by a day and hardly trained, of the same recipe and features as the champion."""
    champion = world.loaded(w.good, w.folder, "1", train_to="2024-03-15")
    return w.evidence(w.load(world.fit(w.trained, "updates=3")), champion=champion)


def no_better(w: World) -> Evidence:
    """The champion once more, under another number."""
    return w.evidence(w.load(), champion=world.loaded(w.good, w.folder, "1"))


def knows_nothing(w: World) -> Evidence:
    return w.evidence(w.load(world.fit(blind(w.trained, world.TAME))))


def loses_to_distance(w: World) -> Evidence:
    return w.evidence(w.load(world.fit(blind(w.trained, world.TAME))), champion=None)


def trained_in_the_window(w: World) -> Evidence:
    return w.evidence(w.load(train_to="2024-03-20"))


def labels_of_tomorrow(w: World) -> Evidence:
    return w.evidence(w.load(labels_as_of=(world.NOW + timedelta(days=30)).isoformat()))


def other_data(w: World) -> Evidence:
    """One label of the training window is not what it was."""
    label = w.trained.label.copy()
    label[0] = not label[0]
    return w.evidence(w.load(), trained=replace(w.trained, label=label))


DECEITFUL: list[tuple[str, Callable[[World], Evidence]]] = [
    ("column_order", columns_renamed),
    ("shuffled_labels", shuffled_labels),
    ("leakage", leaked_future),
    ("label_in_a_column", label_in_a_column),
    ("stale_calibration", stale_calibration),
    ("inflated_threshold", lambda w: w.evidence(w.load(threshold=0.97))),
    ("inflated_threshold", lambda w: w.evidence(w.load(threshold=0.25))),
    ("reasons", wrong_reasons),
    ("slices", one_mechanism_lost),
    ("refresh", worse_refresh),
    ("improvement", no_better),
    ("knows_labels", knows_nothing),
    ("mahalanobis", loses_to_distance),
    (RULE, loses_to_distance),
    ("window_after_training", trained_in_the_window),
    ("future_labels", labels_of_tomorrow),
    ("training_data", other_data),
    ("data_validation", lambda w: w.evidence(w.load(), invalid=["amounts_above_zero: 3 are not so"])),
    (INSUFFICIENT_EVIDENCE, short_window),
    (INSUFFICIENT_EVIDENCE, few_frauds),
    (INSUFFICIENT_EVIDENCE, lambda w: w.evidence(w.load(), window=None)),
]


@pytest.mark.parametrize(
    ("check", "spoil"), DECEITFUL, ids=[f"{number}-{case[0]}" for number, case in enumerate(DECEITFUL)]
)
def test_a_spoilt_version_is_refused_for_the_named_check(
    w: World, check: str, spoil: Callable[[World], Evidence]
) -> None:
    verdict = judge(spoil(w))
    assert check in failed(verdict), verdict.failures
    assert any(failure.startswith(check) for failure in verdict.refusals(None))


# ---- better versions ----------------------------------------------------------------------------------


BETTER: list[tuple[str, str, Callable[[World], Evidence]]] = [
    ("the first champion, better than what is simple", "first", lambda w: w.evidence(w.load(), champion=None)),
    ("trained to the end, the champion was not", "improve", lambda w: w.evidence(w.load())),
    (
        "looks at the place, the champion does not",
        "improve",
        lambda w: w.evidence(w.load(), champion=world.loaded(world.fit(blind(w.trained, world.PLACE)), w.folder, "1")),
    ),
    (
        "looks at the amount, the champion does not; where no truth is known",
        "improve",
        lambda w: w.evidence(
            w.load(), champion=world.loaded(world.fit(blind(w.trained, world.AMOUNT)), w.folder, "1"), truth=None
        ),
    ),
    (
        "as good on a newer window",
        "refresh",
        lambda w: w.evidence(w.load(), champion=world.loaded(w.good, w.folder, "1", train_to="2024-03-15")),
    ),
]


@pytest.mark.parametrize(("name", "route", "better"), BETTER, ids=[case[0] for case in BETTER])
def test_a_better_version_passes(w: World, name: str, route: str, better: Callable[[World], Evidence]) -> None:
    verdict = judge(better(w))
    assert verdict.failures == [], name
    assert verdict.numbers["route"] == route
    assert verdict.refusals(None) == []


def test_an_override_covers_too_little_evidence_and_no_deceit(w: World) -> None:
    short = judge(short_window(w))
    assert short.refusals(None)
    assert not short.refusals("the history is three weeks old")
    assert judge(columns_renamed(w)).refusals("trust me")
    assert judge(leaked_future(w)).refusals("trust me")


def test_reasons_are_skipped_where_no_truth_is_known(w: World) -> None:
    verdict = judge(w.evidence(w.load(), truth=None))
    (reasons,) = [check for check in verdict.checks if check.name == "reasons"]
    assert reasons.passed is None
    assert not [part for part in verdict.numbers["slices"] if part["name"].startswith("mechanism")]
