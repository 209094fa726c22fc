"""Bytes of files, by key. `Blobs` is the seam; `LocalBlobs` keeps them in a directory."""

from server.blobs.local import LocalBlobs
from server.blobs.storage import Blobs, BlobWriter, StorageFullError

__all__ = ["BlobWriter", "Blobs", "LocalBlobs", "StorageFullError"]
