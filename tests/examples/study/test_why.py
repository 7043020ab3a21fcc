"""Distances between attention maps, maps replaced at inference, and corrupted images."""

import json

import pytest
import torch

from examples.study import why
from examples.study.train_stacks import StudyArguments, read_plan
from examples.study.why import Gallery, attention_maps, distance, last_attentions, predicted_with, predicted_with_maps_of
from mult_hf.inference.predictor import predict
from support.studies import TINY

STAGES = len(TINY["depths"])
SHARED, OWN, ALONE = "MulT with skip", "own maps with skip", "single-task with skip, half the steps, depth"


@pytest.fixture(scope="module")
def gallery(study_results):
    directory, _ = study_results
    plan = read_plan(directory / "plan.yaml", StudyArguments(plan=directory / "plan.yaml"))
    return Gallery(plan.networks, directory / "weights", torch.device("cpu"))


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_weights_of_the_tested_networks_are_kept(gallery, study_results):
    _, results = study_results
    assert {SHARED, OWN, ALONE} <= set(gallery.networks)
    assert gallery.seeds(SHARED) == results["mult-with-skip"]["seeds"]
    with torch.no_grad():
        seeds = [gallery.load(SHARED, seed)(torch.zeros(1, 3, 32, 32)).predictions["depth"] for seed in gallery.seeds(SHARED)]
    assert not torch.equal(*seeds)


@pytest.mark.parametrize(("name", "makers"), [(SHARED, 1), (OWN, 6)])
def test_every_stage_gives_the_maps_that_it_computes(gallery, images, name, makers):
    maps = attention_maps(gallery.load(name, 0), images)
    assert len(maps) == STAGES
    for stage in maps:
        assert len(stage) == makers
        for values in stage.values():
            torch.testing.assert_close(values.sum(dim=-1), torch.ones(values.shape[:-1]))


@pytest.mark.parametrize("name", [SHARED, OWN])
def test_replacing_maps_by_themselves_changes_nothing(gallery, images, name):
    """This also holds that every map is replaced by the one of its own stage and task."""
    model = gallery.load(name, 0)
    maps, expected = attention_maps(model, images), predict(model, images)
    found = predicted_with(model, lambda stage, reference, own, bias: maps[stage][reference], images)
    for task, values in expected.items():
        torch.testing.assert_close(found[task], values)
    assert all("attention_map" not in vars(attention) for attention in last_attentions(model)), "the model is as before"


@pytest.mark.parametrize("replacement", [why.uniform, why.position_only, why.of_another_image])
def test_replacements_are_distributions_and_change_predictions(gallery, images, replacement):
    model = gallery.load(OWN, 0)
    sums = []

    def recorded(stage, reference, own, bias):
        used = replacement(stage, reference, own, bias)
        assert used.shape == own.shape
        sums.append(used.sum(dim=-1))
        return used

    expected, found = predict(model, images), predicted_with(model, recorded, images)
    assert len(sums) == STAGES * 6
    assert all(torch.allclose(values, torch.ones(())) for values in sums)
    assert any(not torch.allclose(found[task], values, rtol=1e-6, atol=0) for task, values in expected.items())


def test_uniform_maps_stay_within_the_regions_of_the_shift():
    own, bias = torch.ones(1, 1, 1, 2, 4), torch.tensor([0.3, -0.2, -100.0, -99.0]).expand(2, 4)
    torch.testing.assert_close(why.uniform(0, "", own, bias)[0, 0, 0], torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(2, 4))


def test_maps_of_another_network_are_used(gallery, images):
    one, other = (gallery.load(SHARED, seed) for seed in gallery.seeds(SHARED))
    mixed = predicted_with_maps_of(one, other, None, images)["depth"]
    assert not torch.allclose(mixed, predict(one, images)["depth"], rtol=1e-6, atol=0)
    torch.testing.assert_close(predicted_with_maps_of(one, one, None, images)["depth"], predict(one, images)["depth"])


def test_the_distance_is_the_share_of_attention_that_moves():
    one = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert distance(one, one) == 0
    assert distance(one, torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])) == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize("name", why.CORRUPTIONS)
def test_corrupted_images_are_the_same_in_every_call(gallery, images, name):
    processor = why.processor_of(gallery.networks[SHARED].parsed())
    corrupt = why.CORRUPTIONS[name]
    torch.testing.assert_close(corrupt(images, processor), corrupt(images, processor))
    assert (corrupt(images, processor) - images).abs().mean() > 0.05


def test_noise_has_its_strength_in_units_of_the_image(gallery):
    processor = why.processor_of(gallery.networks[SHARED].parsed())
    noise = why.noisy(0.1, torch.zeros(4, 3, 64, 64), processor) * torch.tensor(processor.image_std).view(3, 1, 1)
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)


@pytest.mark.slow
def test_one_command_measures_everything(study_results, tmp_path):
    directory, _ = study_results
    argv = ["--plan", str(directory / "plan.yaml"), "--weights", str(directory / "weights"), "--output", str(tmp_path / "out/why.json")]
    why.main([*argv, "--max_images", "2", "--only", SHARED, OWN, ALONE])
    found = json.loads((tmp_path / "out/why.json").read_text())
    by_row = {(entry["row"], entry["seed"]): entry["values"] for entry in found["metrics"]}
    assert set(by_row) == {(name, seed) for name in (SHARED, OWN, ALONE) for seed in (0, 1)}
    assert {"as trained", "noise 0.1", "maps: uniform", "maps: another seed's"} <= set(by_row[SHARED, 0])
    assert {"maps: all depth", "maps: all normals"} <= set(by_row[OWN, 0])
    assert set(by_row[ALONE, 0]["as trained"]) == {"depth/rmse"}
    pairs = [record for record in found["distances"] if record["rows"] == [SHARED, OWN]]
    assert {record["stage"] for record in pairs} == set(range(STAGES))
    assert {record["tasks"][1] for record in pairs} == {"segmentation", "depth", "normals", "keypoints2d", "edges2d", "reshading"}
    assert all(record["seeds"][0] == record["seeds"][1] for record in pairs)
    assert all(0 < record["distance"] < 1 for record in found["distances"] if record["stage"])
