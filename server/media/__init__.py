"""Pictures, video and sound of chat requests: from a URL to checked bytes.

Nothing here decodes them; that is the engine worker's work.
"""

from server.media.loading import MediaLoader

__all__ = ["MediaLoader"]
