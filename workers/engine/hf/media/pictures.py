"""Bytes of a picture to the pixels a model sees: decoded within bounds, then brought between
`image_min_pixels` and `image_max_pixels` as LLaMA-Factory does it (`data/mm_plugin.py`,
`_preprocess_image`). Pictures stand upright, as transformers' `load_image` turns them.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.contract.messages import FailureKind
from workers.engine.backend import RefusedError

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
_MAX_DECODED_PIXELS = 64_000_000
"""A file of a few kilobytes may claim to be gigabytes of pixels."""
_LOW_DETAIL_PIXELS = 512 * 512
"""What OpenAI makes of `detail: low`."""


@dataclass(frozen=True, slots=True)
class PixelBounds:
    min_pixels: int
    max_pixels: int

    def with_detail(self, detail: str | None) -> PixelBounds:
        if detail != "low":
            return self
        most = min(self.max_pixels, _LOW_DETAIL_PIXELS)
        return PixelBounds(min(self.min_pixels, most), most)


def read_picture(data: bytes, bounds: PixelBounds, param: str) -> Image:
    """RGB. Raises RefusedError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MAX_DECODED_PIXELS:
                raise _refused(
                    f"The image has more than the {_MAX_DECODED_PIXELS} pixels allowed.", param
                )
            return fit(ImageOps.exif_transpose(picture), bounds)
    except Image.DecompressionBombError:
        message = f"The image has more than the {_MAX_DECODED_PIXELS} pixels allowed."
        raise _refused(message, param) from None
    except (OSError, ValueError, SyntaxError, EOFError):
        raise _refused("The image cannot be decoded.", param) from None


def fit(picture: Image, bounds: PixelBounds) -> Image:
    for limit, is_outside in (
        (bounds.max_pixels, int.__gt__),
        (bounds.min_pixels, int.__lt__),
    ):
        num_pixels = picture.width * picture.height
        if is_outside(num_pixels, limit):
            factor = math.sqrt(limit / num_pixels)
            size = (max(1, int(picture.width * factor)), max(1, int(picture.height * factor)))
            picture = picture.resize(size)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _refused(message: str, param: str) -> RefusedError:
    return RefusedError(FailureKind.INVALID_MEDIA, message, param)
