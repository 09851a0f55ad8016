"""What a user has settled on: `edgespec config`, and the file behind it."""

from edgespec.config.file import Config, read_config
from edgespec.config.options import OPTIONS, Option, Value

__all__ = ["OPTIONS", "Config", "Option", "Value", "read_config"]
