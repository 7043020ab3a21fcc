"""Proves that a configuration has the paper's defaults, refuses invalid values, warns about misspelt names and is unchanged by JSON."""

import json
import logging
import re
from copy import deepcopy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from transformers import AutoConfig, ConvNextConfig, SwinConfig, SwinForImageClassification

from mult_hf import MULT_TASKS, MulTConfig, TaskSpec, registered_tasks
from mult_hf.model import configuration_mult
from mult_hf.model.configuration_mult import ATTENTION_SOURCES, PRESETS, BlockAttention

REFUSED = (ValueError, StrictDataclassError)  # strict configurations wrap the errors of their validators
STAGES = ["stage1", "stage2", "stage3", "stage4"]
EDGE_OCCLUSION = TaskSpec(name="edge_occlusion", kind="regression", channels=1, value_range=(0.0, 1.0), weight=0.25)


# Defaults.


def test_the_default_is_the_papers_six_tasks_and_sharing_on_a_swin_t():
    config = MulTConfig()
    assert list(config.task_specs) == list(MULT_TASKS)
    assert config.reference_task == "normals"
    assert config.block_attention == ["self", "encoder"]
    assert config.backbone_config.model_type == "swin"
    assert config.backbone_config.embed_dim == 96
    assert tuple(config.backbone_config.depths) == (2, 2, 6, 2)
    assert config.backbone_config.out_features == STAGES
    assert config.decoder_window_size == 7


def test_tasks_given_in_any_form_are_stored_as_full_entries():
    expected = [registered_tasks()["depth"].to_dict(), EDGE_OCCLUSION.to_dict()]
    assert MulTConfig(tasks=["depth", EDGE_OCCLUSION]).tasks == expected
    assert MulTConfig(tasks=[{"name": "depth"}, EDGE_OCCLUSION.to_dict()]).tasks == expected
    assert MulTConfig(tasks={"depth": registered_tasks()["depth"], "edge_occlusion": EDGE_OCCLUSION}).tasks == expected


def test_the_reference_task_is_normals_or_otherwise_the_first():
    assert MulTConfig(tasks=["depth", "normals"]).reference_task == "normals"
    assert MulTConfig(tasks=["edges2d", "depth"]).reference_task == "edges2d"
    assert MulTConfig(tasks=["depth", "normals"], reference_task="depth").reference_task == "depth"


def test_the_window_defaults_to_that_of_the_backbone(tiny_config):
    assert tiny_config().decoder_window_size == 4
    assert tiny_config(decoder_window_size=2).decoder_window_size == 2
    assert not hasattr(ConvNextConfig(), "window_size")
    assert MulTConfig(backbone_config={"model_type": "convnext"}).decoder_window_size == 7
    without_windows = {"model_type": "vitdet", "num_hidden_layers": 2, "out_features": ["stage2"], "window_size": 0}
    assert MulTConfig(backbone_config=without_windows).decoder_window_size == 7


def test_a_backbone_can_be_a_dict_or_a_configuration():
    swin = SwinConfig(embed_dim=8, num_heads=[1, 2, 4, 8], window_size=4, out_features=STAGES)
    from_object, from_dict = MulTConfig(backbone_config=swin), MulTConfig(backbone_config=swin.to_dict())
    assert type(from_dict.backbone_config) is SwinConfig
    assert from_dict.backbone_config.embed_dim == 8
    assert from_dict.to_dict() == from_object.to_dict()


def test_changing_a_configuration_does_not_change_later_ones():
    first = MulTConfig()
    first.tasks.clear()
    first.block_attention.append("self")
    assert len(MulTConfig().tasks) == 6
    assert MulTConfig().block_attention == ["self", "encoder"]


def test_a_configuration_does_not_share_the_callers_lists():
    per_stage = [["self", "encoder"] for _ in range(4)]
    config = MulTConfig(block_attention=per_stage)
    per_stage[0][0] = "reference"
    assert config.block_attention[0] == ["self", "encoder"]


# Presets.


# Swin Transformer (arXiv 2103.14030): section 3.3 gives C and the layer numbers, heads have 32 channels each, table 1 the millions of
# parameters of the classifiers with 1,000 classes (L: with ImageNet-22K pre-training).
SWIN_PAPER = {
    "swin-tiny": (96, (2, 2, 6, 2), 29),
    "swin-small": (96, (2, 2, 18, 2), 50),
    "swin-base": (128, (2, 2, 18, 2), 88),
    "swin-large": (192, (2, 2, 18, 2), 197),
}


@pytest.mark.parametrize("preset", SWIN_PAPER)
def test_a_preset_has_the_sizes_of_the_swin_paper(preset):
    channels, depths, millions = SWIN_PAPER[preset]
    backbone = MulTConfig.from_preset(preset).backbone_config
    assert (backbone.embed_dim, tuple(backbone.depths), backbone.window_size, backbone.patch_size) == (channels, depths, 7, 4)
    assert [channels * 2**stage / heads for stage, heads in enumerate(backbone.num_heads)] == [32] * 4
    assert backbone.out_features == STAGES
    with torch.device("meta"):
        classifier = SwinForImageClassification(SwinConfig(**{**backbone.to_dict(), "num_labels": 1000}))
    assert sum(parameter.numel() for parameter in classifier.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_the_presets_are_the_sizes_of_the_swin_paper():
    assert set(PRESETS) == set(SWIN_PAPER)


def test_a_preset_accepts_other_arguments_too():
    config = MulTConfig.from_preset("swin-base", tasks=["depth"], block_attention=["self", "self"], mlp_ratio=2.0)
    assert (list(config.task_specs), config.block_attention, config.mlp_ratio) == (["depth"], ["self", "self"], 2.0)


def test_using_a_preset_does_not_change_it(monkeypatch):
    monkeypatch.setattr(configuration_mult, "PRESETS", deepcopy(PRESETS))  # so that a change does not affect other tests
    MulTConfig.from_preset("swin-tiny").backbone_config.depths.append(2)
    assert tuple(MulTConfig.from_preset("swin-tiny").backbone_config.depths) == (2, 2, 6, 2)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"'swin-huge' is unknown; choose one of swin-tiny, swin-small, swin-base, swin-large"):
        MulTConfig.from_preset("swin-huge")


# Sources of the blocks' attention.


@pytest.mark.parametrize("source", ATTENTION_SOURCES)
def test_a_block_kind_has_a_source_and_an_optional_skip(source):
    assert BlockAttention.parse(source) == BlockAttention(source, skip=False)
    assert BlockAttention.parse(f"{source}+skip") == BlockAttention(source, skip=True)


def test_all_blocks_but_self_blocks_share():
    shared = {kind: BlockAttention.parse(kind).is_shared for kind in ("self", "self+skip", "encoder", "reference", "reference+skip")}
    assert shared == {"self": False, "self+skip": False, "encoder": True, "reference": True, "reference+skip": True}


@pytest.mark.parametrize(
    "kind", ["", "Self", "selfish", "encoder+", "+skip", "skip", "encoder+skip+skip", "encoder + skip", "encoder+self"]
)
def test_any_other_block_kind_is_refused(kind):
    with pytest.raises(ValueError, match=r"is not one of self, encoder, reference, each also with '\+skip'"):
        BlockAttention.parse(kind)
    with pytest.raises(REFUSED, match="is not one of self, encoder, reference"):
        MulTConfig(block_attention=["self", kind])


def test_one_list_of_kinds_applies_to_every_stage():
    config = MulTConfig(block_attention=["encoder+skip", "reference"])
    stage = [BlockAttention("encoder", True), BlockAttention("reference", False)]
    assert config.block_attention_of_stages(4) == [stage] * 4
    assert config.block_attention_of_stages(3) == [stage] * 3


def test_each_stage_may_have_its_own_kinds_and_number_of_blocks():
    config = MulTConfig(block_attention=[["self", "self"], ["self", "encoder"], ["encoder", "reference"] * 2, ["self+skip", "encoder"]])
    stages = config.block_attention_of_stages(4)
    assert [[block.source for block in stage] for stage in stages] == [
        ["self", "self"],
        ["self", "encoder"],
        ["encoder", "reference", "encoder", "reference"],
        ["self", "encoder"],
    ]
    assert [block.skip for block in stages[3]] == [True, False]


@pytest.mark.parametrize("given", [2, 5])
def test_a_wrong_number_of_lists_is_refused(given):
    config = MulTConfig(block_attention=[["self", "encoder"]] * given)
    with pytest.raises(ValueError, match=rf"{given} lists for 4 decoder stages; give one list, or one per stage"):
        config.block_attention_of_stages(4)


# Refusals: what was given, what is allowed.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": []}, r"tasks is \[\]; give at least one"),
        ({"tasks": ["dept"]}, r"task 'dept' is not registered \(did you mean 'depth'\?\); registered: segmentation, depth"),
        ({"tasks": ["depth", "depth"]}, r"task 'depth' comes twice"),
        ({"tasks": [{"name": "depth", "wieght": 1}]}, r"unknown fields \['wieght'\]"),
        ({"tasks": ["normals"], "reference_task": "depth"}, r"reference_task 'depth' is not one of the tasks \['normals'\]"),
        ({"block_attention": []}, r"blocks \[\]; their number must be even and at least 2"),
        ({"block_attention": ["self"]}, r"blocks \['self'\]; their number must be even"),
        ({"block_attention": ["self", "encoder", "self"]}, r"their number must be even"),
        ({"block_attention": [["self", "encoder"], ["self"]]}, r"blocks \['self'\]; their number must be even"),
        ({"block_attention": [["self", "encoder"], []]}, r"blocks \[\]; their number must be even"),
        ({"block_attention": ["self", ["self", "encoder"]]}, r"mixes kinds and lists"),
        ({"decoder_window_size": 0}, r"decoder_window_size is 0; it must be at least 1"),
    ],
    ids=str,
)
def test_an_impossible_configuration_is_refused(arguments, message):
    with pytest.raises(REFUSED, match=message):
        MulTConfig(**arguments)


def test_the_error_names_block_kinds_that_are_not_text():
    with pytest.raises(REFUSED, match="block_attention"):
        MulTConfig(block_attention=[1, 2])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("qkv_bias", "yes"),
        ("qkv_bias", 1),
        ("mlp_ratio", "4"),
        ("decoder_window_size", 4.5),
        ("decoder_window_size", True),
        ("reference_task", 3),
        ("tasks", "depth"),
        ("block_attention", "self"),
        ("decoder_num_attention_heads", [1.5, 2.0]),
        ("layer_norm_eps", "1e-5"),
        ("hidden_act", None),
    ],
)
def test_a_value_of_another_type_is_refused(argument, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=argument):
        MulTConfig(**{argument: value})


def test_a_configuration_with_a_later_invalid_value_is_not_saved(tmp_path):
    config = MulTConfig()
    config.reference_task = "depht"
    with pytest.raises(REFUSED, match="'depht' is not one of the tasks"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


# Misspelt names.


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("block_attentions", "block_attention"), ("mlp_ration", "mlp_ratio"), ("task", "tasks"), ("reference_tasks", "reference_task")],
)
def test_the_warning_for_a_misspelt_argument_suggests_the_right_one(misspelt, meant, caplog):
    with caplog.at_level(logging.WARNING):
        MulTConfig(**{misspelt: ["self", "self"]})
    assert f"does not know {misspelt!r}; it is stored but has no effect. Did you mean {meant!r}?" in caplog.text


def test_the_warning_for_an_unknown_argument_suggests_nothing_dissimilar(caplog):
    with caplog.at_level(logging.WARNING):
        MulTConfig(zzzz=1)
    assert "does not know 'zzzz'" in caplog.text
    assert "Did you mean" not in caplog.text


def test_known_arguments_and_those_of_transformers_do_not_warn(caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        config = MulTConfig(tasks=["depth"], mlp_ratio=2.0, output_hidden_states=True, architectures=["X"], dtype="float32")
        config.save_pretrained(tmp_path)
        MulTConfig.from_pretrained(tmp_path)
        AutoConfig.from_pretrained(tmp_path)
    assert caplog.text == ""


# Class names in transformers' attributes.


@pytest.mark.parametrize(
    "named", [{"backbone": "microsoft/swin-tiny-patch4-window7-224"}, {"backbone": "resnet50", "use_timm_backbone": True}]
)
def test_a_backbone_name_is_refused_before_the_hub_is_queried(named, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(ValueError, match=rf"takes no backbone='{named['backbone']}'.*MulTForMultiTaskDensePrediction\.from_backbone"):
        MulTConfig(**named)


def test_id2label_and_num_labels_set_the_entry_of_the_only_classification(caplog):
    with caplog.at_level(logging.WARNING):
        named = MulTConfig(tasks=["depth", "segmentation"], id2label={0: "floor", 1: "wall", 2: "rest"})
        numbered = MulTConfig(num_labels=4)
    assert caplog.text == ""
    assert (named.task_specs["segmentation"].channels, named.task_specs["segmentation"].class_names) == (3, ("floor", "wall", "rest"))
    assert (named.num_labels, named.label2id) == (3, {"floor": 0, "wall": 1, "rest": 2})
    assert (numbered.task_specs["segmentation"].channels, numbered.num_labels) == (4, 4)


def test_class_names_assigned_later_set_the_entry_too():
    config = MulTConfig()
    config.num_labels = 3
    assert (config.task_specs["segmentation"].channels, config.id2label) == (3, {0: "class 0", 1: "class 1", 2: "class 2"})
    config.id2label = {"1": "b", "0": "a"}
    assert (config.task_specs["segmentation"].class_names, config.num_labels) == (("a", "b"), 2)
    config.tasks = ["depth"]
    assert (config.tasks, config.id2label, config.num_labels) == ([registered_tasks()["depth"].to_dict()], {}, 0)


@pytest.mark.parametrize(
    "named", [{0: "floor", 2: "wall", 255: "rest"}, {1: "floor", 2: "wall"}, {0: "floor", "wall": 1}, {-1: "a", 0: "b"}]
)
def test_class_names_with_gaps_in_their_ids_are_refused_rather_than_renumbered(named):
    message = rf"id2label has the ids {re.escape(str(list(named)))}; give one name for each id from 0 to {len(named) - 1}"
    with pytest.raises(ValueError, match=message):
        MulTConfig(tasks=["segmentation"], id2label=named)
    config = MulTConfig(tasks=["segmentation"])
    with pytest.raises(ValueError, match=message):
        config.id2label = named
    assert config.task_specs == {"segmentation": registered_tasks()["segmentation"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["depth"], "id2label": {0: "floor"}}, r"id2label=\{0: 'floor'\} has no effect: 0 of the tasks \['depth'\] classify"),
        ({"tasks": ["depth"], "num_labels": 3}, "has no effect: 0 of the tasks"),
        ({"label2id": {"floor": 0}}, r"label2id=\{'floor': 0\} is not the inverse of id2label"),
    ],
)
def test_class_names_without_a_matching_task_give_a_warning(caplog, arguments, message):
    with caplog.at_level(logging.WARNING):
        MulTConfig(**arguments)
    assert re.search(message, caplog.text)


def test_options_are_completed_in_any_order():
    values = {"tasks": ["depth", "edges2d"], "backbone_config": {"model_type": "swin", "window_size": 5}, "decoder_type": "mult"}
    forwards, backwards = MulTConfig(**values), MulTConfig(**dict(reversed(values.items())))
    assert forwards.to_dict() == backwards.to_dict()
    assert (forwards.reference_task, forwards.decoder_window_size, forwards.block_attention) == ("depth", 5, ["self", "encoder"])


# Files.


def test_a_configuration_is_unchanged_after_saving_and_loading(tmp_path, tiny_config):
    config = tiny_config(
        tasks=["depth", {"name": "segmentation", "class_names": ["floor", "rest"]}, EDGE_OCCLUSION],
        block_attention=[["self", "encoder"], ["self+skip", "encoder"], ["encoder", "reference"], ["self", "self"]],
        reference_task="edge_occlusion",
        decoder_num_attention_heads=[8, 4, 2, 1],
        decoder_window_size=2,
        drop_path_rate=0.1,
        qkv_bias=False,
    )
    config.save_pretrained(tmp_path)
    for loaded in (MulTConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is MulTConfig
        assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
        assert loaded.task_specs == config.task_specs
        assert loaded.block_attention_of_stages(4) == config.block_attention_of_stages(4)


def test_a_configuration_can_be_built_from_its_dict():
    config = MulTConfig(tasks=["depth", EDGE_OCCLUSION], block_attention=["encoder", "reference"])
    entries = json.loads(json.dumps(config.to_dict()))
    assert MulTConfig.from_dict(entries).to_dict() == config.to_dict()


def test_config_json_contains_full_entries_even_of_the_default_tasks(tmp_path):
    MulTConfig().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["tasks"] == [registered_tasks()[task].to_dict() for task in MULT_TASKS]
    assert stored["reference_task"] == "normals"
    assert stored["model_type"] == "mult"


def test_config_json_names_the_pipelines_code_which_is_not_loaded_here(tmp_path):
    MulTConfig().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["custom_pipelines"]["multitask-vision"]["impl"] == "pipeline_mult.MultiTaskVisionPipeline"
    assert not hasattr(MulTConfig.from_pretrained(tmp_path), "custom_pipelines")


def test_a_task_that_was_never_registered_loads_from_config_json(tmp_path):
    MulTConfig(tasks=["normals", EDGE_OCCLUSION]).save_pretrained(tmp_path)
    assert "edge_occlusion" not in registered_tasks()
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.task_specs["edge_occlusion"] == EDGE_OCCLUSION
    assert "edge_occlusion" not in registered_tasks()


def test_a_saved_task_keeps_its_values_even_if_the_registered_task_differs(tmp_path):
    MulTConfig(tasks=[{"name": "depth", "value_range": [0, 80], "weight": 3.0}]).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path).task_specs["depth"]
    assert registered_tasks()["depth"].value_range == (0, 10)
    assert (loaded.value_range, loaded.weight) == ((0, 80), 3.0)


@pytest.mark.parametrize(("name", "instead"), [("decoder_window", "decoder_window_size"), ("task_specs", "tasks")])
def test_a_value_that_follows_from_others_cannot_be_given(name, instead):
    with pytest.raises(ValueError, match=rf"MulTConfig takes no '{name}', which follows from others; give {instead}"):
        MulTConfig(**{name: 4})
