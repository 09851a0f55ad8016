"""What a model is on disk: manifest, hashes, the catalog of pairs, fetching."""

from edgespec.bundle.bundle import Bundle
from edgespec.bundle.foreign import ForeignBundle
from edgespec.bundle.manifest import Checks, FileRecord, Manifest, Quality, Source
from edgespec.bundle.store import Store, default_store

__all__ = ["Bundle", "Checks", "FileRecord", "ForeignBundle", "Manifest", "Quality", "Source", "Store", "default_store"]
