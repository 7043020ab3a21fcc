"""Proves that rows of a data set are collated into batches with unknown values for missing maps and right values for others."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image

from mult_hf import MULT_TASKS, MulTImageProcessor, MulTImageProcessorPil
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.mixing import merge_tasks, mix_datasets
from mult_hf.data.schema import load_task_entries
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.model.tasks import resolve_tasks

SIZE = {"height": 32, "width": 48}
# A view is sampled at positions in float32, which are off by about 1e-5 pixels; noise changes by 1 per pixel, or 5 after division by
# the standard deviation.
GRID_ROUNDING = 1e-4


def random_image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8))


def depth_map(metres):
    return Image.fromarray(np.full((32, 48), metres * 512, np.uint16))


@pytest.fixture
def processor():
    return MulTImageProcessor(size=SIZE)


def test_a_missing_column_and_a_null_cell_are_the_same_unknown_map(processor):
    batch = MultiTaskCollator(processor)([{"image": random_image(), "depth": depth_map(2)}, {"image": random_image(), "depth": None}])
    assert list(batch["labels"]) == list(MULT_TASKS), "every task is in every batch"
    assert (batch["labels"]["depth"][0] == 2).all()
    for task in ("normals", "edges2d"):
        assert batch["labels"][task].isnan().all()
    assert batch["labels"]["depth"][1].isnan().all()
    assert (batch["labels"]["segmentation"] == 255).all()
    assert batch["labels"]["segmentation"].dtype == torch.int64


def test_other_columns_are_ignored(processor):
    batch = MultiTaskCollator(processor)([{"image": random_image(), "room": 3, "note": "x"}])
    assert set(batch) == {"pixel_values", "labels"}


def test_augmentation_without_changes_gives_the_unaugmented_batch(processor):
    rows = [{"image": random_image(), "depth": depth_map(2)}]
    still = RandomAugmentation(
        tasks=processor.task_specs, flip=0.0, zoom=(1.0, 1.0), degrees=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )
    plain, augmented = MultiTaskCollator(processor)(rows), MultiTaskCollator(processor, augment=still)(rows)
    torch.testing.assert_close(augmented["pixel_values"], plain["pixel_values"], rtol=0, atol=GRID_ROUNDING)
    torch.testing.assert_close(augmented["labels"]["depth"], plain["labels"]["depth"])


def test_image_and_targets_are_mirrored_together(processor):
    left_half = np.zeros((32, 48), np.uint16)
    left_half[:, :24] = 512
    always = RandomAugmentation(
        tasks=processor.task_specs, flip=1.0, zoom=(1.0, 1.0), degrees=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )
    rows = [{"image": random_image(), "depth": Image.fromarray(left_half)}]
    plain, mirrored = MultiTaskCollator(processor)(rows), MultiTaskCollator(processor, augment=always)(rows)
    torch.testing.assert_close(mirrored["pixel_values"], plain["pixel_values"].flip(-1), rtol=0, atol=GRID_ROUNDING)
    assert mirrored["labels"]["depth"][0, 0, :, 24:].eq(1).all()
    assert mirrored["labels"]["depth"][0, 0, :, :24].isnan().all(), "a stored 0 is unknown"


def test_each_row_of_a_mixture_is_decoded_with_its_own_encodings():
    """One set stores millimetres, the other 512 steps a metre, and only one has classes."""
    millimetres = resolve_tasks([{"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001}}])
    rooms = resolve_tasks(["depth", "segmentation"])
    features = Features({"image": ImageColumn(), "depth": ImageColumn()})
    one = Dataset.from_dict({"image": [random_image()], "depth": [Image.fromarray(np.full((32, 48), 3000, np.uint16))]}, features=features)
    classes = Image.fromarray(np.full((32, 48), 4, np.uint8))
    other = Dataset.from_dict(
        {"image": [random_image()], "depth": [depth_map(2)], "segmentation": [classes]},
        features=Features({**features, "segmentation": ImageColumn()}),
    )
    mixture = mix_datasets({"one": one, "other": other}, stopping_strategy="all_exhausted_without_replacement")
    tasks_by_source = {"one": millimetres, "other": rooms}
    processor = MulTImageProcessor(size=SIZE, tasks=list(merge_tasks(tasks_by_source).values()))
    rows = sorted(mixture, key=lambda row: row["source"])
    labels = MultiTaskCollator(processor, tasks_by_source=tasks_by_source)(rows)["labels"]
    torch.testing.assert_close(labels["depth"][0], torch.full((1, 32, 48), 3.0))
    torch.testing.assert_close(labels["depth"][1], torch.full((1, 32, 48), 2.0))
    assert (labels["segmentation"][0] == 255).all()
    assert (labels["segmentation"][1] == 3).all()
    with pytest.raises(ValueError, match="data set 'third'"):
        MultiTaskCollator(processor, tasks_by_source=tasks_by_source)([{**rows[0], "source": "third"}])


ANIMALS = {"name": "animals", "kind": "classification", "class_names": ["cat", "dog"]}
STORED = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 12, axis=1).repeat(32, axis=0)
REDUCED = {0: 255, 1: 0, 2: 1, 255: 255}


@pytest.mark.parametrize("processor_class", [MulTImageProcessor, MulTImageProcessorPil])
@pytest.mark.parametrize("when", ["made", "set", "saved"])
def test_training_evaluation_and_baseline_reduce_labels_alike(processor_class, when, tmp_path):
    processor = processor_class(size=SIZE, tasks=[ANIMALS, "depth"], do_reduce_labels=when != "set")
    processor.do_reduce_labels = True
    if when == "saved":
        processor.save_pretrained(tmp_path)
        processor = processor_class.from_pretrained(tmp_path)
    rows = [{"image": random_image(), "animals": Image.fromarray(STORED), "depth": depth_map(2)}]
    expected = torch.from_numpy(np.vectorize(REDUCED.get)(STORED))
    still = RandomAugmentation(tasks=processor.task_specs, flip=0.0, zoom=(1.0, 1.0), degrees=0.0)
    plain, augmented = MultiTaskCollator(processor), MultiTaskCollator(processor, still)
    batches = [plain(rows), augmented(rows), plain.without_views([{**rows[0], "augmentation_seed": 0}])]
    evaluated = plain.collate_for_evaluation(rows)[1][0]
    for labels in (*(batch["labels"] for batch in batches), {task: maps[None] for task, maps in evaluated.items()}):
        assert torch.equal(labels["animals"][0], expected)
        assert (labels["depth"] == 2).all(), "only classes are reduced"
    baseline = constant_baseline(rows, plain)(torch.zeros(1, 3, 32, 48))["animals"].argmax(1)[0]
    assert torch.equal(baseline[expected != 255], expected[expected != 255]), "the best map for this one image"
    again = processor(random_image(), label_maps={"animals": STORED}, tasks=[processor.task_specs["animals"].to_dict()])["labels"]
    assert torch.equal(torch.as_tensor(again["animals"][0]), expected), "never twice"


def test_labels_of_a_mixture_are_reduced_alike_for_training_and_evaluation():
    processor = MulTImageProcessor(size=SIZE, tasks=[ANIMALS], do_reduce_labels=True)
    collator = MultiTaskCollator(processor, tasks_by_source={"zoo": resolve_tasks([ANIMALS])})
    rows = [{"image": random_image(), "animals": Image.fromarray(STORED), "source": "zoo"}]
    assert torch.equal(collator(rows)["labels"]["animals"][0], collator.collate_for_evaluation(rows)[1][0]["animals"])


def test_a_column_that_its_data_set_does_not_list_is_unknown_in_a_mixture():
    """It may be stored in any way, so another set's encoding would give wrong numbers."""
    rooms = resolve_tasks(["depth", "segmentation"])
    tasks_by_source = {"listed": rooms, "unlisted": {"segmentation": rooms["segmentation"]}}
    collator = MultiTaskCollator(MulTImageProcessor(size=SIZE, tasks=["depth", "segmentation"]), tasks_by_source=tasks_by_source)
    rows = [{"image": random_image(), "depth": depth_map(2), "source": source} for source in tasks_by_source]
    depth = collator(rows)["labels"]["depth"]
    assert (depth[0] == 2).all()
    assert depth[1].isnan().all()
    assert collator.collate_for_evaluation(rows)[1][1]["depth"].isnan().all()


@pytest.mark.parametrize("augmented", [False, True])
def test_the_pil_processor_gives_the_same_batch(processor, augmented):
    flip = RandomAugmentation(tasks=processor.task_specs, flip=1.0, zoom=(1, 1), degrees=0, brightness=0, contrast=0, saturation=0, hue=0)
    rows = [{"image": random_image(), "depth": depth_map(2)}, {"image": random_image()}]
    batches = [MultiTaskCollator(p, augment=flip if augmented else None)(rows) for p in (processor, MulTImageProcessorPil(size=SIZE))]
    torch.testing.assert_close(batches[0]["pixel_values"], batches[1]["pixel_values"])
    torch.testing.assert_close(batches[0]["labels"]["depth"], batches[1]["labels"]["depth"], equal_nan=True)


def test_a_seeded_row_gets_the_same_view_at_any_position(processor):
    collator = MultiTaskCollator(processor, augment=RandomAugmentation(tasks=processor.task_specs))
    row, other = {"image": random_image(), "augmentation_seed": 5}, {"image": random_image(), "augmentation_seed": 6}
    first, last = collator([row, other])["pixel_values"][0], collator([other, row])["pixel_values"][1]
    torch.testing.assert_close(first, last, rtol=0, atol=GRID_ROUNDING)  # bits may depend on the rest of the batch
    assert not torch.allclose(first, collator([other])["pixel_values"][0], atol=0.1)


def test_images_of_several_sizes_need_an_augmentation_with_a_fixed_size():
    processor = MulTImageProcessor(size={"shortest_edge": 32}, tasks=["depth"])
    rows = [{"image": random_image()}, {"image": random_image().resize((64, 32))}]
    with pytest.raises(ValueError, match=r"shapes \[\(3, 32, 48\), \(3, 32, 64\)\]; give .* a fixed size"):
        MultiTaskCollator(processor)(rows)
    window = RandomAugmentation(tasks=processor.task_specs, size=(24, 24))
    assert MultiTaskCollator(processor, augment=window)(rows)["pixel_values"].shape == (2, 3, 24, 24)


def test_a_row_without_an_image_is_refused_by_number(processor):
    with pytest.raises(ValueError, match=r"rows \[1\] of the batch have no image.*depth"):
        MultiTaskCollator(processor)([{"image": random_image()}, {"image": None, "depth": depth_map(1)}])


def test_the_entries_of_a_data_set_come_from_its_card(tmp_path):
    (tmp_path / "README.md").write_text("---\nmult_tasks:\n- name: depth\n  encoding: {dtype: uint16, scale: 0.001}\n---\nText.\n")
    assert load_task_entries(tmp_path) == [{"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001}}]


def test_a_missing_directory_is_named():
    with pytest.raises(ValueError, match="no/such/place is not a local directory"):
        load_task_entries("no/such/place")


@pytest.mark.parametrize(
    ("card", "message"), [(None, "has no README.md"), ("no header", "no list 'mult_tasks'"), ("---\nmult_tasks: 3\n---\n", "no list")]
)
def test_a_data_set_without_entries_is_refused(tmp_path, card, message):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    with pytest.raises(ValueError, match=message):
        load_task_entries(tmp_path)


def test_stored_targets_keep_the_size_and_values_of_their_files():
    """The model sees 32 x 48 pixels; the depth map has 8 x 12, with one pixel that any resizing would change."""
    stored = np.full((8, 12), 512, np.uint16)
    stored[3, 4] = 2048
    collator = MultiTaskCollator(MulTImageProcessor(size=SIZE, tasks=["depth", "segmentation"]))
    rows = [{"image": random_image().resize((96, 64)), "depth": Image.fromarray(stored)}, {"image": random_image(), "depth": None}]
    pixel_values, targets = collator.collate_for_evaluation(rows)
    torch.testing.assert_close(pixel_values, collator(rows)["pixel_values"])
    expected = torch.ones(1, 8, 12)
    expected[0, 3, 4] = 4.0
    assert torch.equal(targets[0]["depth"], expected)
    assert targets[0]["segmentation"].shape == (64, 96), "a missing map is unknown at the image's size"
    assert (targets[0]["segmentation"] == 255).all()
    assert targets[1]["depth"].shape == (1, 32, 48)
    assert targets[1]["depth"].isnan().all()


def test_stored_targets_of_a_mixture_are_decoded_with_their_own_encodings():
    millimetres = resolve_tasks([{"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001}}])
    collator = MultiTaskCollator(
        MulTImageProcessor(size=SIZE, tasks=["depth"]), tasks_by_source={"one": millimetres, "other": resolve_tasks(["depth"])}
    )
    rows = [{"image": random_image(), "depth": depth_map(2), "source": source} for source in ("one", "other")]
    targets = collator.collate_for_evaluation(rows)[1]
    assert [target["depth"].unique().item() for target in targets] == [pytest.approx(1.024), 2.0]


def test_images_with_several_prepared_sizes_do_not_form_a_batch():
    collator = MultiTaskCollator(MulTImageProcessor(size={"shortest_edge": 32}, tasks=["depth"]))
    rows = [{"image": random_image()}, {"image": random_image().transpose(Image.Transpose.ROTATE_90)}]
    with pytest.raises(ValueError, match=r"have sizes \[\(32, 48\), \(48, 32\)\]; use batches of one"):
        collator.collate_for_evaluation(rows)
    assert len(collator.collate_for_evaluation(rows[:1])[0]) == 1


def test_stored_targets_need_an_image_too(processor):
    with pytest.raises(ValueError, match=r"rows \[0\] of the batch have no image"):
        MultiTaskCollator(processor).collate_for_evaluation([{"depth": depth_map(1)}])
