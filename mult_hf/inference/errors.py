"""Errors of inference that callers handle."""


class ExportError(RuntimeError):
    """A model cannot be exported, its file cannot be kept, or the file's predictions differ from the model's."""


__all__ = ["ExportError"]
