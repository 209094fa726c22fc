"""`tuneyard.yaml`: what the operator sets, with every default in one place."""

from server.config.entry import AdapterEntry, EngineKind, ModelEntry
from server.config.loading import BUNDLED_MODEL, SETTING_VARIABLES, ConfigError, load_config
from server.config.media import Media
from server.config.prices import Price
from server.config.service import Config, Cors, Limits, Training

__all__ = [
    "BUNDLED_MODEL",
    "SETTING_VARIABLES",
    "AdapterEntry",
    "Config",
    "ConfigError",
    "Cors",
    "EngineKind",
    "Limits",
    "Media",
    "ModelEntry",
    "Price",
    "Training",
    "load_config",
]
