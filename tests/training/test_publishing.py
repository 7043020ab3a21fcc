"""Proves which files of a training run are uploaded to the Hub."""

from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

from mult_hf.training.publishing import upload


def test_checkpoints_and_hidden_files_are_not_uploaded(tmp_path, monkeypatch):
    sent = []

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns):
        files = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        sent.extend(filter_repo_objects(files, ignore_patterns=ignore_patterns))
        return f"https://hub/{repo_id}"

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    results = ["README.md", "config.json", "model.safetensors", "panel.png", "evaluation/depth.png"]
    others = [
        ".env",
        ".run.lock",
        ".git/config",
        ".partial/model.safetensors",
        "runs/.env",
        "checkpoints/step_5/model.safetensors",
        "best/x.json",
    ]
    for name in [*results, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert upload(tmp_path, "me/mult-rooms") == "https://hub/me/mult-rooms"
    assert sorted(sent) == sorted(results)
