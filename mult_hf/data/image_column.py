"""The image columns of the rows that [`load_rows`][mult_hf.data.schema.load_rows] reads.

`datasets` turns an image with an EXIF orientation upright and drops the tag, so that nothing shows that a map of the same size is still
aligned with the file's unrotated pixels. It also opens files of every format that Pillow supports, including those that start other
programs.
"""

from io import BytesIO
from typing import Any

from datasets import Image as ImageFeature
from datasets.utils.file_utils import is_local_path
from PIL import Image as PILImage
from PIL import ImageOps

from mult_hf.model.alignment import APPLIED_ORIENTATION, UPRIGHT, orientation
from mult_hf.model.cameras import film_equivalent, with_film_equivalent
from mult_hf.model.images import open_image
from mult_hf.model.tiff import BROKEN, load_pixels


class Image(ImageFeature):
    """An image column that reads the package's formats only, and keeps the EXIF orientation that was applied to an image.

    It equals the column of `datasets` with the same settings, and is stored as one.
    """

    def decode_example(self, value: Any, token_per_repo_id: dict[str, Any] | None = None) -> PILImage.Image:
        """Decode a cell to an upright image.

        Args:
            value: a cell, `{"bytes": ..., "path": ...}`.
            token_per_repo_id: Hub tokens, for a path on the Hub.

        Raises:
            ValueError: if the file is broken or of another format.
        """
        if not isinstance(value, dict) or not self.decode or (value["bytes"] is None and not is_local_path(value["path"] or "")):
            return super().decode_example(value, token_per_repo_id)
        path, contents = value["path"] or "image", value["bytes"]
        image = open_image(path if contents is None else BytesIO(contents), path)
        turned, millimetres = orientation(image), film_equivalent(image)
        try:
            load_pixels(image)  # after its header was read, because Pillow applies the orientation of a TIFF file here, and forgets it
        except BROKEN as error:
            raise ValueError(f"{path} cannot be read completely: {error}") from error
        if turned != UPRIGHT:
            image = with_film_equivalent(ImageOps.exif_transpose(image), millimetres)
            image.info[APPLIED_ORIENTATION] = turned
        return image if self.mode in (None, image.mode) else with_film_equivalent(image.convert(self.mode), millimetres)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageFeature):
            return NotImplemented
        return (self.mode, self.decode, self.id) == (other.mode, other.decode, other.id)

    __hash__ = None  # type: ignore[assignment]  # as that of `datasets`


def as_image_columns(rows: Any) -> Any:
    """The same rows, or dictionary of splits, with image columns of type [`Image`]."""
    if isinstance(rows, dict):
        return type(rows)({split: as_image_columns(each) for split, each in rows.items()})
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, ImageFeature) and feature.decode and not isinstance(feature, Image):
            rows = rows.cast_column(column, Image(mode=feature.mode, id=feature.id))
    return rows


__all__ = ["Image", "as_image_columns"]
